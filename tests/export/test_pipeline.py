"""Exporting seals proven graphs, or leaves the bundle byte for byte as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_task import Listening

import distill.bundle
from distill.bundle import BENCHMARK, CARD, WEIGHTS, Bundle
from distill.data import Dataset, Splits
from distill.errors import BundleError, GateError, ParityError, QualityError, SettingsError, StorageError
from distill.evaluation.intervals import wilson_interval
from distill.labels import task_of
from distill.models.families import FAMILIES
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from distill.scales import read_scales
from distill.settings import DistillSettings, Precision
from distill.students.static_student import build_static
from export import pipeline
from export.graph.fused import FUSED_OPSET
from export.graph.portable import OPSET
from export.int8.calibration import calibration_split
from export.int8.linear import linear_inputs
from export.pipeline import export_bundle, strip, written_graph
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

Copied = Callable[[Bundle], Bundle]
GRAPHS = {"model.onnx", "model_int8.onnx"}
SCALES = "quantization.json"


def contents(bundle: Bundle) -> dict[str, bytes]:
    """Return every file below the bundle's folder, hidden ones included."""
    return {str(file.relative_to(bundle.path)): file.read_bytes() for file in bundle.path.rglob("*") if file.is_file()}


@pytest.fixture
def written_before(tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Let the writer give this graph, which it wrote of the same student before, so that a test can damage it."""
    graph = onnx.load(tiny_student.graph("fp32"))
    monkeypatch.setattr("export.graph.fused.write_fused_graph", lambda classifier: graph)
    return graph


@pytest.fixture
def damaging_quantizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the quantizer lose a class: the first one has 100 more in its logit."""
    from export.int8.quantize import quantize

    def losing(graph: onnx.ModelProto, *more: Any) -> onnx.ModelProto:
        damaged = quantize(graph, *more)
        (last,) = [node for node in damaged.graph.node if "logits" in node.output]
        last.output[0] = "undamaged"
        damaged.graph.initializer.append(numpy_helper.from_array(np.float32([100, 0]), "damage"))
        damaged.graph.node.append(helper.make_node("Add", ["undamaged", "damage"], ["logits"]))
        return damaged

    monkeypatch.setattr("export.int8.ladder.quantize", losing)


def test_graphs_are_sealed_with_how_they_were_made(tiny_student: Bundle, tiny_unexported: Bundle) -> None:
    manifest = Bundle.open(tiny_student.path).manifest
    assert manifest.precisions == ("fp32", "int8")
    assert manifest.opset == FUSED_OPSET
    assert manifest.instruction_set
    assert manifest.settings["export"]["budget_f1"] == 0.005
    assert manifest.settings["student"] == tiny_unexported.manifest.settings["student"]
    assert {"onnx", "onnxruntime", "torch"} <= manifest.versions.keys()
    assert manifest.lineage == tiny_unexported.manifest.lineage
    assert {*manifest.files} == {*tiny_unexported.manifest.files, *GRAPHS, SCALES}
    assert manifest.target == "portable"
    assert set(contents(tiny_student)) == {*manifest.files, "manifest.json"}
    assert manifest.files[WEIGHTS] == tiny_unexported.manifest.files[WEIGHTS]


def test_graphs_are_sealed_with_their_quality_on_the_validation_texts(tiny_student: Bundle, tiny_splits: Splits) -> None:
    _, validation = calibration_split(tiny_splits.validation)  # the gates judge what did not calibrate
    labels: dict[str, np.ndarray] = {}
    for precision in ("fp32", "int8"):
        logits = OnnxClassifier.open(tiny_student, precision=precision).predict_logits(validation.texts)
        labels[precision] = logits.argmax(axis=1)
        quality = tiny_student.manifest.quality[precision]
        assert quality["split"] == "validation"
        assert quality["num_texts"] == len(validation)
        assert quality["accuracy"] == pytest.approx(np.mean(labels[precision] == validation.label_ids))
        for index, name in enumerate(validation.labels):
            recall = np.mean(labels[precision][validation.label_ids == index] == index)
            assert quality["per_class"][name]["recall"] == pytest.approx(recall)
    assert 0 < tiny_student.manifest.quality["fp32"]["max_abs_diff"] < 1e-4
    agreed = float(np.mean(labels["fp32"] == labels["int8"]))
    int8 = tiny_student.manifest.quality["int8"]
    assert int8["agreement_with_fp32"] == agreed
    assert int8["agreement_with_fp32_interval"] == pytest.approx(wilson_interval(agreed, len(validation)))
    assert int8["labels_changed_by_batch"] == 0
    assert int8["probability_change_by_batch"] <= 1e-4
    assert (int8["target"], int8["form"]) == ("portable", "7-bit weights, fixed scales, int8 tables")
    assert "pytorch" in tiny_student.manifest.quality


def test_fp32_alone_is_judged_on_all_texts_and_few_texts_are_reported(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    listening = Listening()
    settings = ExportSettings(**FP32_ONLY)
    exported = export_bundle(copied(tiny_unexported), validation=tiny_splits.validation, settings=settings, reporter=listening)
    assert exported.manifest.quality["fp32"]["num_texts"] == 100
    assert not any("few" in said for said in listening.said)
    both = export_bundle(exported, validation=tiny_splits.validation, reporter=listening)
    judged = both.manifest.quality["int8"]["num_texts"]
    assert both.manifest.quality["fp32"]["num_texts"] == judged < 100
    assert any("few" in said and str(judged) in said and "--validation" in said for said in listening.said)


def test_a_graph_alone_tells_how_to_use_it(tiny_student: Bundle) -> None:
    tokenizer = hashlib.sha256((tiny_student.path / "tokenizer.json").read_bytes()).hexdigest()
    for name in GRAPHS:
        graph = onnx.load(tiny_student.path / name)
        assert {prop.key: prop.value for prop in graph.metadata_props} == {
            "labels": "negative\npositive",
            "problem_type": "single_label_classification",
            "max_length": "32",
            "tokenizer_sha256": tokenizer,
        }
        assert graph.producer_name == "potstill"


def test_int8_keeps_no_table_and_no_large_product_in_fp32(tiny_student: Bundle) -> None:
    def matrices(precision: Precision, dtype: type[np.generic]) -> list[np.ndarray]:
        held = onnx.load(tiny_student.graph(precision)).graph.initializer
        return [value for tensor in held if (value := numpy_helper.to_array(tensor)).ndim == 2 and value.dtype == dtype]

    # Words and positions; query, key, value, output and the two of the feed-forward part in each of 2 layers; the pooler.
    assert len(matrices("int8", np.int8)) == 2 + 2 * 6 + 1
    left = [value.shape for value in matrices("int8", np.float32) if value.shape[1] > 1]  # scales are one column
    assert left in ([(2, 64)], [(64, 2)])  # the head
    assert tiny_student.graph("int8").stat().st_size < 0.45 * tiny_student.graph("fp32").stat().st_size


def test_int8_gives_a_text_one_answer_whatever_its_batch_mates(tiny_student: Bundle, tiny_test: Dataset) -> None:
    # A scale for the whole batch, the usual way, changes 2 % of the labels and moves probabilities by up to 0.6.
    int8 = OnnxClassifier.open(tiny_student, threads=1)
    together = task_of(int8.problem_type).probabilities(int8.predict_logits(tiny_test.texts))
    alone = task_of(int8.problem_type).probabilities(np.concatenate([int8.predict_logits([text]) for text in tiny_test.texts]))
    assert np.abs(together - alone).max() < 1e-3
    np.testing.assert_array_equal(together.argmax(axis=1), alone.argmax(axis=1))


def test_the_card_shows_each_graphs_figures(tiny_student: Bundle) -> None:
    card = (tiny_student.path / CARD).read_text(encoding="utf-8")
    for name, quality in tiny_student.manifest.quality.items():
        assert f"| {name}, validation | {quality['num_texts']} | {quality['macro_f1']:.4f} |" in card


def test_exporting_twice_gives_the_same_bundle(tiny_student: Bundle, copied: Copied, tiny_splits: Splits) -> None:
    bundle = copied(tiny_student)
    before = contents(bundle)
    again = export_bundle(bundle, validation=tiny_splits.validation)
    assert contents(Bundle.open(again.path)) == before


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Return the files listed by each manifest that is written from here on."""
    listed: list[set[str]] = []
    write = distill.bundle.write_atomically

    def writing(path: Path, content: bytes) -> None:
        listed.append(set(json.loads(content)["files"]))
        write(path, content)

    monkeypatch.setattr(distill.bundle, "write_atomically", writing)
    return listed


@pytest.mark.usefixtures("written_before")
def test_exporting_again_seals_once_and_never_stops_listing_unchanged_graphs(
    tiny_student: Bundle, copied: Copied, tiny_splits: Splits, sealed: list[set[str]]
) -> None:
    bundle = copied(tiny_student)
    export_bundle(bundle, validation=tiny_splits.validation)
    assert sealed == [{*bundle.manifest.files}]


@pytest.mark.usefixtures("written_before")
def test_replacing_graphs_seals_once_after_it_stopped_listing_them(
    tiny_student: Bundle, copied: Copied, tiny_splits: Splits, sealed: list[set[str]]
) -> None:
    bundle = copied(tiny_student)
    settings = ExportSettings(precisions=("int8",), target="vnni")
    exported = export_bundle(bundle, validation=tiny_splits.validation, settings=settings)
    assert len(sealed) == 2
    assert "model_int8.onnx" not in sealed[0]
    assert sealed[1] == {*exported.manifest.files} == {*bundle.manifest.files} - {"model.onnx"}
    assert set(contents(Bundle.open(exported.path))) == {*exported.manifest.files, "manifest.json"}


@pytest.mark.usefixtures("written_before")
@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [(ExportSettings(), True), (ExportSettings(target="vnni"), False), (ExportSettings(precisions=("fp32",)), False)],
    ids=["same graphs", "another int8 graph", "no int8 graph"],
)
def test_a_measurement_is_dropped_with_the_graphs_it_measured(
    settings: ExportSettings, is_kept: bool, tiny_student: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    bundle = copied(tiny_student)
    with bundle.staging() as staged:
        (staged / BENCHMARK).write_text("{}")
        bundle = bundle.adding({BENCHMARK: staged / BENCHMARK})
    exported = export_bundle(bundle, validation=tiny_splits.validation, settings=settings)
    assert (BENCHMARK in exported.manifest.files) is is_kept
    assert (exported.path / BENCHMARK).exists() is is_kept


@pytest.mark.usefixtures("damaging_quantizer")
def test_int8_that_lost_a_class_seals_nothing(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits, written_before: onnx.ModelProto
) -> None:
    bundle = copied(tiny_unexported)
    before = contents(bundle)
    with pytest.raises(QualityError, match="nothing was sealed") as caught:
        export_bundle(bundle, validation=tiny_splits.validation)
    assert caught.value.metric == "macro-F1"
    # All texts get the first label: its F1 is 2 s / (1 + s) with the share s of texts that have it, the other's is 0.
    _, judged = calibration_split(tiny_splits.validation)
    share = float(np.mean(judged.label_ids == 0))
    assert caught.value.after == pytest.approx(share / (1 + share))
    assert caught.value.budget == pytest.approx(2 / len(judged))  # two texts are always allowed
    assert contents(bundle) == before


@pytest.mark.usefixtures("damaging_quantizer", "written_before")
def test_a_failed_gate_leaves_the_earlier_graphs(tiny_student: Bundle, copied: Copied, tiny_splits: Splits) -> None:
    bundle = copied(tiny_student)
    before = contents(bundle)
    wide = ExportSettings(budget_f1=1, budget_recall=1, budget_ece=1, min_agreement=0.99)
    with pytest.raises(QualityError) as caught:
        export_bundle(bundle, validation=tiny_splits.validation, settings=wide)
    assert caught.value.metric == "agreement with fp32"
    assert contents(bundle) == before
    Bundle.open(bundle.path)


def test_a_graph_that_differs_from_pytorch_seals_nothing(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits, written_before: onnx.ModelProto
) -> None:
    (bias,) = [tensor for tensor in written_before.graph.initializer if tensor.name == "embedding.beta"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    bundle = copied(tiny_unexported)
    before = contents(bundle)
    with pytest.raises(ParityError) as caught:
        export_bundle(bundle, validation=tiny_splits.validation)
    assert caught.value.max_abs_diff > caught.value.tolerance == 1e-4
    assert caught.value.worst_text in (*tiny_splits.validation.texts, " ".join(tiny_splits.validation.texts))
    assert contents(bundle) == before


@pytest.mark.usefixtures("written_before")
def test_an_interruption_or_a_full_disk_leaves_the_bundle_as_it_was(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(SilentReporter):
        def say(self, text: str) -> None:
            if "quantizing" in text:
                raise KeyboardInterrupt

    bundle = copied(tiny_unexported)
    before = contents(bundle)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(bundle, validation=tiny_splits.validation, reporter=Interrupting())
    assert contents(bundle) == before

    write = pipeline.write_atomically

    def full_at_the_second(path: Path, content: bytes) -> None:
        if path.name == "model_int8.onnx":
            raise StorageError("cannot write: no space left on device")
        write(path, content)

    monkeypatch.setattr(pipeline, "write_atomically", full_at_the_second)
    with pytest.raises(StorageError):
        export_bundle(bundle, validation=tiny_splits.validation)
    assert contents(bundle) == before


def test_a_folder_that_cannot_be_written_is_found_before_any_work(
    tiny_unexported: Bundle, tmp_path: Path, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(classifier: object) -> onnx.ModelProto:
        raise AssertionError("nothing may be written before the folder is known to be writable")

    monkeypatch.setattr("export.graph.fused.write_fused_graph", no_work)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        export_bundle(Bundle(tmp_path / "file", tiny_unexported.manifest), validation=tiny_splits.validation)


@pytest.mark.usefixtures("written_before")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_only_the_graphs_asked_for_are_sealed(
    precision: str, tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    bundle = copied(tiny_unexported)
    exported = export_bundle(bundle, validation=tiny_splits.validation, settings=ExportSettings(precisions=(precision,)))
    assert exported.manifest.precisions == (precision,)
    assert len(GRAPHS & set(contents(exported))) == len(GRAPHS & exported.manifest.files.keys()) == 1
    assert set(exported.manifest.quality) == {"pytorch", precision}
    assert exported.manifest.opset == FUSED_OPSET
    assert OnnxClassifier.open(exported.path).predict_logits(["dull"]).shape == (1, 2)


@pytest.mark.usefixtures("written_before")
def test_a_graph_no_longer_asked_for_goes(tiny_student: Bundle, copied: Copied, tiny_splits: Splits) -> None:
    exported = export_bundle(
        copied(tiny_student), validation=tiny_splits.validation, settings=ExportSettings(precisions=("fp32",))
    )
    assert exported.manifest.precisions == ("fp32",)
    assert "int8" not in exported.manifest.quality
    assert set(contents(Bundle.open(exported.path))) == {*exported.manifest.files, "manifest.json"}
    assert "model_int8.onnx" not in exported.manifest.files


FP32_ONLY = {"precisions": ("fp32",)}


def test_the_portable_writer_may_be_asked_for(tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits) -> None:
    settings = ExportSettings(exporter="portable", **FP32_ONLY)
    exported = export_bundle(copied(tiny_unexported), validation=tiny_splits.validation, settings=settings)
    assert exported.manifest.opset == OPSET
    assert {entry.domain for entry in onnx.load(exported.graph("fp32")).opset_import} == {""}


def test_a_model_the_fused_writer_cannot_write_is_written_by_the_other_and_said_or_refused(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "bert", replace(FAMILIES["bert"], supports=frozenset()))
    bundle, listening = copied(tiny_unexported), Listening()
    with pytest.raises(SettingsError, match="not BertForSequenceClassification; use --exporter portable"):
        export_bundle(bundle, validation=tiny_splits.validation, settings=ExportSettings(exporter="fused", **FP32_ONLY))
    exported = export_bundle(
        bundle, validation=tiny_splits.validation, settings=ExportSettings(**FP32_ONLY), reporter=listening
    )
    assert exported.manifest.opset == OPSET
    assert any("the portable writer writes this graph: the fused writer knows" in said for said in listening.said)


def test_a_static_student_has_one_writer_and_nothing_is_said_of_it(tiny_teacher: Bundle) -> None:
    student, listening = build_static(load_bundle(tiny_teacher), DistillSettings(kind="static"), seed=0), Listening()
    assert {entry.domain for entry in written_graph(student, ExportSettings(), listening).opset_import} == {""}
    assert listening.said == []
    with pytest.raises(SettingsError, match="not StaticClassifier; use --exporter portable"):
        written_graph(student, ExportSettings(exporter="fused"), listening)


def test_only_the_target_decides_how_wide_weights_are(
    tiny_student: Bundle, tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    settings = ExportSettings(target="vnni", precisions=("int8",))
    wide = export_bundle(copied(tiny_unexported), validation=tiny_splits.validation, settings=settings)
    assert wide.manifest.target == "vnni"
    largest = []
    for bundle in (tiny_student, wide):
        held = onnx.load(bundle.graph("int8")).graph.initializer
        weights = [numpy_helper.to_array(tensor) for tensor in held if tensor.name.endswith("weights_int8")]
        largest.append(max(np.abs(values.astype(int)).max() for values in weights))
    assert largest == [63, 127]


@pytest.mark.usefixtures("written_before")
def test_scales_that_the_bundle_brings_are_used_and_the_missing_ones_calibrated(
    tiny_student: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    bundle = copied(tiny_student)
    brought = json.loads((bundle.path / SCALES).read_text())
    names = sorted(brought["inputs"])
    calibrating, _ = calibration_split(tiny_splits.validation)
    assert names == sorted(linear_inputs(onnx.load(bundle.graph("fp32"))))
    assert (
        brought["inputs"][names[0]]["source"]
        == f"minimum and maximum over {len(calibrating)} validation texts, which the gates did not judge, and their first words"
    )
    learned = brought["inputs"][names[0]]
    learned["source"], learned["step"] = "learned", [step * 1.5 for step in learned["step"]]
    del brought["inputs"][names[1]]
    with bundle.staging() as staged:
        (staged / SCALES).write_text(json.dumps(brought))
        bundle = bundle.adding({SCALES: staged / SCALES})
    listening = Listening()
    exported = export_bundle(bundle, validation=tiny_splits.validation, reporter=listening)
    assert f"export: {len(names) - 1} of {len(names)} activation scales are the bundle's own" in listening.said
    after, before = read_scales(exported), read_scales(tiny_student)
    assert after[names[0]][1] == "learned"
    np.testing.assert_allclose(after[names[0]][0].step, 1.5 * before[names[0]][0].step, rtol=1e-6)
    np.testing.assert_array_equal(after[names[1]][0].step, before[names[1]][0].step)
    anew = export_bundle(exported, validation=tiny_splits.validation, settings=ExportSettings(recalibrate=True))
    np.testing.assert_array_equal(read_scales(anew)[names[0]][0].step, before[names[0]][0].step)


@pytest.mark.usefixtures("written_before")
def test_dynamic_scales_are_an_option_that_the_batch_gate_leaves_alone(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    settings = ExportSettings(activations="dynamic", precisions=("int8",))
    exported = export_bundle(copied(tiny_unexported), validation=tiny_splits.validation, settings=settings)
    assert SCALES not in exported.manifest.files
    assert "labels_changed_by_batch" not in exported.manifest.quality["int8"]
    ops = {node.op_type for node in onnx.load(exported.graph("int8")).graph.node}
    assert "DynamicQuantizeMatMul" in ops
    assert "QuantizeLinear" not in ops


@pytest.mark.usefixtures("written_before")
def test_a_size_that_cannot_be_met_is_refused_with_the_student_that_would(
    tiny_unexported: Bundle, copied: Copied, tiny_splits: Splits
) -> None:
    bundle = copied(tiny_unexported)
    before = contents(bundle)
    with pytest.raises(GateError, match=r"0\.\d+ MB with int4 tables.* 0\.05 MB.*width of 32"):
        export_bundle(bundle, validation=tiny_splits.validation, settings=ExportSettings(max_size_mb=0.05))
    assert contents(bundle) == before


def test_texts_with_other_labels_or_label_order_are_refused(tiny_unexported: Bundle, tiny_splits: Splits) -> None:
    validation = tiny_splits.validation
    turned = Dataset(validation.texts, 1 - validation.label_ids, ("positive", "negative"), validation.source)
    with pytest.raises(SettingsError, match=r"\['negative', 'positive'\].*\['positive', 'negative'\]"):
        export_bundle(tiny_unexported, validation=turned)


def test_stripping_drops_the_weights_and_answers_as_before(tiny_student: Bundle, copied: Copied, tiny_test: Dataset) -> None:
    texts = tiny_test.texts[:20]
    expected = OnnxClassifier.open(tiny_student).predict_logits(texts)
    stripped = Bundle.open(strip(copied(tiny_student)).path)
    assert WEIGHTS not in stripped.manifest.files
    assert not (stripped.path / WEIGHTS).exists()
    np.testing.assert_array_equal(OnnxClassifier.open(stripped).predict_logits(texts), expected)
    assert stripped.manifest.quality == Bundle.open(tiny_student.path).manifest.quality


def test_a_stripped_bundle_cannot_be_exported_again(tiny_student: Bundle, copied: Copied, tiny_splits: Splits) -> None:
    stripped = strip(copied(tiny_student))
    before = contents(stripped)
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        export_bundle(stripped, validation=tiny_splits.validation)
    assert contents(stripped) == before


def test_a_bundle_without_graphs_keeps_its_weights(tiny_unexported: Bundle, copied: Copied) -> None:
    bundle = copied(tiny_unexported)
    before = contents(bundle)
    with pytest.raises(BundleError, match="has no ONNX graph"):
        strip(bundle)
    assert contents(bundle) == before
