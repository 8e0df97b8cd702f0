"""The speed scenarios on real bundles and commands: quality beside speed, rows that fail, interrupted runs."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.harness.candidates import RowSettings, bundle_candidates, everything
from benchmarks.harness.running import command_of
from benchmarks.harness.scenario import Context, scenarios
from benchmarks.harness.speed import SpeedSettings, run_speed, speed_figures
from benchmarks.report.tables import first_words, speed_table
from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import PotstillError, SettingsError
from distill.evaluation.metrics import macro_f1
from distill.progress import SilentReporter
from export.runtime.sessions import OnnxClassifier

FAST = {"rounds": 6, "processes": 3, "settle_s": 0.3, "window_s": 0.05, "timeout_s": 120.0}
HANGS = f"{shlex.quote(sys.executable)} -c 'import time; time.sleep(60)'"


def always(answer: str) -> str:
    """Return a command that writes the same line for every text."""
    program = f"import sys\nfor line in sys.stdin: print({answer!r}, flush=True)"
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


class Bench:
    """Runs the scenario on the tiny texts."""

    def __init__(self, folder: Path, train: Path) -> None:
        self.work = folder / "work"
        self._data = {"train": (str(train),), "test": str(write_csv(folder / "test.csv", tiny_texts(200, seed=1)))}
        self.parts: Any = None

    def rows(self, *bundles: str, kind: Any = "single", commit: str = "a", **more: Any) -> dict[str, Any]:
        settings = SpeedSettings(bundles=bundles, **{**self._data, **FAST, **more})
        outcome = run_speed(kind, settings, Context(self.work, "single-stream", SilentReporter(), commit=commit))
        self.parts = outcome.parts
        return {row["name"]: row for row in outcome.rows}


@pytest.fixture
def bench(tmp_path: Path, tiny_csv: Path) -> Bench:
    return Bench(tmp_path, tiny_csv)


@pytest.fixture
def int8(tiny_student: Bundle) -> str:
    return f"{tiny_student.path}:int8"


@pytest.fixture
def ours(int8: str) -> str:
    return bundle_candidates([int8])[0].name


def test_a_row_has_the_quality_of_the_answers_that_were_timed(
    tiny_student: Bundle, tiny_teacher: Bundle, tiny_test: Dataset, bench: Bench, int8: str, ours: str
) -> None:
    rows = bench.rows(int8, teacher=tiny_teacher.path)
    row = rows[ours]
    logits = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(tiny_test.texts)
    assert row["macro_f1"] == pytest.approx(macro_f1(tiny_test.label_ids, logits))
    assert row["predicted"] == "".join(map(str, logits.argmax(axis=1)))
    assert row["num_texts"] == sum(len(each) for each in row["latency_us"]) == len(tiny_test)
    assert row["p50_ms"]["low"] <= row["p50_ms"]["value"] <= row["p50_ms"]["high"]
    assert row["p99_ms"] is None  # 200 samples; it wants 662
    # CI's check of speed: a ratio within one run, whatever the machine's mood; a graph of two layers against PyTorch with four.
    assert row["p50_ratio"]["value"] > 1
    assert row["retention"]["value"] == pytest.approx(row["macro_f1"] / rows["teacher PyTorch"]["macro_f1"])
    # What `report` chooses by: answers to the validation texts, of what can be deployed.
    assert len(row["validation_predicted"]) == len(bench.parts["validation_truth"]) > 0
    assert "validation_predicted" not in rows["teacher PyTorch"]
    text = json.dumps(rows, allow_nan=False)
    assert str(tiny_student.path) not in text
    assert str(bench.work) not in text


def test_many_texts_at_once_give_a_rate_and_every_process_warms_up_for_them(tiny_student: Bundle, bench: Bench) -> None:
    rows = bench.rows(str(tiny_student.path), kind="many")
    row = next(row for name, row in rows.items() if name.endswith("int8"))
    assert row["reference"].endswith("fp32")
    assert row["texts_per_second"]["value"] == pytest.approx(np.median(row["texts_per_second_rounds"]), rel=0.5)
    assert row["process_of_round"] == [0, 0, 1, 1, 2, 2]
    assert all(each["calls"] >= 2 for each in row["warmup"])
    figures = speed_figures("many", {"rows": list(rows.values())})
    assert row["rate_ratio"]["value"] in figures.values()


def test_a_command_is_a_row_and_its_labels_have_no_calibration(tiny_test: Dataset, bench: Bench, int8: str) -> None:
    row = bench.rows(int8, external=(f"mine={always(tiny_test.labels[1])}",))["mine"]
    assert row["accuracy"] == pytest.approx(float((tiny_test.label_ids == 1).mean()))
    assert row["expected_calibration_error"] is None
    assert set(row["predicted"]) == {"1"}


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (always("<html>"), "the command wrote '<html>', wanted one of"),
        (f"{shlex.quote(sys.executable)} -c 'import sys; sys.exit(7)'", "the command ended with code 7"),
        ("a-command-that-is-not-there", "No such file or directory"),
        (HANGS, "did not answer within 10 s"),
    ],
    ids=["garbage", "dies", "not there", "hangs"],
)
def test_a_row_that_fails_says_why_and_the_others_are_measured(
    command: str, word: str, bench: Bench, int8: str, ours: str
) -> None:
    rows = bench.rows(int8, external=(f"broken={command}",), timeout_s=10.0 if command == HANGS else 120.0, texts=40)
    assert word in rows["broken"]["failed"]
    assert "macro_f1" not in rows["broken"]
    assert "p50_ms" not in rows["broken"]
    assert rows[ours]["macro_f1"] > 0.5
    assert any(line.startswith("Left out, broken") for line in first_words(list(rows.values())))
    lines = speed_table({"rows": list(rows.values()), "reads": "40 texts"}).splitlines()
    assert lines[2].startswith(f"| {ours} | ")
    assert "failed: " in lines[3]
    assert lines[2].count(" | ") == lines[0].count(" | ")


def test_an_address_that_does_not_answer_is_a_row_with_the_reason(bench: Bench, int8: str) -> None:
    assert "no answer from 127.0.0.1" in bench.rows(int8, url=("gone=http://127.0.0.1:9/",), texts=40)["gone"]["failed"]


def test_without_the_reference_there_is_no_result(tiny_student: Bundle, bench: Bench, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(tiny_student.path, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(PotstillError):
        bench.rows(f"{broken}:int8", str(tiny_student.path))


def test_finished_rows_are_not_measured_again_unless_settings_or_code_changed(tiny_student: Bundle, bench: Bench) -> None:
    def times(**more: Any) -> dict[str, Any]:
        return {name: row["latency_us"] for name, row in bench.rows(str(tiny_student.path), texts=40, **more).items()}

    first = times()
    assert times() == first
    kept = sorted((bench.work / "single-stream" / "rows").iterdir())
    assert len(kept) == 2
    kept[0].unlink()
    kept[1].write_text('{"half a row')  # as an interrupted write would leave it, if it could
    again = times()
    assert all(again[name] != found for name, found in first.items())
    assert times(commit="b") != again
    assert times(seed=1) != again


@pytest.mark.parametrize("given", ["PATH:int4", "PATH:q8"])
def test_a_form_that_is_not_there_is_refused(given: str, tiny_student: Bundle) -> None:
    with pytest.raises((SettingsError, PotstillError)):
        bundle_candidates([given.replace("PATH", str(tiny_student.path))])


def test_without_bundles_everything_that_the_scenario_quality_trained_is_a_row(tmp_path: Path) -> None:
    context, quality = Context(tmp_path, "single-stream", SilentReporter()), tmp_path / "quality"
    for name in ("teacher-0", "slim-0", "2_layers-0", "2_layers-1", "static-0"):
        (quality / name).mkdir(parents=True)
        if name not in ("teacher-0", "static-0"):
            (quality / name / "model_int8.onnx").touch()
    found = everything(RowSettings(), context)
    assert found.bundles == (str(quality / "2_layers-0"), str(quality / "slim-0"))  # the first seed of what was exported
    assert (found.teacher, found.weights) == (quality / "teacher-0", quality / "2_layers-0")
    assert (found.peers, found.floors) == (("all",), True)
    assert everything(RowSettings(peers=("openvino",)), context).peers == ("openvino",)
    with pytest.raises(SettingsError, match="run `python -m benchmarks quality --quick` first, or name a bundle"):
        everything(RowSettings(), replace(context, work=tmp_path / "quick", quick=True))


def test_two_rows_of_one_name_are_refused(int8: str, bench: Bench) -> None:
    with pytest.raises(SettingsError, match="two rows would both be called"):
        bench.rows(int8, int8)


def test_a_result_names_its_command_with_what_was_set_and_no_place_on_this_machine(tiny_student: Bundle) -> None:
    settings = SpeedSettings(bundles=(f"{tiny_student.path}:int8",), peers=("stock",), floors=True, settle_s=4, texts=700)
    found = command_of(scenarios()["offline"], settings, work=Path(".results"))
    assert found == "python -m benchmarks offline --settle-s 4 --bundles BUNDLE:int8 --peers stock --floors --texts 700"
