"""The field's scenarios end to end: a small set of the same layout, the packaged encoder as teacher and as base."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.field import running, shapes
from benchmarks.field.logits import PublishedLogits
from benchmarks.field.making import FieldBench, answered
from benchmarks.field.running import field_part, run_field
from benchmarks.field.study import SST2, FieldSettings, FieldStudy
from benchmarks.harness.results import FOLDER, read_result, rewrite_result, write_result
from benchmarks.harness.scenario import Context, Outcome
from benchmarks.harness.speed import SpeedSettings
from distill.bundle import WEIGHTS, Bundle
from distill.data import limited, read_texts
from distill.data.builtin import load_builtin
from distill.errors import SettingsError
from distill.labels import Logits
from distill.progress import SilentReporter
from distill.settings import BUILTIN_MINILM, DataSettings
from distill.teacher_settings import TeacherSettings
from distill.teachers.teacher import Teacher
from distill.texts import TextInput
from distill.training import pace
from export.runtime.sessions import OnnxClassifier

# It fine-tunes the packaged encoder.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("timed_here")]

STUDY = replace(
    SST2,
    model=BUILTIN_MINILM,
    teacher=TeacherSettings(epochs=3, batch_size=16, learning_rate=1e-4, max_length=32),
    recipes=("6-layers", "2-layers"),
    seeds=(0, 1),
    copies=1,
    share=0.005,
    changes={"batch_size": 16, "max_length": 32},
    speed=SpeedSettings(rounds=3, processes=3, texts=12, settle_s=0.2),
)


class Words(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the layout of SST-2: sentences, phrases of some of them, two sets that measure, further texts."""
    folder = tmp_path_factory.mktemp("set")
    whole, measuring = load_builtin("movies")
    train, measuring = limited(whole, 500, seed=0), limited(measuring, 120, seed=0)

    def write(name: str, rows: list[tuple[str, str]]) -> None:
        lines = "".join(f"{label}\t{text}\n" for label, text in rows)
        (folder / name).write_text(f"label\ttext\n{lines}", encoding="utf-8")

    def rows(data: Any) -> list[tuple[str, str]]:
        return [(str(data.label_names(place)), " ".join(text.split()).lower()) for place, text in enumerate(data.texts)]

    phrases = [(label, " ".join(text.split()[2:9])) for label, text in rows(train)[:250] if len(text.split()) > 12]
    write("train.tsv", [*rows(train), *phrases])
    write("dev.tsv", rows(measuring)[::2])
    write("test.tsv", rows(measuring)[1::2])
    further = limited(load_builtin("amazon")[0], 80, seed=0).texts
    text = "\n".join(" ".join(str(one).split()) for one in (*further, *measuring.texts[:10]))
    (folder / "further.txt").write_text(f"text\n{text}\n", encoding="utf-8")
    (folder / "further.txt").rename(folder / "further.tsv")
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> FieldStudy:
    return replace(STUDY, unlabeled=(str(folder / "further.tsv"),))


def kept(
    study: FieldStudy, settings: FieldSettings, work: Path, reporter: SilentReporter, *, results: Path | None = None
) -> None:
    """Run a study and write its result as the command does."""
    results = results or work / "results"

    def save(found: Outcome) -> None:
        figures = field_part({"scenario": study.name, "rows": found.rows, **found.parts})
        given = {"command": "a test", "environment": {}, "rows": found.rows, "figures": figures}
        write_result(study.name, **given, folder=found.folder or results, **found.parts)

    save(run_field(study, settings, Context(work.parent, SST2.name, reporter, out=results, save=save)))


@pytest.fixture(scope="module")
def work(study: FieldStudy, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the work folder of a run, with the result; do not change it."""
    work = tmp_path_factory.mktemp("work") / SST2.name
    reporter = Words()
    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SHAPES", dict.fromkeys(shapes.SHAPES, small))
        patch.setattr(pace, "WORTH_SAYING_S", 0.0)  # on a fast processor this teacher takes less
        kept(study, FieldSettings(data=folder), work, reporter)
    (work / "said.txt").write_text("\n".join(reporter.said))
    return work


def result(work: Path) -> dict[str, Any]:
    return read_result("sst2", folder=work / "results")


def test_every_figure_is_there_and_follows_from_the_answers_of_the_bundles(work: Path, study: FieldStudy, folder: Path) -> None:
    found = result(work)
    assert found["missing"] == []
    names = ("6_layers", "2_layers")
    of_student = ("dev_accuracy", "test_accuracy", "retention", "p50_ratio_teacher", "p50_ratio_stock_distilbert", "size_bytes")
    assert found["figures"].keys() == {
        "teacher_dev_accuracy",
        "teacher_test_accuracy",
        "teacher_p50_ms",
        *(f"{figure}_{name}" for figure in of_student for name in names),
    }
    truth = np.array(found["truth"]["dev"])
    texts = [line.split("\t")[1] for line in (folder / "dev.tsv").read_text().splitlines()[1:]]
    right = []
    for seed in study.seeds:
        graph = OnnxClassifier.open(Bundle.open(work / "students" / f"2-layers-seed-{seed}"), precision="int8")
        right.append(np.mean([graph.predict_logits([text])[0].argmax() for text in texts] == truth))
    assert found["figures"]["dev_accuracy_2_layers"] == pytest.approx(np.mean(right))
    assert found["figures"]["retention_2_layers"] == pytest.approx(
        found["figures"]["dev_accuracy_2_layers"] / found["figures"]["teacher_dev_accuracy"]
    )
    assert found["figures"]["teacher_dev_accuracy"] > 0.55  # the commonest label has half


def test_rows_of_random_weights_have_speed_and_no_quality(work: Path) -> None:
    rows = [row for row in result(work)["rows"] if row.get("weights") == "random"]
    assert {(row["name"], row["measured"]) for row in rows} == {
        (f"{name}'s shape, stock int8", scenario)
        for name in ("DistilBERT", "TinyBERT-4")
        for scenario in ("single-stream", "offline")
    }
    for row in rows:
        assert "accuracy" not in row
        assert "predicted" not in row
        assert row["size_bytes"] > 500_000
    by_name = {(row["name"], row["measured"]): row for row in result(work)["rows"]}
    for name in ("teacher PyTorch", "teacher fp32", "6-layers int8", "tfidf", "majority"):
        assert by_name[name, "single-stream"]["p50_ms"]["value"] > 0
        assert by_name[name, "offline"]["texts_per_second"]["value"] > 0


def test_what_measures_is_not_learnt_and_each_part_is_promised(work: Path) -> None:
    found = result(work)
    assert found["counts"]["further_shared_with_dev"] + found["counts"]["further_shared_with_test"] >= 10
    assert found["counts"]["left_out_phrases"] > 0
    said = (work / "said.txt").read_text()
    assert "teacher: training on 1" in said
    assert "4 students: about " in said
    assert ": a session of " in said


def test_a_second_run_trains_and_times_nothing_and_says_the_same(work: Path, study: FieldStudy, folder: Path) -> None:
    before = result(work)
    weights = {path: path.stat().st_mtime_ns for path in work.glob(f"**/{WEIGHTS}")}
    reporter = Words()
    kept(study, FieldSettings(data=folder), work, reporter)
    assert {path: path.stat().st_mtime_ns for path in work.glob(f"**/{WEIGHTS}")} == weights
    after = result(work)
    assert after["published_logits"] == before["published_logits"]
    assert after["rows"] == before["rows"]
    assert not any("students: about" in text for text in reporter.said)


def test_students_are_trained_without_the_teacher(work: Path, study: FieldStudy, folder: Path, tmp_path: Path) -> None:
    found = result(work)
    counts = found["published_logits"]
    assert counts["train"] == found["counts"]["train"]
    assert counts["copies"] > 0.8 * found["counts"]["train"]
    settings = FieldSettings(data=folder, recorded=work / "results" / "sst2-logits.npz", recipes=("6-layers",), seeds=(0,))
    kept(study, settings, tmp_path / SST2.name, SilentReporter(), results=work / "results")
    alone = read_result("sst2", folder=tmp_path / SST2.name)  # no result of the study is replaced
    assert alone["figures"]["teacher_dev_accuracy"] == found["figures"]["teacher_dev_accuracy"]
    rows = {(row["name"], row.get("seed"), row.get("precision")): row for row in found["rows"] if row["measured"] == "quality"}
    (again,) = (row for row in alone["rows"] if (row["name"], row["precision"]) == ("6-layers", "fp32"))
    # The same texts in the same order, and logits in half precision: nearly the same student.
    same = zip(again["predicted"]["test"], rows["6-layers", 0, "fp32"]["predicted"]["test"], strict=True)
    assert np.mean([one == other for one, other in same]) > 0.9


def test_a_run_on_another_machine_goes_on_from_result_and_logits(
    work: Path, study: FieldStudy, folder: Path, tmp_path: Path
) -> None:
    """Without the work folder: no teacher is trained, only the student that has no row is, and what is timed fits no table."""
    before, out = result(work), tmp_path / "results"
    shutil.copytree(work / "results", out)
    rows = [row for row in before["rows"] if (row["name"], row.get("seed")) != ("2-layers", 1)]
    rewrite_result({**before, "rows": rows}, folder=out)
    reporter = Words()
    kept(study, FieldSettings(data=folder, recipes=("2-layers",)), tmp_path / SST2.name, reporter, results=out)
    assert any("the students learn from its published logits" in said for said in reporter.said)
    assert not (tmp_path / SST2.name / "teacher").exists()
    assert sorted(path.name for path in (tmp_path / SST2.name / "students").glob("*-seed-*")) == [
        "2-layers-seed-1",
        "6-layers-seed-1",
    ]
    after = read_result("sst2", folder=out)
    assert after["missing"] == []
    again = [row for row in after["rows"] if (row["name"], row.get("seed")) == ("2-layers", 1)]
    assert [row["learns_from"] for row in again] == ["published logits"] * 2
    assert [row for row in after["rows"] if row not in again] == rows


def test_a_run_lost_while_the_copies_are_answered_leaves_the_other_answers(
    work: Path, study: FieldStudy, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_copies(bench: FieldBench, teacher: Teacher, texts: Sequence[TextInput]) -> Logits:
        if len(texts) > len(bench.train):
            raise KeyboardInterrupt
        return answered(bench, teacher, texts)

    begun, out = tmp_path / "begun" / SST2.name, tmp_path / "results"
    shutil.copytree(work / "teacher", begun / "teacher")
    monkeypatch.setattr(running, "answered", without_copies)
    with pytest.raises(KeyboardInterrupt):
        kept(study, FieldSettings(data=folder), begun, SilentReporter(), results=out)
    left = read_result("sst2", folder=out)
    whole = result(work)["published_logits"]
    assert left["published_logits"] == {**whole, "copies": 0}
    assert {row["name"] for row in left["rows"]} == {"teacher", "tfidf", "majority"}
    answers = PublishedLogits(out / "sst2-logits.npz")
    assert answers.teacher == next(row["weights_sha256"] for row in left["rows"] if row["name"] == "teacher")
    assert answers.knows(read_texts(str(folder / "further.tsv"), DataSettings())).sum() >= whole["further"]


def test_two_runs_in_one_folder_are_refused(work: Path, study: FieldStudy, folder: Path) -> None:
    from filelock import FileLock

    with FileLock(work / ".lock"), pytest.raises(SettingsError, match="another run works in"):
        kept(study, FieldSettings(data=folder), work, SilentReporter())


def test_the_studies_write_the_results_that_are_committed() -> None:
    assert FOLDER.name == "results"
    assert FieldSettings(data=Path()).study_of(SST2) == SST2
    assert FieldSettings(data=Path(), copies=0).study_of(SST2).copies == 0
