"""Exporting a bundle: write the fp32 graph, prove it, quantize it, prove that, and only then seal.

Each gate raises; on failure the bundle is what it was before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import onnx

from distill.bundle import BENCHMARK, GRAPH_OF_PRECISION, QUANTIZATION, TOKENIZER, WEIGHTS, Bundle, FileEntry
from distill.card import write_card
from distill.data import Dataset
from distill.errors import SettingsError, requires
from distill.evaluation.metrics import Quality, evaluate
from distill.machine import instruction_set
from distill.progress import Reporter, SilentReporter
from distill.scales import MAX_CALIBRATION_TEXTS, KnownScales, read_scales, scales_text
from distill.settings import Precision
from distill.storage import require_writable, write_atomically
from export.int8.calibration import calibration_split, channel_ranges
from export.int8.ladder import Baseline, asked_form, first_that_passes
from export.int8.parity import compare, parity_texts
from export.int8.quantize import product_inputs, quantize, scales_of_graph
from export.int8.size import embeddings_that_fit
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier

FEW_TEXTS = 200
"""Fewer texts than this for the gates are reported: one of them is more than the default budget of macro-F1."""


def export_bundle(
    bundle: Bundle,
    *,
    validation: Dataset,
    settings: ExportSettings | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Write and verify the ONNX graphs of a bundle.

    Args:
        bundle: A bundle with PyTorch weights.
        validation: Labelled texts for the gates; never the test texts.
        settings: Which graphs, and the budgets of the gates.
        reporter: Told of each step.

    Returns:
        The bundle with these graphs and no other, their quality on `validation` in the manifest.

    Raises:
        ParityError: The fp32 graph does not answer as PyTorch does.
        QualityError: int8 lost more than its budget.
        StorageError: The bundle's folder cannot be written.
    """
    settings = settings or ExportSettings()
    reporter = reporter or SilentReporter()
    if validation.problem_type != bundle.manifest.problem_type:
        raise SettingsError(
            f"the bundle is for {bundle.manifest.problem_type}, the validation texts for {validation.problem_type}; "
            "several labels a text stand in the label column as a list, or with --label-separator between them"
        )
    if validation.labels != bundle.labels:
        raise SettingsError(f"the bundle's labels are {list(bundle.labels)}, the validation texts' {list(validation.labels)}")
    require_writable(bundle.path)
    graphs, quality, scales = _proven_graphs(bundle, validation, settings, reporter)
    return _seal_graphs(bundle, graphs, quality, scales, settings)


def _seal_graphs(
    bundle: Bundle,
    graphs: Mapping[Precision, onnx.ModelProto],
    quality: Mapping[Precision, dict[str, Any]],
    scales: KnownScales,
    settings: ExportSettings,
) -> Bundle:
    """Return the bundle with these graphs and no other, its card renewed, in one seal."""
    manifest = bundle.manifest
    contents = {GRAPH_OF_PRECISION[precision]: graph.SerializeToString() for precision, graph in graphs.items()}
    kept = {name for name, content in contents.items() if name in manifest.files and _is_listed(manifest.files[name], content)}
    outdated = {GRAPH_OF_PRECISION[precision] for precision in manifest.precisions} - kept
    if scales:
        contents[QUANTIZATION] = scales_text(scales).encode()
    with bundle.staging() as staged:
        for name, content in contents.items():
            write_atomically(staged / name, content)
        return write_card(
            bundle,
            {name: staged / name for name in contents},
            # A measurement of a graph that is gone would be shown as if it were of the new one.
            dropping=(outdated - contents.keys()) | ({BENCHMARK} if outdated else set()),
            precisions=tuple(graphs),
            opset=next(entry.version for graph in graphs.values() for entry in graph.opset_import if entry.domain == ""),
            instruction_set=instruction_set(),
            target=settings.target if "int8" in graphs else None,
            quality={**{name: of for name, of in manifest.quality.items() if name not in manifest.precisions}, **quality},
            settings={**manifest.settings, "export": settings.model_dump(mode="json")},
            versions={**manifest.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
        )


def _is_listed(entry: FileEntry, content: bytes) -> bool:
    return entry.sha256 == hashlib.sha256(content).hexdigest()


def strip(bundle: Bundle) -> Bundle:
    """Drop the PyTorch weights: what is left serves, and cannot be trained on.

    Raises:
        BundleError: There is no graph yet, so nothing would be left to answer.
    """
    bundle.best_precision()
    return write_card(bundle, dropping={WEIGHTS})


def _proven_graphs(
    bundle: Bundle, validation: Dataset, settings: ExportSettings, reporter: Reporter
) -> tuple[dict[Precision, onnx.ModelProto], dict[Precision, dict[str, Any]], KnownScales]:
    with requires("export"):
        from distill.models.loading import load_bundle
    torch_classifier = load_bundle(bundle)
    reporter.say("export: writing the fp32 graph")
    fp32 = _with_metadata(_written(torch_classifier, settings, reporter), bundle)
    classifier = OnnxClassifier.of_graph(fp32.SerializeToString(), bundle)
    parity = compare(torch_classifier, classifier, parity_texts(validation.texts))
    parity.require(settings.parity_tolerance)
    reporter.say(
        f"export: fp32 equals PyTorch to {parity.max_abs_diff:.1e} on {parity.num_texts} texts at batches {parity.batch_sizes}"
    )
    judged = validation
    calibrating: Sequence[str] = ()
    if "int8" in settings.precisions and settings.activations == "fixed":
        calibrating, judged = calibration_split(validation)
        reporter.say(f"export: {len(calibrating)} validation texts are for calibration, {len(judged)} for the gates of int8")
        if len(judged) < FEW_TEXTS:
            reporter.say(
                f"export: {len(judged)} texts are few, each is {1 / len(judged):.1%} of a figure; give more with --validation"
            )
    before, fp32_logits = _quality_of(classifier, judged)
    graphs: dict[Precision, onnx.ModelProto] = {"fp32": fp32}  # always made: int8 is made of it and measured against it
    quality: dict[Precision, dict[str, Any]] = {"fp32": _said(before, max_abs_diff=parity.max_abs_diff)}
    known: KnownScales = {}
    if "int8" in settings.precisions:
        reporter.say("export: calibrating and quantizing to int8")
        known = _activation_scales(fp32, bundle, calibrating, settings, reporter)
        baseline = Baseline(judged, fp32_logits, before)
        graphs["int8"], quality["int8"] = _proven_int8(fp32, known, bundle, baseline, settings, reporter)
    wanted = dict.fromkeys(settings.precisions)
    return {name: graphs[name] for name in wanted}, {name: quality[name] for name in wanted}, known


def _activation_scales(
    fp32: onnx.ModelProto, bundle: Bundle, texts: Sequence[str], settings: ExportSettings, reporter: Reporter
) -> KnownScales:
    """Return the scales that the bundle brings, and calibrate what is missing."""
    if settings.activations == "dynamic":
        return {}
    names = product_inputs(fp32)
    brought = {} if settings.recalibrate else read_scales(bundle)
    known = {name: brought[name] for name in names if name in brought}
    if known:
        reporter.say(f"export: {len(known)} of {len(names)} activation scales are the bundle's own")
    missing = [name for name in names if name not in known]
    if not missing:
        return known
    ranges = channel_ranges(fp32, missing, texts=texts, tokenizer=bundle.tokenizer())
    count = min(len(texts), MAX_CALIBRATION_TEXTS)
    source = f"minimum and maximum over {count} validation texts, which the gates did not judge, and their first words"
    return known | {name: (scales, source) for name, scales in scales_of_graph(fp32, ranges).items()}


def _proven_int8(
    fp32: onnx.ModelProto,
    known: KnownScales,
    bundle: Bundle,
    baseline: Baseline,
    settings: ExportSettings,
    reporter: Reporter,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    scales = {name: each for name, (each, _) in known.items()}
    tables = embeddings_that_fit(bundle, fp32, settings, lambda form: quantize(fp32, scales, asked_form(settings, form)))
    graph, passed = first_that_passes(
        fp32,
        scales,
        embeddings=tables,
        settings=settings,
        baseline=baseline,
        open_graph=lambda graph: OnnxClassifier.of_graph(graph.SerializeToString(), bundle),
        reporter=reporter,
    )
    reporter.say(
        f"export: int8 ({passed.rung.name}) macro-F1 {passed.quality.macro_f1:.4f} (fp32 {baseline.quality.macro_f1:.4f}), "
        f"one label on {passed.change.agreement:.1%} of the texts"
    )
    return _with_metadata(graph, bundle), _said(passed.quality, target=settings.target, **passed.figures())


def _written(classifier: TorchClassifier, settings: ExportSettings, reporter: Reporter) -> onnx.ModelProto:
    """Return the graph of the writer asked for, or of the first that can."""
    from export.graph.fused import expected_ops, write_fused_graph
    from export.graph.optimized import require_ops
    from export.graph.optimum import write_optimum_graph
    from export.graph.portable import write_portable_graph

    if settings.exporter == "optimum":
        return write_optimum_graph(classifier)
    if settings.exporter == "portable":
        return write_portable_graph(classifier)
    try:
        graph = write_fused_graph(classifier)
    except SettingsError as exc:
        if settings.exporter == "fused":
            raise
        reporter.say(f"export: the portable writer, because {exc}")
        return write_portable_graph(classifier)
    require_ops(graph, expected_ops(graph))
    return graph


def _quality_of(classifier: OnnxClassifier, validation: Dataset) -> tuple[Quality, Any]:
    logits = classifier.predict_logits(validation.texts)
    quality = evaluate(
        labels=validation.label_ids, logits=logits, label_names=classifier.labels, problem_type=validation.problem_type
    )
    return quality, logits


def _said(quality: Quality, **more: Any) -> dict[str, Any]:
    return {"split": "validation", **asdict(quality), **more}


def _with_metadata(graph: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    """Write into the graph what one needs to use it alone."""
    said = {
        "labels": "\n".join(bundle.labels),
        "problem_type": bundle.manifest.problem_type,
        "max_length": str(bundle.manifest.max_length),
        "tokenizer_sha256": bundle.manifest.files[TOKENIZER].sha256,
    }
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, said)
    graph.producer_name = "potstill"
    return graph
