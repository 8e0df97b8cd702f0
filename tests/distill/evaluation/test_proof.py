"""Comparing arms: figures by hand, intervals against a plain loop, and how often an interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from distill.errors import DatasetError, SettingsError
from distill.evaluation.intervals import Bootstrap, Estimate, Figure, mean_of
from distill.evaluation.proof import verdict_in_words, verdict_of


def rows(*lines: str) -> NDArray[np.int64]:
    return np.array([[int(digit) for digit in line] for line in lines], dtype=np.int64)


LABELS = rows("0011")[0]
# Run 1 is right throughout: 1. Run 2 misses the last: label 0 has F1 4/5, label 1 has 2/3, mean 11/15.
STUDENT = rows("0011", "0010")
# Run 1 misses the last: 11/15. Run 2 gives label 0 throughout: 2/3 and 0, mean 1/3.
CONTROL = rows("0010", "0000")


def test_means_over_seeds_and_their_difference_and_ratio_by_hand() -> None:
    bootstrap = Bootstrap(LABELS, num_labels=2, num_seeds=2)
    student, control = bootstrap.macro_f1(STUDENT), bootstrap.macro_f1(CONTROL)
    assert student.value == pytest.approx((1 + 11 / 15) / 2)
    assert control.value == pytest.approx((11 / 15 + 1 / 3) / 2)
    assert (student - control).value == pytest.approx(1 / 3)
    assert (control / student).value == pytest.approx((16 / 15) / (26 / 15))  # ratio of means; the mean of ratios is 0.594


def test_agreement_is_of_texts_seed_by_seed() -> None:
    bootstrap = Bootstrap(LABELS, num_labels=3, num_seeds=2)
    assert bootstrap.agreement(STUDENT, CONTROL).value == pytest.approx((3 / 4 + 3 / 4) / 2)
    itself = bootstrap.agreement(STUDENT, STUDENT).estimate()
    assert (itself.value, itself.low, itself.high) == pytest.approx((1, 1, 1))


def test_agreement_with_several_labels_is_of_decisions() -> None:
    labels = np.array([[1, 0], [1, 1]])
    bootstrap = Bootstrap(labels, num_labels=2, num_seeds=1)
    assert bootstrap.agreement(labels, np.array([[1, 1], [1, 1]])).value == pytest.approx(3 / 4)


def test_macro_f1_with_several_labels_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    labels, first, second = (generator.integers(0, 2, (50, 3)) for _ in range(3))
    found = Bootstrap(labels, num_labels=3, num_seeds=2).macro_f1(np.stack([first, second]))
    assert found.value == pytest.approx(np.mean([f1_score(labels, given, average="macro") for given in (first, second)]))


def test_one_run_of_a_teacher_stands_for_every_seed() -> None:
    bootstrap = Bootstrap(LABELS, num_labels=2, num_seeds=2)
    alone, twice = bootstrap.macro_f1(STUDENT[1]), bootstrap.macro_f1(STUDENT[[1, 1]])
    assert alone.value == twice.value == pytest.approx(11 / 15)
    assert np.array_equal(alone.samples, twice.samples)


def test_texts_are_drawn_in_pairs() -> None:
    # Two arms that differ on one text only: unpaired, their difference would vary as much as they do.
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 500)
    first = np.where(generator.random(500) < 0.8, labels, 1 - labels)
    second = first.copy()
    second[0] = 1 - second[0]
    bootstrap = Bootstrap(labels, num_labels=2, num_seeds=1)
    apart = (bootstrap.macro_f1(first) - bootstrap.macro_f1(second)).estimate()
    alone = bootstrap.macro_f1(first).estimate()
    assert alone.high - alone.low > 0.05
    assert max(abs(apart.low), abs(apart.high)) < 0.011  # a text of 500 counts 0.002, and is drawn five times at most


def test_the_interval_over_texts_is_that_of_a_plain_loop() -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 300)
    predicted = np.where(generator.random((2, 300)) < 0.7, labels, generator.integers(0, 3, 300))
    scores = []
    for _ in range(2000):
        drawn = generator.integers(0, 300, 300)
        runs = [f1_of(labels[drawn], predicted[run, drawn]) for run in generator.integers(0, 2, 2)]
        centre = np.mean([f1_of(labels[drawn], predicted[run, drawn]) for run in range(2)])
        scores.append(centre + np.sqrt(2) * (np.mean(runs) - centre))
    found = Bootstrap(labels, num_labels=3, num_seeds=2).macro_f1(predicted).estimate()
    assert (found.low, found.high) == pytest.approx(np.percentile(scores, [2.5, 97.5]), abs=0.005)


def f1_of(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Macro-F1 over three labels, written out."""
    each = []
    for label in range(3):
        hits = np.sum((labels == label) & (predicted == label))
        each.append(2 * hits / (np.sum(labels == label) + np.sum(predicted == label)))
    return float(np.mean(each))


def test_the_interval_is_that_of_its_seed_whatever_was_asked_before() -> None:
    def asked(seed: int, *before: NDArray[np.int64]) -> Estimate:
        bootstrap = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2, seed=seed)
        for predicted in before:
            bootstrap.macro_f1(predicted.repeat(20, axis=1))
        return bootstrap.macro_f1(STUDENT.repeat(20, axis=1)).estimate()

    assert asked(0) == asked(0, CONTROL, STUDENT)
    assert asked(0) != asked(1)


def test_many_texts_are_drawn_piece_by_piece_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2).macro_f1(STUDENT.repeat(20, axis=1))
    monkeypatch.setattr("distill.evaluation.intervals._CHUNK_VALUES", 1000)
    pieces = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2).macro_f1(STUDENT.repeat(20, axis=1))
    assert np.array_equal(whole.samples, pieces.samples)


def coverage(*, seed_spread: float, trials: int = 200, texts: int = 300, num_seeds: int = 3) -> float:
    """How often the interval of a gain holds the true gain, 0: two arms that are right equally often, by the same law.

    A text's difficulty is shared by all runs; a run's skill is drawn anew for each seed and arm.
    """
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(trials):
        labels = generator.integers(0, 2, texts)
        ease = generator.normal(1.5, 1.5, texts)
        arms = []
        for _ in range(2):
            skill = generator.normal(0, seed_spread, (num_seeds, 1))
            right = generator.random((num_seeds, texts)) < 1 / (1 + np.exp(-(ease + skill)))
            arms.append(np.where(right, labels, 1 - labels))
        bootstrap = Bootstrap(labels, num_labels=2, num_seeds=num_seeds, samples=400)
        gain = (bootstrap.macro_f1(arms[0]) - bootstrap.macro_f1(arms[1])).estimate()
        held += gain.low <= 0 <= gain.high
    return held / trials


def test_the_interval_of_a_gain_holds_the_truth_nearly_always() -> None:
    # 95 % is promised; drawing texts and seeds at once errs on the side of caution where runs differ text by text.
    assert coverage(seed_spread=0.0) >= 0.95


def test_chance_in_training_is_in_the_interval() -> None:
    # Three seeds say little of their own spread: at a spread as large as that of the texts some are missed, not many.
    assert coverage(seed_spread=0.1) >= 0.93


@pytest.mark.parametrize(
    ("gain", "verdict", "said"),
    [
        (Estimate(0.012, 0.004, 0.02), "helped", "Distillation helped: +0.0120 macro-F1"),
        (Estimate(-0.01, -0.02, -0.001), "did not help", "Distillation did not help, it cost quality: -0.0100"),
        (
            Estimate(0.003, -0.004, 0.01),
            "cannot be told",
            "told: +0.0030 macro-F1 against the control, 95 % interval -0.0040 to +0.0100, which holds 0",
        ),
        (Estimate(0, 0, 0), "cannot be told", "cannot be told"),
    ],
)
def test_the_verdict_follows_the_interval(gain: Estimate, verdict: str, said: str) -> None:
    assert verdict_of(gain) == verdict
    words = verdict_in_words(gain, num_seeds=3)
    assert said in words
    assert "One seed" not in words
    assert "One seed" in verdict_in_words(gain, num_seeds=1)


def test_a_figure_keeps_its_pairs() -> None:
    gain = Figure(0.9, np.array([0.8, 1.0])) - Figure(0.8, np.array([0.7, 0.9]))
    assert gain.samples == pytest.approx([0.1, 0.1])


def test_a_mean_of_figures_is_taken_draw_by_draw() -> None:
    mean = mean_of([Figure(0.9, np.array([0.8, 1.0])), Figure(0.7, np.array([1.0, 0.8]))])
    assert mean.value == pytest.approx(0.8)
    assert mean.samples.tolist() == pytest.approx([0.9, 0.9])  # what one pair lost the other gained: nothing is uncertain
    with pytest.raises(SettingsError, match="mean of no figures"):
        mean_of([])


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (2, 4, 2)])
def test_predictions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"predictions have shape .*, wanted \(2, 4\): seeds, then texts"):
        Bootstrap(LABELS, num_labels=2, num_seeds=2).macro_f1(np.zeros(shape, np.int64))


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DatasetError, match="no text to compare on"):
        Bootstrap(LABELS[:0], num_labels=2, num_seeds=1)
    with pytest.raises(SettingsError, match="num_seeds must be at least 1, got 0"):
        Bootstrap(LABELS, num_labels=2, num_seeds=0)
