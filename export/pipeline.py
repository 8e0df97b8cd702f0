"""Exporting a bundle: write the fp32 graph, check it, quantize it, check that, and only then seal.

Every check raises; when one fails, the bundle stays as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import onnx

from distill.bundle import BENCHMARK, GRAPH_OF_PRECISION, QUANTIZATION, TOKENIZER, WEIGHTS, Bundle
from distill.card import write_card
from distill.data import Dataset
from distill.errors import SettingsError, requires
from distill.evaluation.metrics import evaluate
from distill.machine import instruction_set
from distill.progress import Reporter, SilentReporter
from distill.scales import MAX_CALIBRATION_TEXTS, KnownScales, read_scales, scales_text
from distill.settings import Precision
from distill.storage import require_writable, write_atomically
from distill.texts import TextInput
from export.int8.calibration import calibration_split, channel_ranges
from export.int8.ladder import Baseline, Ladder, asked_form
from export.int8.linear import linear_inputs
from export.int8.parity import compare, parity_texts
from export.int8.quantize import quantize, scales_of_graph
from export.int8.size import embeddings_that_fit
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier

FEW_TEXTS = 200
"""With fewer texts for the gates, one text is more than the default budget of macro-F1, and export says so."""


Checked = tuple[onnx.ModelProto, dict[str, Any]]
"""A graph that passed its checks, and its figures for the manifest."""


def export_bundle(
    bundle: Bundle,
    *,
    validation: Dataset,
    settings: ExportSettings = ExportSettings(),
    reporter: Reporter | None = None,
) -> Bundle:
    """Write and verify the ONNX graphs of a bundle.

    Args:
        bundle: A bundle with PyTorch weights.
        validation: Labelled texts for the gates; never the test texts. For int8 with fixed scales, about a third of them
            calibrate and the others are judged.
        settings: Which graphs, and the budgets of the gates.
        reporter: Gets a message for each step.

    Returns:
        The bundle with these graphs and no others, and their quality on validation texts in the manifest.

    Raises:
        ParityError: The logits of the fp32 graph are not those of PyTorch.
        QualityError: int8 lost more than its budget.
        SettingsError: The labels or the task of the validation texts are not the bundle's, or there are too few texts.
        StorageError: The bundle's folder cannot be written.
    """
    reporter = reporter or SilentReporter()
    if (validation.problem_type, validation.labels) != (bundle.manifest.problem_type, bundle.labels):
        raise SettingsError(
            f"the bundle is for {bundle.manifest.problem_type} with labels {list(bundle.labels)}, the validation texts are for "
            f"{validation.problem_type} with labels {list(validation.labels)}; several labels of a text are a list in the "
            "label column, or separated by what --label-separator names"
        )
    require_writable(bundle.path)
    calibrating, judged = _split(validation, settings, reporter)
    fp32, baseline = _checked_fp32(bundle, validation, judged, settings, reporter)
    graphs: dict[Precision, Checked] = {"fp32": fp32}  # always made: int8 is derived from it and compared with it
    scales: KnownScales = {}
    if "int8" in settings.precisions:
        reporter.say("export: calibrating and quantizing to int8")
        scales = _activation_scales(fp32[0], bundle, calibrating, settings, reporter)
        graphs["int8"] = _checked_int8(fp32[0], scales, bundle, baseline, settings, reporter)
    return _seal(bundle, {name: graphs[name] for name in settings.precisions}, scales, settings)


def strip(bundle: Bundle) -> Bundle:
    """Drop the PyTorch weights: the bundle still serves, and cannot be trained on.

    Raises:
        BundleError: There is no graph yet, so nothing would be left to answer.
    """
    bundle.best_precision()
    return write_card(bundle, dropping={WEIGHTS})


def _split(validation: Dataset, settings: ExportSettings, reporter: Reporter) -> tuple[Sequence[TextInput], Dataset]:
    """Return the texts for calibration and those for the gates; without calibration, all texts are for the gates."""
    if "int8" not in settings.precisions or settings.activations == "dynamic":
        return (), validation
    calibrating, judged = calibration_split(validation)
    reporter.say(f"export: {len(calibrating)} validation texts are for calibration, {len(judged)} for the gates")
    if len(judged) < FEW_TEXTS:
        reporter.say(f"export: {len(judged)} are few: one is {1 / len(judged):.1%} of a figure; give more with --validation")
    return calibrating, judged


def _checked_fp32(
    bundle: Bundle, validation: Dataset, judged: Dataset, settings: ExportSettings, reporter: Reporter
) -> tuple[Checked, Baseline]:
    with requires("export"):
        from distill.models.loading import load_bundle
    model = load_bundle(bundle)
    reporter.say("export: writing the fp32 graph")
    graph = _with_metadata(written_graph(model, settings, reporter), bundle)
    classifier = OnnxClassifier.of_graph(graph.SerializeToString(), bundle)
    parity = compare(model, classifier, parity_texts(validation.texts))
    parity.require(settings.parity_tolerance)
    reporter.say(
        f"export: fp32 equals PyTorch to {parity.max_abs_diff:.1e} on {parity.num_texts} texts at batches {parity.batch_sizes}"
    )
    logits = classifier.predict_logits(judged.texts)
    quality = evaluate(labels=judged.label_ids, logits=logits, label_names=classifier.labels, problem_type=judged.problem_type)
    figures = {"split": "validation", **asdict(quality), "max_abs_diff": parity.max_abs_diff}
    return (graph, figures), Baseline(judged, logits, quality)


def _activation_scales(
    fp32: onnx.ModelProto, bundle: Bundle, texts: Sequence[TextInput], settings: ExportSettings, reporter: Reporter
) -> KnownScales:
    """Return the scales that the bundle already has, and calibrate the missing ones on these texts."""
    if settings.activations == "dynamic":
        return {}
    names = linear_inputs(fp32)
    own = {} if settings.recalibrate else read_scales(bundle)
    known = {name: own[name] for name in names if name in own}
    if known:
        reporter.say(f"export: {len(known)} of {len(names)} activation scales are the bundle's own")
    ranges = channel_ranges(fp32, [name for name in names if name not in known], texts=texts, tokenizer=bundle.tokenizer())
    source = (
        f"minimum and maximum over {min(len(texts), MAX_CALIBRATION_TEXTS)} validation texts, which the gates did not judge, "
        "and their first words"
    )
    return known | {name: (scales, source) for name, scales in scales_of_graph(fp32, ranges).items()}


def _checked_int8(
    fp32: onnx.ModelProto,
    known: KnownScales,
    bundle: Bundle,
    baseline: Baseline,
    settings: ExportSettings,
    reporter: Reporter,
) -> Checked:
    scales = {name: each for name, (each, _) in known.items()}
    ladder = Ladder(
        fp32,
        scales,
        embeddings_that_fit(bundle, fp32, settings, lambda form: quantize(fp32, scales, asked_form(settings, form))),
        settings,
        baseline,
        open_graph=lambda graph: OnnxClassifier.of_graph(graph.SerializeToString(), bundle),
    )
    graph, passed = ladder.first_that_passes(reporter)
    reporter.say(
        f"export: int8 ({passed.form}) macro-F1 {passed.quality.macro_f1:.4f} (fp32 {baseline.quality.macro_f1:.4f}), "
        f"the same label on {passed.change.agreement:.1%} of the texts"
    )
    figures = {"split": "validation", **asdict(passed.quality), "target": settings.target, **passed.figures()}
    return _with_metadata(graph, bundle), figures


def written_graph(model: TorchClassifier, settings: ExportSettings, reporter: Reporter) -> onnx.ModelProto:
    """Return the graph from the writer that was asked for, or from the first that can write this model."""
    from distill.models.static_network import StaticClassifier
    from export.graph.fused import expected_ops, write_fused_graph
    from export.graph.optimized import require_ops
    from export.graph.optimum import write_optimum_graph
    from export.graph.portable import write_portable_graph

    if settings.exporter == "optimum":
        return write_optimum_graph(model)
    is_static = isinstance(model.model, StaticClassifier)
    if settings.exporter == "portable" or (settings.exporter == "auto" and is_static):
        return write_portable_graph(model)
    try:
        graph = write_fused_graph(model)
    except SettingsError as exc:
        if settings.exporter == "fused":
            raise SettingsError(f"{exc}; use --exporter portable") from exc
        reporter.say(f"export: the portable writer writes this graph: {exc}")
        return write_portable_graph(model)
    require_ops(graph, expected_ops(graph))
    return graph


def _with_metadata(graph: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    """Write what a program needs to use the graph without the manifest into the graph, in place, and return it."""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(
        graph,
        {
            "labels": "\n".join(bundle.labels),
            "problem_type": bundle.manifest.problem_type,
            "max_length": str(bundle.manifest.max_length),
            "tokenizer_sha256": bundle.manifest.files[TOKENIZER].sha256,
        },
    )
    graph.producer_name = "potstill"
    return graph


def _seal(bundle: Bundle, graphs: Mapping[Precision, Checked], scales: KnownScales, settings: ExportSettings) -> Bundle:
    """Return the bundle with these graphs and no others and a new card, in one seal."""
    manifest = bundle.manifest
    contents = {GRAPH_OF_PRECISION[name]: graph.SerializeToString() for name, (graph, _) in graphs.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    listed = [GRAPH_OF_PRECISION[precision] for precision in manifest.precisions]
    outdated = {name for name in listed if digests.get(name) != manifest.files[name].sha256}
    opset = next(entry.version for graph, _ in graphs.values() for entry in graph.opset_import if entry.domain == "")
    if scales:
        contents[QUANTIZATION] = scales_text(scales).encode()
    with bundle.staging() as staged:
        for name, content in contents.items():
            write_atomically(staged / name, content)
        return write_card(
            bundle,
            {name: staged / name for name in contents},
            # A benchmark of a graph that is gone would be shown as one of the new graph.
            dropping=(outdated - contents.keys()) | ({BENCHMARK} if outdated else set()),
            precisions=tuple(graphs),
            opset=opset,
            instruction_set=instruction_set(),
            target=settings.target if "int8" in graphs else None,
            quality={
                **{name: figures for name, figures in manifest.quality.items() if name not in manifest.precisions},
                **{name: figures for name, (_, figures) in graphs.items()},
            },
            settings={**manifest.settings, "export": settings.model_dump(mode="json")},
            versions={**manifest.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
        )
