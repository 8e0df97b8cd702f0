"""The quality scenario end to end on the tiny task: rows, the file, and a second run that trains nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.quality.arms import Arm
from benchmarks.quality.summary import quality_figures
from benchmarks.scenarios.quality import Study, missing_runs, outcome_of, run_quality
from distill.bundle import WEIGHTS, Bundle
from distill.data import load_splits
from distill.errors import BundleError, SettingsError
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

pytestmark = pytest.mark.slow  # trains ten models


@pytest.fixture(scope="module")
def study(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study of two seeds: a student that ships, one that does not and has an assistant, and a control."""
    folder = tmp_path_factory.mktemp("texts")
    train = write_csv(folder / "train.csv", tiny_texts(400))
    test = write_csv(folder / "test.csv", tiny_texts(100, seed=1))
    unlabeled = write_csv(folder / "unlabeled.csv", tiny_texts(100, seed=2))
    return Study(
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


@pytest.fixture(scope="module")
def work(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the work folder of a run of all arms and seeds; do not change it."""
    folder = tmp_path_factory.mktemp("quality")
    run_quality(folder, arms=tuple(study.arms), seeds=study.seeds, study=study, reporter=QUIET)
    return folder


def rows_in(work: Path) -> dict[tuple[str, int, str], dict[str, object]]:
    rows = [json.loads(path.read_text()) for path in (work / "rows").glob("*.json")]
    return {(row["name"], row["seed"], row["precision"]): row for row in rows}


def test_every_arm_has_a_row_a_seed_with_the_answers_of_the_bundle_that_stands_there(study: Study, work: Path) -> None:
    rows = rows_in(work)
    assert not missing_runs(list(rows.values()), study)
    assert len(rows) == 2 * (1 + 3 + 1)  # teacher, three arms, and the one that ships once more in int8
    test = load_splits(study.data).test
    assert test is not None
    for seed in study.seeds:
        bundle = Bundle.open(work / f"2_layers-{seed}")
        row = rows["2_layers", seed, "int8"]
        alone = np.concatenate([OnnxClassifier.open(bundle, precision="int8").predict_logits([text]) for text in test.texts])
        assert row["predicted"] == "".join(map(str, alone.argmax(axis=1)))
        assert row["macro_f1"] == pytest.approx(macro_f1(test.label_ids, alone))
        assert row["macro_f1"] > 0.8  # a coin has 0.5: the recipe learns this task
        assert row["weights_sha256"] == bundle.manifest.files[WEIGHTS].sha256


def test_all_teachers_teach_the_seeds_own_first_and_the_control_has_none(work: Path) -> None:
    digests = [Bundle.open(work / f"teacher-{seed}").manifest.files[WEIGHTS].sha256 for seed in (0, 1)]
    assert digests[0] != digests[1]
    for seed, wanted in ((0, digests), (1, digests[::-1])):
        assert list(Bundle.open(work / f"2_layers-{seed}").manifest.lineage.ensemble) == wanted
    assert Bundle.open(work / "2_layers_control-0").manifest.settings["student"]["soft_weight"] == 0
    assert Bundle.open(work / "2_layers-0").manifest.settings["student"]["soft_weight"] > 0


def test_figures_are_drawn_from_means_over_seeds(study: Study, work: Path) -> None:
    rows = list(rows_in(work).values())
    outcome = outcome_of(work, rows, study=study, reporter=QUIET)
    figures = quality_figures({"rows": outcome.rows, **outcome.parts})
    found = {(row["name"], row["seed"], row["precision"]): row["macro_f1"] for row in outcome.rows if "macro_f1" in row}
    teacher = (found["teacher", 0, "fp32"] + found["teacher", 1, "fp32"]) / 2
    assert figures["teacher_macro_f1"] == pytest.approx(teacher)
    student = (found["2_layers", 0, "int8"] + found["2_layers", 1, "int8"]) / 2
    assert figures["retention_2_layers"] == pytest.approx(student / teacher)
    control = (found["2_layers_control", 0, "fp32"] + found["2_layers_control", 1, "fp32"]) / 2
    plain = (found["2_layers", 0, "fp32"] + found["2_layers", 1, "fp32"]) / 2
    assert figures["gain_over_control_2_layers"] == pytest.approx(plain - control)
    assert outcome.parts["missing"] == []


def test_a_second_run_trains_nothing_and_recomputes_a_lost_row(study: Study, work: Path) -> None:
    def weights() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in work.glob(f"*/{WEIGHTS}")}

    before, rows = weights(), rows_in(work)
    assert len(before) == 2 * 4
    lost = work / "rows" / "1_layer-1-fp32.json"
    lost.unlink()
    assert missing_runs(list(rows_in(work).values()), study) == ["1_layer-1-fp32"]
    run_quality(work, arms=tuple(study.arms), seeds=study.seeds, study=study, reporter=QUIET)
    assert weights() == before
    assert rows_in(work) == rows


def test_an_arm_of_other_settings_is_trained_again_and_its_int8_row_with_it(study: Study, work: Path) -> None:
    changed = replace(study, arms={"2_layers": Arm("2 layers", RECIPE, {**FEW, "temperature": 3.0})})
    before = rows_in(work)
    run_quality(work, arms=("2_layers",), seeds=(1,), study=changed, reporter=QUIET)
    after = rows_in(work)
    assert after["2_layers", 0, "int8"] == before["2_layers", 0, "int8"]
    for precision in ("fp32", "int8"):
        assert after["2_layers", 1, precision]["weights_sha256"] != before["2_layers", 1, precision]["weights_sha256"]
        assert after["2_layers", 1, precision]["settings"]["temperature"] == 3.0


def test_teachers_of_other_texts_are_refused(study: Study, work: Path, tmp_path: Path) -> None:
    other = write_csv(tmp_path / "train.csv", tiny_texts(400, seed=5))
    moved = replace(study, data=study.data.model_copy(update={"train": (str(other),)}))
    with pytest.raises(BundleError, match="teacher-0 was made from other texts"):
        run_quality(work, arms=("2_layers",), seeds=(0,), study=moved, reporter=QUIET)


def test_an_unknown_arm_is_an_error_before_anything_is_trained(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no arm is called 'wide'; there are 1_layer, 2_layers"):
        run_quality(tmp_path, arms=("wide",), seeds=(0,), study=study, reporter=QUIET)
    assert not list(tmp_path.iterdir())
