"""What a comparison of arms reports, from logits written down here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distill.data import Dataset
from distill.evaluation.intervals import Estimate
from distill.evaluation.proof import PROOF_COLUMNS, ProofReport, Run, proof_cells, prove, verdict_in_words, verdict_of
from distill.labels import Logits

DATA = Dataset(tuple(f"text {n}" for n in range(40)), np.array([0, 1] * 20, dtype=np.int64), ("bad", "good"), "here")


def answers(wrong: int, *, sure: float = 2.0) -> Logits:
    """Return logits that give the true label to all but the first `wrong` texts."""
    given = DATA.label_ids.copy()
    given[:wrong] = 1 - given[:wrong]
    return (sure * np.eye(2)[given]).astype(np.float32)


def run(seed: int, wrong: int, *, arm: str = "student", sure: float = 2.0) -> Run:
    return Run(seed, f"runs/{arm}-seed-{seed}", 3, 0.8, answers(wrong, sure=sure))


def report(*, control: int | None = 10, seeds: int = 2) -> ProofReport:
    arms = {"student": [run(seed, 2) for seed in range(seeds)]}
    if control is not None:
        arms["control"] = [run(seed, control, arm="control") for seed in range(seeds)]
    return prove(DATA, split="test", teacher=answers(0), arms=arms, chosen_seed=1)


def test_figures_of_an_arm_by_hand() -> None:
    # Two of 40 wrong, one of each label: recall and precision 19/20 for both labels.
    student = report().arms["student"]
    assert student.macro_f1.value == student.retention.value == student.agreement.value == pytest.approx(0.95)
    sure = 1 / (1 + np.exp(-2))
    assert student.negative_log_likelihood == pytest.approx(-(38 * np.log(sure) + 2 * np.log(1 - sure)) / 40)
    assert student.brier_score == pytest.approx(2 * (38 * (1 - sure) ** 2 + 2 * sure**2) / 40)
    assert student.expected_calibration_error == pytest.approx(0.95 - sure)
    assert [each.seed for each in student.runs] == [0, 1]
    assert student.runs[1].folder == "runs/student-seed-1"


def test_calibration_is_the_mean_over_seeds() -> None:
    arms = {"student": [run(0, 0, sure=1.0), run(1, 0, sure=3.0)]}
    student = prove(DATA, split="test", teacher=answers(0), arms=arms, chosen_seed=0).arms["student"]
    assert student.negative_log_likelihood == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-3))) / 2)


def test_a_better_student_helped_and_a_worse_one_did_not() -> None:
    helped, hurt, alike = report(control=20), report(control=0), report(control=2)
    assert helped.gain is not None
    assert helped.gain.value == pytest.approx(0.45)
    assert (helped.verdict, hurt.verdict, alike.verdict) == ("helped", "cannot be told", "cannot be told")
    assert helped.words.startswith("Distillation helped: +0.4500")


def test_without_a_control_nothing_is_claimed() -> None:
    alone = report(control=None)
    assert alone.gain is alone.verdict is None
    assert "no control" in alone.words
    assert set(alone.arms) == {"student"}


def test_the_table_has_a_row_per_arm_and_a_cell_per_column() -> None:
    rows = proof_cells(report())
    assert [row[0] for row in rows] == ["teacher", "student", "control"]
    assert all(len(row) == len(PROOF_COLUMNS) for row in rows)
    assert rows[1][1:3] == ["0, 1", "0.9500"]
    assert rows[1][4:6] == ["95.0%", "95.0%"]


def test_the_report_is_json_without_logits() -> None:
    written = json.loads(json.dumps(report().to_dict(), allow_nan=False))
    assert written["arms"]["control"]["runs"][0].keys() == {
        "seed",
        "folder",
        "epochs",
        "validation_macro_f1",
        "macro_f1",
        "expected_calibration_error",
        "brier_score",
        "negative_log_likelihood",
    }
    assert (written["schema"], written["split"], written["num_texts"], written["chosen_seed"]) == (1, "test", 40, 1)
    assert written["fingerprint"] == DATA.fingerprint()


def test_several_labels_agree_by_decisions() -> None:
    has = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 5, dtype=np.int64)
    data = Dataset(tuple(f"text {n}" for n in range(20)), has, ("a", "b"), "here")
    logits = (2 * has - 1).astype(np.float32)
    wrong = logits.copy()
    wrong[0, 0] = -1
    found = prove(data, split="validation", teacher=logits, arms={"student": [Run(0, "runs/x", 1, 1.0, wrong)]}, chosen_seed=0)
    assert found.arms["student"].agreement.value == pytest.approx(39 / 40)
    assert found.arms["student"].macro_f1.value == pytest.approx((18 / 19 + 1) / 2)


@pytest.mark.parametrize(
    ("gain", "verdict", "figure"),
    [
        (Estimate(0.012, 0.004, 0.02), "helped", "+0.0120"),
        (Estimate(-0.01, -0.02, -0.001), "did not help", "-0.0100"),
        (Estimate(0.003, -0.004, 0.01), "cannot be told", "-0.0040 to +0.0100"),
        (Estimate(0, 0, 0), "cannot be told", "+0.0000"),
    ],
)
def test_the_verdict_follows_the_interval(gain: Estimate, verdict: str, figure: str) -> None:
    assert verdict_of(gain) == verdict
    words = verdict_in_words(gain, subject="transfer from nyt", against="no transfer", num_seeds=3)
    assert figure in words
    assert "ransfer from nyt" in words
    assert "against no transfer" in words


def test_the_three_verdicts_have_three_sentences_and_one_seed_is_reported() -> None:
    gains = (Estimate(0.1, 0.05, 0.15), Estimate(0.1, -0.05, 0.15), Estimate(0.1, -0.15, -0.05))
    sentences = [verdict_in_words(gain, num_seeds=2) for gain in gains]
    assert "helped" in sentences[0]
    assert "unclear" in sentences[1]
    assert "lowered" in sentences[2]
    assert "One seed" not in "".join(sentences)
    assert "One seed" in verdict_in_words(gains[0], num_seeds=1)
