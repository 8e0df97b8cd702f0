"""The quality scenario on the tiny task: rows, the result, and a second run that trains nothing.

The fast tests have bundles that are there in place of what would be trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.harness.scenario import Context, Outcome
from benchmarks.quality.arms import Arm
from benchmarks.quality.summary import quality_figures
from benchmarks.scenarios import quality
from benchmarks.scenarios.quality import QUICK_TEACHER, QualitySettings, Study, run, run_study
from distill.bundle import WEIGHTS, Bundle
from distill.data import load_splits
from distill.errors import SettingsError
from distill.evaluation.metrics import macro_f1
from distill.progress import SilentReporter
from distill.recipes import Recipe
from distill.settings import DataSettings, DistillSettings
from distill.teacher_settings import TeacherSettings
from export.runtime.sessions import OnnxClassifier
from export.settings import BenchSettings

RECIPE = Recipe("2-layers", "two layers", DistillSettings(num_layers=2), views=1_000)
FEW = {"augment": 0, "epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "max_length": 32}
QUIET = SilentReporter()


@pytest.fixture(scope="module")
def study(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study of two seeds: a student that ships, one that does not and has an assistant, and a control."""
    folder = tmp_path_factory.mktemp("texts")
    train = write_csv(folder / "train.csv", tiny_texts(400))
    test = write_csv(folder / "test.csv", tiny_texts(100, seed=1))
    unlabeled = write_csv(folder / "unlabeled.csv", tiny_texts(100, seed=2))
    return Study(
        tmp_path_factory.mktemp("quality"),
        QUIET,
        data=DataSettings(train=(str(train),), test=str(test), validation_share=0.25),
        unlabeled=(str(unlabeled),),
        arms={
            "1_layer": Arm("1 layer", RECIPE, {**FEW, "num_layers": 1}, assistant="2_layers", shipped=False),
            "2_layers": Arm("2 layers", RECIPE, FEW),
            "2_layers_control": Arm("2 layers, no distillation", RECIPE, FEW, control=True, shipped=False),
        },
        seeds=(0, 1),
        model=str(tiny_model),
        teacher=TeacherSettings(epochs=8, learning_rate=2e-3, max_length=32, batch_size=16),
        speed=BenchSettings(rounds=3, texts_per_round=5, settle_s=0.1, throughput_texts=8, throughput_rounds=3),
    )


@dataclass
class Trainings:
    """Stands for training: what each run's weights were asked to be, by the name of its folder."""

    asked: dict[str, dict[str, Any]]


@pytest.fixture
def trainings(tiny_teacher: Bundle, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Put bundles that are there in the place of what would be trained, and leave out the processes that time them."""
    found = Trainings({})

    def trained_once(folder: Path, name: str, **given: Any) -> Bundle:
        found.asked[name] = given
        bundle = tiny_teacher if name.startswith("teacher") else tiny_student
        folder.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(bundle.path)
        return Bundle.open(folder / name)

    for room in ("distill.training.finished", "export.fitting.training"):
        monkeypatch.setattr(f"{room}.trained_once", trained_once)
    monkeypatch.setattr(
        quality, "measure_speed", lambda candidates, *_, **__: {each.key: {"p50_ms": 1.0} for each in candidates}
    )
    return found


def outcome_of(study: Study) -> Outcome:
    return run_study(study, arms=tuple(study.arms), seeds=study.seeds)


@pytest.fixture(scope="module")
def outcome(study: Study, timed_here: None) -> Outcome:
    """Return what a run of all arms and seeds found; do not change its folder."""
    return outcome_of(study)


def rows_of(outcome: Outcome) -> dict[tuple[str, int, str], Any]:
    return {(row["name"], row["seed"], row["precision"]): row for row in outcome.rows if "predicted" in row}


@pytest.mark.slow
def test_every_arm_has_a_row_a_seed_with_the_answers_of_the_bundle_that_stands_there(study: Study, outcome: Outcome) -> None:
    rows = rows_of(outcome)
    assert outcome.parts["missing"] == []
    assert len(rows) == 2 * (1 + 3 + 1)  # teacher, three arms, and the one that ships once more in int8
    test = load_splits(study.data).test
    assert test is not None
    for seed in study.seeds:
        bundle = Bundle.open(study.folder / f"2_layers-{seed}")
        row = rows["2_layers", seed, "int8"]
        alone = np.concatenate([OnnxClassifier.open(bundle, precision="int8").predict_logits([text]) for text in test.texts])
        assert row["predicted"] == "".join(map(str, alone.argmax(axis=1)))
        assert row["macro_f1"] == pytest.approx(macro_f1(test.label_ids, alone))
        assert row["macro_f1"] > 0.8  # a coin has 0.5: the recipe learns this task
        assert row["weights_sha256"] == bundle.manifest.files[WEIGHTS].sha256


@pytest.mark.slow
def test_the_teacher_of_its_seed_teaches_a_student_and_the_control_has_none(study: Study, outcome: Outcome) -> None:
    del outcome
    digests = [Bundle.open(study.folder / f"teacher-{seed}").manifest.files[WEIGHTS].sha256 for seed in (0, 1)]
    assert digests[0] != digests[1]
    for seed in (0, 1):
        lineage = Bundle.open(study.folder / f"2_layers-{seed}").manifest.lineage
        assert (lineage.teacher_sha256, lineage.ensemble) == (digests[seed], ())
    assert Bundle.open(study.folder / "2_layers_control-0").manifest.settings["student"]["soft_weight"] == 0
    assert Bundle.open(study.folder / "2_layers-0").manifest.settings["student"]["soft_weight"] > 0


@pytest.mark.slow
def test_figures_are_drawn_from_means_over_seeds(outcome: Outcome) -> None:
    figures = quality_figures({"rows": outcome.rows, **outcome.parts})
    found = {key: row["macro_f1"] for key, row in rows_of(outcome).items()}
    timed = [row for row in outcome.rows if "predicted" not in row]
    assert [(row["name"], row["runtime"], row["p50_ms"] > 0) for row in timed] == [
        ("teacher", "pytorch", True),
        ("2_layers", "onnxruntime", True),
    ]
    teacher = (found["teacher", 0, "fp32"] + found["teacher", 1, "fp32"]) / 2
    assert figures["teacher_macro_f1"] == pytest.approx(teacher)
    plain = (found["2_layers", 0, "fp32"] + found["2_layers", 1, "fp32"]) / 2
    assert figures["retention_2_layers"] == pytest.approx(plain / teacher)
    control = (found["2_layers_control", 0, "fp32"] + found["2_layers_control", 1, "fp32"]) / 2
    assert figures["gain_over_control_2_layers"] == pytest.approx(plain - control)


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_recomputes_a_lost_row(study: Study, outcome: Outcome) -> None:
    def weights() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in study.folder.glob(f"*/{WEIGHTS}")}

    before = weights()
    assert len(before) == 2 * 4
    (study.folder / "rows" / "1_layer-1-fp32.json").unlink()
    part = run_study(study, arms=("2_layers",), seeds=(0,))
    assert part.parts["missing"] == ["1_layer-1-fp32"]
    assert rows_of(outcome_of(study)) == rows_of(outcome)
    assert weights() == before


@pytest.mark.slow
def test_an_arm_of_other_settings_is_trained_again_and_its_int8_row_with_it(study: Study, outcome: Outcome) -> None:
    changed = replace(study, arms={"2_layers": Arm("2 layers", RECIPE, {**FEW, "temperature": 3.0})})
    before, after = rows_of(outcome), rows_of(run_study(changed, arms=("2_layers",), seeds=(1,)))
    assert after["2_layers", 0, "int8"] == before["2_layers", 0, "int8"]
    for precision in ("fp32", "int8"):
        assert after["2_layers", 1, precision]["weights_sha256"] != before["2_layers", 1, precision]["weights_sha256"]
        assert after["2_layers", 1, precision]["settings"]["temperature"] == 3.0


def test_an_arm_learns_from_its_assistant_and_from_the_teacher_of_its_seed(
    study: Study, trainings: Trainings, tmp_path: Path
) -> None:
    found = run_study(replace(study, folder=tmp_path), arms=("1_layer", "2_layers_control"), seeds=(1,))
    student = trainings.asked["1_layer-1"]
    assert student["settings"].student == str(tmp_path / "2_layers-1")
    assert student["settings"].seed == 1
    assert student["decided_by"][-1] == "distillation_lesson"
    assert trainings.asked["2_layers_control-1"]["decided_by"][-1] == "control_lesson"
    assert set(trainings.asked) == {"teacher-1", "2_layers-1", "1_layer-1", "2_layers_control-1"}
    assert "1_layer-0-fp32" in found.parts["missing"]
    assert not [name for name in found.parts["missing"] if name.endswith("-1-fp32")]
    assert {(row["name"], row["seed"]) for row in found.rows if "predicted" not in row} == {("teacher", 1), ("2_layers", 1)}


def test_a_row_has_every_answer_of_the_bundle_and_its_likeness_to_the_teacher(
    study: Study, trainings: Trainings, tiny_student: Bundle, tmp_path: Path
) -> None:
    del trainings
    found = run_study(replace(study, folder=tmp_path, seeds=(0,)), arms=("2_layers",), seeds=(0,))
    row = rows_of(found)["2_layers", 0, "int8"]
    test = load_splits(study.data).test
    assert test is not None
    graph = OnnxClassifier.open(tiny_student, precision="int8")
    answers = np.concatenate([graph.predict_logits([text]) for text in test.texts]).argmax(axis=1)
    assert row["predicted"] == "".join(map(str, answers))
    assert row["macro_f1"] == pytest.approx(macro_f1(test.label_ids, np.eye(2)[answers]))
    assert row["weights_sha256"] == tiny_student.manifest.files[WEIGHTS].sha256
    assert rows_of(found)["teacher", 0, "fp32"]["agreement"] == 1
    timed = [row for row in found.rows if "predicted" not in row]
    assert [(row["name"], row["precision"]) for row in timed] == [("teacher", "fp32"), ("2_layers", "int8")]


def test_a_finished_row_is_kept_but_not_shown_beside_other_test_texts(
    study: Study, trainings: Trainings, tmp_path: Path
) -> None:
    del trainings
    study = replace(study, folder=tmp_path, seeds=(0,))
    run_study(study, arms=("2_layers",), seeds=(0,))
    place = tmp_path / "rows" / "2_layers-0-int8.json"
    written = place.stat().st_mtime_ns
    run_study(study, arms=("2_layers",), seeds=(0,))
    assert place.stat().st_mtime_ns == written
    other = write_csv(tmp_path / "test.csv", tiny_texts(20, seed=5))
    moved = replace(study, data=study.data.model_copy(update={"test": str(other)}))
    found = run_study(moved, arms=("2_layers_control",), seeds=(0,))
    assert {name for name, *_ in rows_of(found)} == {"teacher", "2_layers_control"}
    assert "2_layers-0-int8" in found.parts["missing"]


def test_an_unknown_arm_is_an_error_before_anything_is_trained(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no arm is called 'wide'; there are 1_layer, 2_layers"):
        run_study(replace(study, folder=tmp_path), arms=("wide",), seeds=(0,))
    assert not list(tmp_path.iterdir())


def test_a_quick_run_has_small_arms_without_an_assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Study] = []
    monkeypatch.setattr(quality, "run_study", lambda study, **_: asked.append(study))
    for quick in (True, False):
        run(QualitySettings(arms=("narrow",), seeds=(0,)), Context(tmp_path, "quality", QUIET, quick))
    small, whole = asked
    assert (small.seeds, small.teacher, small.arms["narrow"].assistant) == ((0,), QUICK_TEACHER, None)
    assert small.arms["narrow"].changes["epochs"] == 2
    assert (len(whole.arms), len(whole.seeds), whole.unlabeled[0]) == (7, 5, "builtin:amazon")
