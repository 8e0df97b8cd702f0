"""`potstill fit` from end to end, on the tiny task: what it writes, what it does not do again, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answer_folders import kept_answer, write_answers
from tiny_task import Listening, Outcome, tiny_texts, write_csv

from distill.asking.teaching import labelled_by
from distill.bundle import Bundle
from distill.data import Splits, load_splits
from distill.settings import DataSettings
from distill.teachers.named import labels_of_named
from export.fitting.job import prepared
from export.fitting.reporting.result import FitReport
from export.fitting.run import STAGES, NothingFitsError, fit
from export.settings import FitSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("short_fits")]

SETTINGS = FitSettings(max_mb=5, effort="quick", recipes=("3-layers", "2-layers", "1-layer", "static"), unsure="choose")


def report_rows(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "report.json").read_text(encoding="utf-8"))["rows"]
    return rows


def trained(reporter: Listening) -> list[str]:
    return [text.partition(":")[0] for text in reporter.said if text.endswith(": training")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits") / "run"


@pytest.fixture(scope="module")
def found(out: Path, tiny_teacher: Bundle, tiny_splits: Splits) -> FitReport:
    return fit(tiny_splits, out=out, teacher=tiny_teacher, settings=SETTINGS)


def test_a_bundle_becomes_a_proven_student(found: FitReport, out: Path) -> None:
    student = Bundle.open(out / "student")
    student.graph("int8")
    assert student.manifest.calibration_temperature == found.temperature
    assert found.temperature is not None
    assert None not in (found.ece, found.ece_uncalibrated)
    assert (out / "report.html").is_file()
    winner = next(form for form in found.forms if form.status == "winner")
    assert winner.name == found.winner
    assert winner.kept is not None
    assert winner.kept > 0.9
    assert found.measured_on == "test"
    assert {form.recipe for form in found.forms} == {"3-layers", "2-layers", "1-layer", "static"}
    assert all(form.predicted_bytes < 5_000_000 for form in found.forms if form.status != "over_budget")
    assert any(form.rungs and form.rungs[0].share == 0.25 for form in found.forms)
    assert tuple(found.minutes) == STAGES


def test_what_becomes_of_unsure_answers_was_chosen_and_learnt(found: FitReport, out: Path) -> None:
    assert found.unsure is not None
    assert [each.way for each in found.unsure.tried] == ["keep", "weigh", "leave_out"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["unsure"]["way"] == found.unsure.way
    assert "Answers the teacher is unsure of" in (out / "report.html").read_text(encoding="utf-8")
    assert Bundle.open(out / "student").manifest.settings["student"]["unsure"] == found.unsure.way


def test_the_report_has_the_rows_of_a_benchmark(found: FitReport, out: Path) -> None:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["schema"], report["winner"]) == (1, found.winner)
    named = [(row["name"], row["precision"], row["runtime"]) for row in report["rows"]]
    for row in (
        ("teacher", "fp32", "pytorch"),
        ("student_no_distillation", "fp32", "pytorch"),
        ("student", "fp32", "onnxruntime"),
        ("student", "int8", "onnxruntime"),
        ("tfidf", "fp32", "scikit-learn"),
        ("majority", "fp32", "none"),
    ):
        assert row in named
    assert all(row["num_texts"] == found.num_texts["test"] for row in report["rows"])
    timed = {(row["name"], row["precision"]) for row in report["rows"] if row["p50_ms"] is not None}
    assert timed == {("teacher", "fp32"), ("student", "int8")}  # a quick run times no more; these were timed to be chosen from:
    assert all(form.measured_ms for form in found.forms if form.status in ("winner", "finalist"))


def test_the_control_learnt_from_the_labels_alone(found: FitReport, out: Path) -> None:
    assert found.winner is not None
    recipe = found.winner.partition("/")[0]
    control = Bundle.open(out / "tried" / "control" / f"{recipe}-control-seed-0").manifest
    assert control.settings["student"]["soft_weight"] == 0
    assert control.lineage.unlabeled_fingerprint is None
    assert len(control.history) < 60  # it stops when nothing gets better


def test_a_second_run_repeats_nothing(found: FitReport, out: Path, tiny_teacher: Bundle, tiny_splits: Splits) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    reporter = Listening()
    again = fit(tiny_splits, out=out, teacher=tiny_teacher, settings=SETTINGS, reporter=reporter)
    assert trained(reporter) == []
    assert not any("weighing untrained" in text for text in reporter.said)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before
    assert (again.winner, again.verdict, again.forms) == (found.winner, found.verdict, found.forms)


def test_a_damaged_student_is_made_again(found: FitReport, out: Path, tiny_teacher: Bundle, tiny_splits: Splits) -> None:
    weights = out / "student" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = fit(tiny_splits, out=out, teacher=tiny_teacher, settings=SETTINGS)
    assert again.winner == found.winner
    Bundle.open(out / "student")


def test_a_budget_that_nothing_keeps_names_what_binds(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = FitSettings(max_ms=0.0001, max_mb=0.01, effort="quick", recipes=("2-layers",))
    with pytest.raises(NothingFitsError) as caught:
        fit(tiny_splits, out=tmp_path, teacher=tiny_teacher, settings=settings)
    assert caught.value.exit_code == 4
    assert caught.value.report.binding == ("max_ms", "max_mb")
    assert caught.value.report.nearest
    assert (tmp_path / "report.json").is_file()


def test_a_share_that_nothing_keeps_is_refused_with_what_comes_nearest(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    few = replace(tiny_splits, train=tiny_splits.train.take(range(24)))
    settings = FitSettings(effort="quick", recipes=("static",), min_kept=1.0)
    with pytest.raises(
        NothingFitsError, match=r"No student keeps --min-kept\. Nearest: .* keeps \d\d\.\d% of the teacher"
    ) as caught:
        fit(few, out=tmp_path, teacher=tiny_teacher, settings=settings)
    assert {form.status for form in caught.value.report.forms} == {"over_budget"}
    assert all(form.validation and form.kept and form.kept < 1 for form in caught.value.report.forms)


def test_the_command_plans_fits_and_prints(
    potstill: Callable[..., Outcome], tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    test = write_csv(tmp_path / "test.csv", tiny_texts(200, seed=1))
    flags = ("--teacher", tiny_teacher.path, "--train", tiny_csv, "--test", test, "--effort", "quick", "--recipes", "2-layers")
    plan = potstill("fit", *flags, "--out", tmp_path / "run", "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert [form["name"].partition("/")[0] for form in json.loads(plan.out)["forms"]] == ["2-layers"] * 2
    assert not (tmp_path / "run").exists()

    done = potstill("fit", *flags, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    assert report["winner"].startswith("2-layers/")
    by_name = {(row["name"], row["precision"]): row["macro_f1"] for row in report_rows(tmp_path / "run")}
    best_floor = max(by_name["tfidf", "fp32"], by_name["majority", "fp32"])
    assert report["floor_wins"] == (best_floor >= by_name["student", "int8"])
    assert report["floor_gap"]["value"] == pytest.approx(by_name["student", "int8"] - best_floor, abs=1e-4)

    refused = potstill("fit", *flags, "--out", tmp_path / "run", "--max-mb", "0.01")
    assert refused.code == 4
    assert "--max-mb" in refused.complaint
    Bundle.open(tmp_path / "run" / "student")  # what was there stays


def test_the_answers_of_a_language_model_are_teacher_and_labels(tmp_path: Path) -> None:
    labels = ("negative", "positive")
    folder = write_answers(tmp_path / "answers", labels, [kept_answer(text, label, labels) for text, label in tiny_texts(300)])
    source = f"answers:{folder}"
    splits = load_splits(DataSettings(), labels=labels_of_named([source]), train=labelled_by([source]))
    listening = Listening()
    job = prepared(splits, source, (), SETTINGS, listening)
    assert job.encoder is None
    # One vote, and a fifth of a vote divided among two labels: (1 + 0.1) / 1.2
    shares = job.splits.train.task.probabilities(job.teacher.asked.predict_logits(job.splits.train.texts))
    assert shares.max(axis=1) == pytest.approx(1.1 / 1.2, abs=1e-6)
    assert any("agreement with that model" in text for text in listening.said)
