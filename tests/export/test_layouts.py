"""Other tools' layouts: the right files, the same bytes, a config that says what the graph takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError
from distill.settings import Precision
from export.layouts import triton_config, write_layout
from export.runtime.sessions import OnnxClassifier


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


SHARED = {"config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("optimum", SHARED | {"model.onnx", "model_quantized.onnx"}),
        ("transformers.js", SHARED | {"onnx/model.onnx", "onnx/model_quantized.onnx"}),
        ("bundle", {"model_int8.onnx", "tokenizer.json", "manifest.json"}),
        ("triton", {f"student/{name}" for name in ("config.pbtxt", "labels.txt", "tokenizer.json", "1/model.onnx")}),
    ],
)
def test_a_layout_has_the_files_its_tool_looks_for(
    layout: str, expected: set[str], tiny_student: Bundle, tmp_path: Path
) -> None:
    written = write_layout(tiny_student, layout, tmp_path / "out")
    assert files_below(tmp_path / "out") == expected == {str(path.relative_to(tmp_path / "out")) for path in written}
    for path in written:
        graph = {"model.onnx": "fp32", "model_quantized.onnx": "int8", "model_int8.onnx": "int8"}.get(path.name)
        if graph:
            source = tiny_student.graph("int8" if layout == "triton" else graph)
            assert path.read_bytes() == source.read_bytes()


def test_the_triton_config_says_what_the_graph_takes_and_gives(tiny_student: Bundle) -> None:
    config = triton_config(tiny_student, name="student", precision="int8")
    assert '{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }' in config
    assert '{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }' in config
    assert '{ name: "logits" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }' in config


@pytest.mark.parametrize(
    ("scales", "precision", "batched"), [("fixed", "int8", True), ("dynamic", "int8", False), ("dynamic", "fp32", True)]
)
def test_triton_batches_only_where_company_changes_no_answer(
    scales: str, precision: Precision, batched: bool, tiny_student: Bundle
) -> None:
    settings = {"export": {**tiny_student.manifest.settings["export"], "activations": scales}}
    bundle = replace(tiny_student, manifest=tiny_student.manifest.model_copy(update={"settings": settings}))
    assert ("dynamic_batching" in triton_config(bundle, name="student", precision=precision)) is batched


@pytest.mark.parametrize(
    ("layout", "graph"), [("optimum", "model.onnx"), ("transformers.js", "onnx/model.onnx"), ("triton", "student/1/model.onnx")]
)
def test_a_layout_has_only_the_graph_that_was_named(layout: str, graph: str, tiny_student: Bundle, tmp_path: Path) -> None:
    write_layout(tiny_student, layout, tmp_path / "out", precision="fp32")
    assert {name for name in files_below(tmp_path / "out") if name.endswith(".onnx")} == {graph}
    assert (tmp_path / "out" / graph).read_bytes() == tiny_student.graph("fp32").read_bytes()


def test_the_layout_bundle_is_what_must_be_shipped_and_answers_alike(tiny_student: Bundle, tmp_path: Path) -> None:
    write_layout(tiny_student, "bundle", tmp_path / "out")
    shipped = Bundle.open(tmp_path / "out")
    assert shipped.manifest.precisions == ("int8",)
    in_folder = sum(path.stat().st_size for path in shipped.path.iterdir())
    assert in_folder == shipped.size_bytes("int8") <= tiny_student.size_bytes("int8")
    texts = ["a lovely film", "dull"]
    expected = OnnxClassifier.open(tiny_student, precision="int8").predict_logits(texts)
    assert OnnxClassifier.open(shipped).predict_logits(texts).tolist() == expected.tolist()


def test_a_folder_that_holds_something_is_left_alone(tiny_student: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SettingsError, match="is not empty"):
        write_layout(tiny_student, "triton", tmp_path)


def test_a_bundle_without_a_graph_has_no_layout(tiny_unexported: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no ONNX graph"):
        write_layout(tiny_unexported, "optimum", tmp_path / "out")
    with pytest.raises(SettingsError, match="wanted one of"):
        write_layout(tiny_unexported, "tensorrt", tmp_path / "out")


def test_the_command_writes_a_layout_of_the_graphs_there_are(
    tiny_student: Bundle, tmp_path: Path, potstill: Callable[..., object]
) -> None:
    before = (tiny_student.path / "manifest.json").read_bytes()
    done = potstill("export", tiny_student.path, "--layout", "triton", "--layout-out", tmp_path / "repository")
    assert done.code == 0
    assert (tmp_path / "repository" / "student" / "config.pbtxt").exists()
    assert (tiny_student.path / "manifest.json").read_bytes() == before
    assert potstill("export", tiny_student.path, "--layout", "triton").code == 2
    assert potstill("export", tiny_student.path, "--layout-precision", "fp32").code == 2
