"""What a student takes: the processor's peak, the copy that ships; and intervals by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.harness.footprint import int8_peak_multiply_adds_per_second
from benchmarks.harness.interval_simulation import simulated_coverage
from benchmarks.harness.texts import measured_on, task_texts
from benchmarks.harness.weights import portable_graph, shipped, write_portable
from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset
from distill.settings import DataSettings
from export.graph import portable
from export.measure.protocol import Job
from export.runtime.sessions import OnnxClassifier


def test_the_peak_is_a_rate_that_a_processor_may_have() -> None:
    assert 1e8 < int8_peak_multiply_adds_per_second(size=256, repeats=3) < 1e14


def test_what_ships_answers_and_has_no_weights(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    copy = Bundle.open(shipped(tiny_student.path, tmp_path / "copy"))
    assert not {WEIGHTS, "model.onnx"} & set(copy.manifest.files)
    texts = tiny_test.single_texts()[:4]
    answers = [OnnxClassifier.open(each, precision="int8").predict_logits(texts) for each in (tiny_student, copy)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert "model.onnx" in Bundle.open(shipped(tiny_student.path, tmp_path / "copy", without=())).manifest.files


def test_the_graph_that_peers_start_from_is_exported_once(
    tiny_teacher: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = onnx.helper.make_model(onnx.helper.make_graph([], "a graph", [], []))
    exported: list[object] = []

    def write_portable_graph(model: object) -> onnx.ModelProto:
        exported.append(model)
        return written

    monkeypatch.setattr(portable, "write_portable_graph", write_portable_graph)
    for _ in range(2):
        path = write_portable(tiny_teacher.path, tmp_path / "weights")
        assert onnx.load(path).graph.name == "a graph"
    assert len(exported) == 1  # a later run finds the file


def test_texts_of_other_sources_are_those_that_are_in_no_split(tiny_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text(tiny_csv.read_text() + "a text of its own,positive\n")
    splits, unlabeled = task_texts(DataSettings(train=(str(tiny_csv),)), [str(tmp_path / "more.csv")])
    assert unlabeled == ("a text of its own",)
    assert measured_on(splits) is splits.validation  # without test texts


def test_the_graph_of_all_peers_is_beside_their_folders(tmp_path: Path) -> None:
    assert portable_graph(Job(tmp_path, tmp_path / "weights" / "stock", 1)) == tmp_path / "weights" / "portable.onnx"


@pytest.mark.parametrize("figure", ["macro_f1", "gain", "retention"])
def test_simulated_intervals_hold_the_truth_about_as_often_as_they_say(figure: str) -> None:
    found = simulated_coverage(3, "equal", figure=figure, trials=60, texts=100, samples=100)  # type: ignore[arg-type]
    assert 0.85 <= found.coverage <= 1.0
    assert 0.8 < found.width_ratio < 4.0
    again = simulated_coverage(3, "equal", figure=figure, trials=60, texts=100, samples=100)  # type: ignore[arg-type]
    assert again == found
