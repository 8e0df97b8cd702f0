"""The cells of the transfer scenario: what each begins from and learns from; the fine-tuning itself is replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.scenario import Context
from benchmarks.scenarios.transfer import MAKERS, QUICK_TEACHER, TransferSettings, missing_of, run
from benchmarks.transfer import bench as benches
from benchmarks.transfer import parts, without_labels
from benchmarks.transfer.bench import Bench, Start, Texts
from benchmarks.transfer.cells import PARTS, cells_of
from benchmarks.transfer.figures import SEEDS
from benchmarks.transfer.recipes import UNLABELLED
from distill.data import Dataset
from distill.errors import SettingsError
from distill.progress import SilentReporter
from distill.settings import BUILTIN_MINILM
from distill.storage import cache_dir
from distill.teacher_settings import TeacherSettings

QUALITY = {"macro_f1": 0.8, "macro_f1_interval": [0.7, 0.9], "predicted": "01", "num_texts": 2}


def texts_of(name: str, count: int) -> Dataset:
    texts = tuple(f"{name} {('bad', 'good')[number % 2]} {number}" for number in range(count))
    return Dataset(texts, np.arange(count) % 2, ("negative", "positive"), name)


@dataclass(frozen=True)
class Ranked:
    candidate: str
    expected_macro_f1: float


class Trainings:
    """Stands for fine-tuning: notes what it was asked for."""

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.students: list[dict[str, Any]] = []

    def tuned(self, bench: Bench, texts: Texts, start: Start, *, out: Path) -> Any:
        from distill.transfer.features import FOLDER

        self.starts.append(start)
        if start.settings.transfer == "features":
            (cache_dir() / FOLDER).mkdir(parents=True, exist_ok=True)
            (cache_dir() / FOLDER / "kept").write_text("12345")
        return self.bundle(out)

    def teacher(self, model: str, splits: Any, settings: TeacherSettings, *, out: Path, name: str, reporter: Any) -> Any:
        if not (out / name).exists():
            (out / name).mkdir(parents=True)
            self.starts.append(Start(settings, model))
        return self.bundle(out / name)

    def student(self, teachers: Any, **given: Any) -> Any:
        self.students.append({"teachers": teachers, **given})
        return self.bundle(given["out"])

    @staticmethod
    def bundle(path: Path) -> Any:
        manifest = SimpleNamespace(training_s=2.0, settings={"teacher": {"feature_layer": 3}})
        return SimpleNamespace(path=path, labels=("negative", "positive"), manifest=manifest)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings()
    for module in (benches, parts, without_labels):
        monkeypatch.setattr(module, "tuned", found.tuned)
        monkeypatch.setattr(module, "quality_of", lambda bundle, test: QUALITY)
        monkeypatch.setattr(module, "quality_of_logits", lambda logits, test: QUALITY, raising=False)
        monkeypatch.setattr(module, "logits_of", lambda bundle, test: np.zeros((len(test), 2), np.float32), raising=False)
    monkeypatch.setattr("export.fitting.training.tuned_teacher", found.teacher)
    monkeypatch.setattr(parts, "candidate_of", lambda bench, candidate, seed, task="": Path(f"{candidate}-{seed}"))
    monkeypatch.setattr("distill.training.distillation.fit_student", found.student)
    monkeypatch.setattr(
        "distill.transfer.select.select",
        lambda folders, train, settings: SimpleNamespace(ranked=[Ranked(folder, 0.5) for folder in folders]),
    )
    return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(
        Bench, "builtin", lambda self, name: Texts(texts_of(name, 1000), texts_of(f"{name}-v", 40), texts_of(f"{name}-t", 20))
    )
    return Bench(tmp_path, SilentReporter())


def make_cells(bench: Bench, part: str, name: str | None = None) -> None:
    """Make the cells of a part with seed 0, or one of them."""
    chosen = [row for own, row in cells_of(0, bench.pieces) if own == part and name in (None, row["name"])]
    assert chosen
    for row in chosen:
        bench.make(row, MAKERS[row["kind"]])


@pytest.fixture
def made(bench: Bench, trainings: Trainings) -> Callable[[str, str], tuple[dict[str, Any], list[Start]]]:
    """A function that makes a cell and returns its row and what was fine-tuned for it, sources left out."""

    def make(part: str, name: str) -> tuple[dict[str, Any], list[Start]]:
        trainings.starts.clear()
        make_cells(bench, part, name)
        whole = [start for start in trainings.starts if start.model != BUILTIN_MINILM or start.origin or start.settings.shots]
        return bench.pieces.find(name), whole or trainings.starts

    return make


def test_every_cell_of_a_seed_is_made_once_and_nothing_of_it_is_missing_then(bench: Bench, trainings: Trainings) -> None:
    for part in PARTS:
        make_cells(bench, part)
    count = len(trainings.starts) + len(trainings.students)
    assert {name.rpartition("-")[2] for name in missing_of(bench)} == {str(seed) for seed in SEEDS[1:]}
    for part in PARTS:
        make_cells(bench, part)
    assert len(trainings.starts) + len(trainings.students) == count


def test_a_cell_with_few_labels_begins_where_its_name_says(made: Callable[..., Any]) -> None:
    _, (carried,) = made("few", "few-movies-nyt-0")
    assert Path(carried.origin.init.path).name == "source-movies-0"
    _, (alone,) = made("few", "few-nyt-nyt-0")
    assert (alone.model, alone.origin, alone.settings.shots) == (BUILTIN_MINILM, None, 100)
    _, (scratch,) = made("few", "scratch-random-nyt-0")
    assert (scratch.model, scratch.origin) == ("random-0", None)


def test_features_are_timed_with_an_empty_cache_and_with_a_full_one(made: Callable[..., Any]) -> None:
    row, _ = made("features", "features-0")
    assert row["cache_bytes"] == 5
    assert row["fine_tuning_s"] == 2.0 * 3  # one epoch stands for the three of a teacher
    assert row["layers"] == 3


def test_a_floor_is_made_of_the_labels_that_a_carried_model_is_given_or_of_all(made: Callable[..., Any]) -> None:
    assert made("floors", "floor-tfidf-nyt-100-0")[0]["num_labels"] == 200
    assert made("floors", "floor-majority-nyt-all")[0]["num_labels"] == 1000


def test_the_layers_of_a_language_stay_learn_afterwards_or_guess_words_first(made: Callable[..., Any]) -> None:
    _, (frozen,) = made("language", "language-movies_frozen-0")
    assert frozen.settings.freeze_body
    assert Path(frozen.origin.init.path).name == "source-movies-0"
    _, (first, then) = made("language", "language-movies_whole-0")
    assert (first.settings, then.settings.freeze_body) == (frozen.settings, False)
    assert Path(then.origin.init.path).name == "frozen"
    _, (adapted,) = made("language", "language-movies_adapted-0")
    assert len(adapted.origin.adapt_texts) == 1000
    _, (scratch,) = made("language", "language-random-0")
    assert (scratch.model, scratch.settings.freeze_body) == ("random-0", False)
    row, _ = made("language", "language-zero_shot-0")
    assert (row["num_labels"], row["labels"]) == (1000, ["negative", "positive"])


def test_a_student_without_labels_has_the_recipe_that_was_best_and_no_teacher_of_its_domain(
    bench: Bench, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(without_labels, "quality_of", lambda bundle, test: {**QUALITY, "macro_f1": len(trainings.students)})
    with pytest.raises(SettingsError, match="chosen by the part stand_in"):
        make_cells(bench, "unlabelled", "unlabelled-nyt-0")
    make_cells(bench, "stand_in")
    make_cells(bench, "unlabelled", "unlabelled-nyt-0")
    *tried, student = trainings.students
    assert len(tried) == len(UNLABELLED)
    name, best = list(UNLABELLED.items())[-1]  # the last was the best
    assert student["settings"] == best.settings.model_copy(update={"seed": 0})
    assert bench.pieces.find("unlabelled-nyt-0")["recipe"] == name
    assert [teacher.path.name for teacher in student["teachers"]] == [
        f"source-{domain}-0" for domain in ("movies", "amazon", "tweets")
    ]
    assert not set(student["unlabeled"]) & set(student["test"].texts)
    assert len(tried[0]["train"]) == 1000  # of one source
    judged, learnt = set(tried[0]["test"].texts), set(tried[0]["unlabeled"])
    assert not judged & learnt


def test_every_candidate_of_a_choice_is_ranked_and_fine_tuned(made: Callable[..., Any]) -> None:
    row, starts = made("choice", "choice-nyt-0")
    named = [start.model for start in starts if start.model != BUILTIN_MINILM]
    assert named == [f"{name}-0" for name in ("minilm", "lowest_3_layers", "random", "after_a_task")]
    assert [(one["candidate"], one["expected_macro_f1"], one["macro_f1"]) for one in row["candidates"]][2] == (
        "random",
        0.5,
        0.8,
    )


def test_a_run_makes_its_parts_and_seeds_and_names_what_is_missing_then(
    bench: Bench, trainings: Trainings, tmp_path: Path
) -> None:
    del bench
    context = Context(tmp_path, "transfer", SilentReporter(), quick=True)
    outcome = run(TransferSettings(parts=("teachers", "floors"), seeds=(0,)), context)
    assert {row["kind"] for row in outcome.rows} == {"whole", "floor"}
    assert {start.settings.epochs for start in trainings.starts} == {QUICK_TEACHER.epochs}
    assert "features-0" in outcome.parts["missing"]
    assert not [name for name in outcome.parts["missing"] if name.startswith("whole") and name.endswith("-0")]
    assert outcome.parts["test_labels"]["domains"] == "".join(number * 20 for number in "0123")
    with pytest.raises(SettingsError, match="no part is called 'fewer'; there are teachers, features, few"):
        run(TransferSettings(parts=("fewer",)), context)
