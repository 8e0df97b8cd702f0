"""Seeds and a control, on the tiny task: layout, budget, choice, and going on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import WEIGHTS, Bundle
from distill.data import Splits
from distill.evaluation.proof import ProofReport
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from distill.settings import DistillSettings, TrialSettings
from distill.training.lesson import control_settings
from distill.training.trials import run_trials

SETTINGS = DistillSettings(epochs=1, learning_rate=2e-3, batch_size=32, num_layers=1, seed=3)
TRIALS = TrialSettings(control=True, seeds=2)
UNLABELED = tuple(text for text, _ in tiny_texts(120, seed=7))


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
    def trained(self) -> int:
        return sum(": epoch 1 of" in text for text in self.said)


@pytest.fixture(scope="module")
def trial(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProofReport]:
    """Return the folder and the report of two seeds with control, interrupted once; do not change it."""
    out = tmp_path_factory.mktemp("trials") / "out"
    with pytest.raises(KeyboardInterrupt):
        trials(out, tiny_teacher, tiny_splits, Listening("control-seed-4"))
    assert not (out / "report.json").exists()
    again = Listening()
    _, report = trials(out, tiny_teacher, tiny_splits, again)
    assert again.trained == 1  # the two students and the first control were finished
    return out, report


def trials(out: Path, teacher: Bundle, splits: Splits, reporter: Listening) -> tuple[Bundle, ProofReport]:
    return run_trials(
        teacher,
        splits,
        unlabeled=UNLABELED,
        out=out,
        settings=SETTINGS,
        trials=TRIALS,
        reporter=reporter,
    )


def test_every_run_is_a_bundle_of_its_own_and_the_best_on_validation_is_kept(trial: tuple[Path, ProofReport]) -> None:
    out, report = trial
    runs = {path.name: Bundle.open(path) for path in (out / "runs").iterdir() if path.is_dir()}
    assert set(runs) == {f"{arm}-seed-{seed}" for arm in ("student", "control") for seed in (3, 4)}
    assert len({bundle.manifest.files[WEIGHTS].sha256 for bundle in runs.values()}) == 4
    scores = [runs[f"student-seed-{seed}"].manifest.quality["pytorch"]["macro_f1"] for seed in (3, 4)]
    assert report.chosen_seed == (3 if scores[0] >= scores[1] else 4)
    assert Bundle.open(out).manifest == runs[f"student-seed-{report.chosen_seed}"].manifest


def test_the_control_has_the_budget_of_the_student_and_none_of_its_answers(trial: tuple[Path, ProofReport]) -> None:
    out, _ = trial
    student, control = (Bundle.open(out / "runs" / f"{arm}-seed-3").manifest for arm in ("student", "control"))
    made = control.settings["student"]
    assert made["soft_weight"] == 0
    # 300 labelled and 120 unlabelled texts once are as many steps as 300 texts 1.4 times: two epochs.
    assert (student.settings["student"]["epochs"], made["epochs"]) == (1, 2)
    assert {name for name, value in made.items() if value != student.settings["student"][name]} == {
        "soft_weight",
        "epochs",
        "patience",
    }


def test_figures_are_of_the_test_texts(trial: tuple[Path, ProofReport], tiny_splits: Splits) -> None:
    out, report = trial
    assert tiny_splits.test is not None
    assert (report.split, report.num_texts) == ("test", len(tiny_splits.test))
    run = report.arms["control"].runs[1]
    given = load_bundle(Bundle.open(out / run.folder)).predict_logits(tiny_splits.test.texts).argmax(axis=1)
    truth = tiny_splits.test.label_ids
    f1 = [2 * np.sum((given == c) & (truth == c)) / (np.sum(given == c) + np.sum(truth == c)) for c in (0, 1)]
    assert run.macro_f1 == pytest.approx(np.mean(f1))
    assert report.gain is not None
    assert json.loads((out / "report.json").read_text())["gain"]["value"] == report.gain.value


def test_a_repeated_command_trains_nothing_and_ends_in_the_same_report(
    trial: tuple[Path, ProofReport], tiny_teacher: Bundle, tiny_splits: Splits
) -> None:
    out, _ = trial
    before, manifest = (out / "report.json").read_bytes(), (out / "manifest.json").read_bytes()
    again = Listening()
    trials(out, tiny_teacher, tiny_splits, again)
    assert again.trained == 0
    assert (out / "report.json").read_bytes() == before
    assert (out / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(("texts", "labelled", "epochs", "patience"), [(100, 100, 3, 2), (250, 100, 8, 5), (101, 100, 4, 3)])
def test_the_control_never_has_fewer_steps(texts: int, labelled: int, epochs: int, patience: int) -> None:
    settings = DistillSettings(epochs=3, patience=2, augment=2, soft_weight=0.7, learning_rate=3e-4)
    control = control_settings(settings, num_texts=texts, num_labelled=labelled)
    assert (control.epochs, control.patience) == (epochs, patience)
    assert (control.soft_weight, control.augment, control.learning_rate) == (0, 0, 3e-4)


def test_the_command_prints_table_words_and_where_it_measured(
    potstill: Callable[..., Outcome], tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    command = ["distill", tiny_teacher.path, "--train", tiny_csv, "--out", tmp_path / "out", "--control", "--num-layers", 1]
    further = write_csv(tmp_path / "further.csv", tiny_texts(40, seed=8))
    command += ["--epochs", 1, "--batch-size", 64, "--learning-rate", "2e-3", "--unlabeled", further]
    done = potstill(*command)
    assert done.code == 0, done.err
    assert done.out.startswith("measured on 40 validation texts\n")
    assert "One seed" in done.out
    assert f"sealed {tmp_path / 'out'}: the student of seed 0, best on the validation texts" in done.out
    report = json.loads(potstill(*command, "--json").out)
    assert report["split"] == "validation"
    assert report["words"] in done.out
