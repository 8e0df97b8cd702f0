"""The demo's order of work: what it writes, and what it does not do again. On the tiny task, with the tiny model."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_texts, write_csv

from distill.bundle import Bundle
from distill.progress import SilentReporter
from distill.settings import DataSettings, DistillSettings
from distill.teacher_settings import TeacherSettings
from export import demo
from export.demo import Profile, profile_of, run_demo
from export.measure.latency import ProcessFigures
from export.settings import BenchSettings, DemoSettings, ExportSettings

ROW_KEYS = {
    "name",
    "precision",
    "runtime",
    "macro_f1",
    "macro_f1_interval",
    "accuracy",
    "agreement",
    "retention",
    "p50_ms",
    "p90_ms",
    "texts_per_second",
    "size_bytes",
    "num_parameters",
}
BUNDLES = ("teacher", "student_no_distillation", "student")
FAST = {"learning_rate": 2e-3, "batch_size": 16}


class Listening(SilentReporter):
    """Remembers what was said, and can be told to interrupt at some words."""

    def __init__(self, interrupt_at: str | None = None) -> None:
        self.said: list[str] = []
        self._interrupt_at = interrupt_at

    def say(self, text: str) -> None:
        if self._interrupt_at is not None and self._interrupt_at in text:
            raise KeyboardInterrupt
        self.said.append(text)

    @property
    def num_already_done(self) -> int:
        return sum("already done" in text for text in self.said)

    @property
    def trained(self) -> list[str]:
        """Who was trained, in order: a teacher or a student."""
        return [text.partition(":")[0] for text in self.said if ": epoch 1 of" in text]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """Let the demo's profile be a tiny one for all tests here; its model is named by its folder's name."""
    folder = tmp_path_factory.mktemp("demo")
    train, test = write_csv(folder / "train.csv", tiny_texts(240)), write_csv(folder / "test.csv", tiny_texts(80, seed=1))
    more = write_csv(folder / "more.csv", tiny_texts(60, seed=2))

    def tiny_profile(settings: DemoSettings) -> Profile:
        return Profile(
            data=DataSettings(train=(str(train),), test=str(test), validation_share=0.2),
            unlabeled=(str(more),),
            teacher=TeacherSettings(seed=settings.seed, epochs=4, max_length=32, **FAST),
            student=DistillSettings(seed=settings.seed, epochs=3, num_layers=2, **FAST),
            export=ExportSettings(budget_f1=0.05, budget_recall=0.1, min_agreement=0.9),
            bench=BenchSettings(rounds=1, texts_per_round=64, warmup_s=0, throughput_rounds=1, throughput_texts=32),
            model=tiny_model.name,
        )

    patch = pytest.MonkeyPatch()
    patch.setattr(demo, "profile_of", tiny_profile)
    # Twelve processes a run; tests/export/test_measure.py and tests/test_end_to_end.py start real ones.
    patch.setattr(
        "export.measure.rows.measure_process", lambda *arguments: ProcessFigures(cold_start_s=0.5, peak_rss_bytes=10**8)
    )
    patch.chdir(tiny_model.parent)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def out(workplace: Path) -> Path:
    """Return the folder of a finished demo; what a test damages, the next run mends."""
    run_demo(workplace / "out", DemoSettings(seed=3))
    return workplace / "out"


def digests(out: Path) -> dict[str, tuple[str, int]]:
    """Return content and time of every file of the bundles."""
    return {
        str(file.relative_to(out)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for name in BUNDLES
        for file in (out / name).rglob("*")
        if file.is_file()
    }


def again(out: Path, *, seed: int = 3) -> Listening:
    reporter = Listening()
    run_demo(out, DemoSettings(seed=seed), reporter=reporter)
    return reporter


def test_the_report_has_a_row_for_each_name_with_what_runs_it(out: Path) -> None:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["schema"], report["task"], report["seed"]) == (1, "movies", 3)
    assert report["environment"]["cpus_available"] >= 1
    assert [(row["name"], row["precision"], row["runtime"]) for row in report["rows"]] == [
        ("teacher", "fp32", "pytorch"),
        ("student_no_distillation", "fp32", "onnxruntime"),
        ("student", "fp32", "onnxruntime"),
        ("student", "int8", "onnxruntime"),
        ("tfidf", "fp32", "scikit-learn"),
        ("majority", "fp32", "none"),
    ]
    for row in report["rows"]:
        assert row.keys() >= ROW_KEYS
        assert row["num_texts"] == 80
        low, high = row["macro_f1_interval"]
        assert low <= row["macro_f1"] <= high
        assert row["p50_ms"] > 0
        assert (row["size_bytes"] is None) == (row["name"] in {"tfidf", "majority"})
    teacher, *_, majority = report["rows"]
    assert teacher["retention"] == teacher["agreement"] == teacher["p50_ratio_teacher"] == 1
    assert majority["macro_f1"] == pytest.approx(1 / 3, abs=0.01)  # one of two equal classes: F1 of 2/3 and 0


def test_the_report_says_what_the_data_were_and_how_each_stage_was_set(out: Path) -> None:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["data"]["test"]["counts"] == {"negative": 40, "positive": 40}
    assert report["data"]["unlabeled"]["count"] > 0
    assert set(report["settings"]) == {"data", "teacher", "student", "export", "bench"}
    assert report["settings"]["student"]["num_layers"] == 2


def test_the_control_learnt_from_labels_alone_and_the_student_from_the_teacher(out: Path) -> None:
    teacher, control, student = (Bundle.open(out / name).manifest for name in BUNDLES)
    assert control.settings["student"]["soft_weight"] == 0
    assert student.settings["student"]["soft_weight"] == 0.9
    assert control.lineage.unlabeled_fingerprint is None
    assert student.lineage.unlabeled_fingerprint is not None
    assert control.lineage.teacher_sha256 == student.lineage.teacher_sha256 == teacher.files["model.safetensors"].sha256
    assert (control.precisions, student.precisions) == (("fp32",), ("fp32", "int8"))


def test_the_page_needs_nothing_from_elsewhere(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The int8 student keeps" in page
    assert "<svg" in page
    links = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of XML vocabularies
    assert not re.search(r"\bsrc=|<link|@import|url\((?!#)", page)


def test_a_second_run_repeats_nothing(out: Path) -> None:
    before, report = digests(out), (out / "report.json").read_bytes()
    reporter = again(out)
    assert digests(out) == before
    assert (out / "report.json").read_bytes() == report
    assert reporter.num_already_done == 6  # three bundles, the graphs of two, the figures
    assert reporter.trained == []


def test_figures_that_cannot_be_read_are_measured_again(out: Path) -> None:
    (out / "measured.json").write_text('{"key": ', encoding="utf-8")
    assert again(out).num_already_done == 5
    assert again(out).num_already_done == 6


def test_a_damaged_student_is_made_again_and_nothing_else(out: Path) -> None:
    before = digests(out)
    weights = out / "student" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert again(out).trained == ["student"]
    after = digests(out)
    assert {name for name in before if before[name][1] != after[name][1]} == {
        name for name in before if name.startswith("student/")
    }
    assert before["student/model.safetensors"][0] == after["student/model.safetensors"][0]  # the same seed, the same student


@pytest.mark.slow
def test_another_seed_makes_everything_anew(out: Path) -> None:
    before = digests(out)
    assert again(out, seed=4).trained == ["teacher", "student", "student"]
    after = digests(out)
    assert all(before[f"{name}/model.safetensors"][0] != after[f"{name}/model.safetensors"][0] for name in BUNDLES)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["seed"] == 4


def test_interrupted_between_two_steps_it_keeps_what_is_finished(workplace: Path) -> None:
    folder = workplace / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run_demo(folder, DemoSettings(seed=3), reporter=Listening(interrupt_at="3 of 6"))
    teacher = Bundle.open(folder / "teacher")
    assert not (folder / "report.json").exists()
    before = (folder / "teacher" / "manifest.json").stat().st_mtime_ns
    reporter = Listening(interrupt_at="5 of 6")
    with pytest.raises(KeyboardInterrupt):
        run_demo(folder, DemoSettings(seed=3), reporter=reporter)
    assert reporter.num_already_done == 1
    assert reporter.trained == ["student", "student"]
    assert Bundle.open(folder / "teacher") == teacher
    assert (folder / "teacher" / "manifest.json").stat().st_mtime_ns == before


def test_profiles_follow_the_seed_but_the_split_does_not() -> None:
    for name in ("full", "quick"):
        first, second = (profile_of(DemoSettings(profile=name, seed=seed)) for seed in (0, 1))
        assert (first.data, first.export, first.bench) == (second.data, second.export, second.bench)
        assert (second.teacher.seed, second.student.seed) == (1, 1)
        assert first.data.split_seed == 0
        assert first.student.num_layers <= 3
        assert first.model == "builtin:minilm"
    assert profile_of(DemoSettings()).data.limit is None
    assert profile_of(DemoSettings()).export == ExportSettings()  # the full demo asks for nothing softer than anybody
