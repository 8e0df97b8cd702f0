"""Intervals: figures by hand, the bootstrap against a plain loop, and how often an interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.harness.interval_simulation import SEED_TO_TEXT, FigureName, Mix, simulated_coverage
from distill.errors import DatasetError, SettingsError
from distill.evaluation.intervals import Bootstrap, Figure, macro_f1_interval


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
    assert np.array_equal(alone.draws, twice.draws)


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
    predicted = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 3, 300))
    drawn = [generator.integers(0, 300, 300) for _ in range(2000)]
    found = Bootstrap(labels, num_labels=3, num_seeds=1).macro_f1(predicted).estimate()
    scores = [f1_of(labels[rows], predicted[rows]) for rows in drawn]
    assert (found.low, found.high) == pytest.approx(np.percentile(scores, [2.5, 97.5]), abs=0.005)


def f1_of(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Macro-F1 over three labels, written out."""
    each = []
    for label in range(3):
        hits = np.sum((labels == label) & (predicted == label))
        each.append(2 * hits / (np.sum(labels == label) + np.sum(predicted == label)))
    return float(np.mean(each))


def test_the_interval_is_that_of_its_seed_whatever_was_asked_before() -> None:
    def asked(seed: int, *before: NDArray[np.int64]) -> list[list[float]]:
        bootstrap = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2, seed=seed)
        for predicted in before:
            bootstrap.macro_f1(predicted.repeat(20, axis=1))
        draws: list[list[float]] = bootstrap.macro_f1(STUDENT.repeat(20, axis=1)).draws.tolist()
        return draws

    assert asked(0) == asked(0, CONTROL, STUDENT)
    assert asked(0) != asked(1)


def test_many_texts_are_drawn_piece_by_piece_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2).macro_f1(STUDENT.repeat(20, axis=1))
    monkeypatch.setattr("distill.evaluation.intervals._CHUNK_VALUES", 1000)
    pieces = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2).macro_f1(STUDENT.repeat(20, axis=1))
    assert np.array_equal(whole.draws, pieces.draws)


CELLS = [(num_seeds, mix) for num_seeds in (2, 3, 5) for mix in SEED_TO_TEXT]


@pytest.mark.parametrize(("num_seeds", "mix"), CELLS)
def test_nominal_95_percent_holds_the_truth_in_95_percent(num_seeds: int, mix: Mix) -> None:
    # In 200 trials the standard error of a coverage of 0.95 is 0.015. The bootstrap over seeds had 0.62 to 0.87.
    found = simulated_coverage(num_seeds, mix, trials=200, texts=300, samples=60)
    assert found.coverage >= 0.93 - 2 * 0.015
    if num_seeds == 5:
        assert found.width_ratio <= 1.35 + 2 * 0.07  # 200 trials estimate the oracle's standard deviation within 5 %


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["gain", "macro_f1", "retention"])
@pytest.mark.parametrize(("num_seeds", "mix"), CELLS)
def test_coverage_in_many_trials(num_seeds: int, mix: Mix, figure: FigureName) -> None:
    found = simulated_coverage(num_seeds, mix, figure=figure, trials=1000)
    assert found.coverage >= 0.93 - 2 * 0.008
    if num_seeds == 5:
        assert found.width_ratio <= 1.35 + 2 * 0.03


def test_the_simulation_mixes_the_variances_as_it_says() -> None:
    # The same texts' part in all three, and 10, 1 and 1/10 of it from the seeds: 11, 2 and 1.1 of it in all.
    spreads = [simulated_coverage(5, mix, trials=200, texts=200, samples=2).spread for mix in ("seeds", "equal", "texts")]
    assert (spreads[0] / spreads[1]) ** 2 == pytest.approx(11 / 2, rel=0.35)
    assert (spreads[1] / spreads[2]) ** 2 == pytest.approx(2 / 1.1, rel=0.35)


def test_seeds_that_differ_widen_the_interval_by_students_t() -> None:
    # Figures 0.8 and 0.9 on any texts: variance 0.005, of the mean 0.0025; t with 1 degree of freedom is 12.706.
    seeds = np.array([0.8, 0.9])
    found = Figure(seeds, np.tile(seeds, (100, 1))).estimate()
    assert (found.value, found.high - found.value) == pytest.approx((0.85, 12.706 * 0.05), rel=1e-4)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_texts_that_move_all_seeds_alike_are_in_the_interval_whole() -> None:
    moves = np.linspace(-1, 1, 1001)
    alike = Figure(np.array([0.0, 0.0]), np.stack([moves, moves], axis=1)).estimate()
    assert (alike.low, alike.high) == pytest.approx((-0.95, 0.95))
    apart = Figure(np.array([0.0, 0.0]), np.stack([moves, -moves], axis=1)).estimate()
    assert (apart.low, apart.high) == (0, 0)  # no shared part; what is left shows between the seeds


def test_one_seed_has_the_percentile_interval_over_texts() -> None:
    draws = np.linspace(0.6, 1.0, 1001)[:, None]
    found = Figure(np.array([0.7]), draws).estimate()
    assert (found.low, found.high) == pytest.approx((0.61, 0.99))


def test_a_difference_is_paired_by_seed_and_resample() -> None:
    first = Figure(np.array([0.8, 1.0]), np.array([[0.8, 1.0], [0.7, 0.9]]))
    second = Figure(np.array([0.7, 0.9]), np.array([[0.7, 0.9], [0.6, 0.8]]))
    gain = (first - second).estimate()
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_ratio_to_one_teacher_has_the_spread_of_the_seeds() -> None:
    students, teacher = np.array([0.72, 0.81]), np.array([0.9, 0.9])
    kept = Figure(students, students[None]) / Figure(teacher, teacher[None])
    assert kept.seeds.tolist() == pytest.approx([0.8, 0.9])


def test_the_interval_of_a_share_is_within_0_and_1_and_that_of_a_difference_need_not_be() -> None:
    # Two seeds that differ by 0.2: t with 1 degree of freedom makes each half width 1.27.
    high, low = (Figure(np.array(seeds), np.tile(seeds, (100, 1)), is_share=True) for seeds in ([0.7, 0.9], [0.1, 0.1]))
    share, difference = high.estimate(), (high - low).estimate()
    assert (share.low, share.value, share.high) == pytest.approx((0, 0.8, 1))
    assert (difference.low, difference.high) == pytest.approx((0.7 - 12.706 * 0.1, 0.7 + 12.706 * 0.1), rel=1e-4)


def test_macro_f1_and_agreement_are_shares() -> None:
    bootstrap = Bootstrap(LABELS.repeat(20), num_labels=2, num_seeds=2)
    student, control = STUDENT.repeat(20, axis=1), CONTROL.repeat(20, axis=1)
    estimates = [bootstrap.macro_f1(student).estimate(), bootstrap.agreement(student, control).estimate()]
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in estimates)


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (2, 4, 2)])
def test_predictions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"shape .*\(2, 4\)"):
        Bootstrap(LABELS, num_labels=2, num_seeds=2).macro_f1(np.zeros(shape, np.int64))


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DatasetError, match="no texts"):
        Bootstrap(LABELS[:0], num_labels=2, num_seeds=1)
    with pytest.raises(SettingsError, match="num_seeds"):
        Bootstrap(LABELS, num_labels=2, num_seeds=0)


def interval(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], *, num_labels: int = 3, seed: int = 0
) -> tuple[float, float]:
    return macro_f1_interval(labels[:, None] == np.arange(num_labels), predicted[:, None] == np.arange(num_labels), seed=seed)


# One classifier's macro-F1


def test_a_label_that_no_text_has_and_no_text_gets_counts_as_zero_in_every_resample() -> None:
    labels = np.array([0, 1]).repeat(500)
    assert interval(labels, labels, num_labels=4) == (0.5, 0.5)


def test_the_interval_is_that_of_drawing_texts_with_replacement() -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 300)
    predicted = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 3, 300))
    drawn = [generator.integers(0, 300, 300) for _ in range(1000)]
    scores = [f1_score(labels[rows], predicted[rows], average="macro", labels=[0, 1, 2], zero_division=0) for rows in drawn]
    low, high = interval(labels, predicted)
    # The ends of two honest bootstraps of 1,000 differ by some thousandths; a 90 % interval would end 0.008 further in.
    assert low == pytest.approx(np.percentile(scores, 2.5), abs=0.005)
    assert high == pytest.approx(np.percentile(scores, 97.5), abs=0.005)


def test_the_interval_narrows_with_the_root_of_the_texts() -> None:
    labels, predicted = rows("000112")[0].repeat(50), rows("001101")[0].repeat(50)
    few = interval(labels, predicted)
    many = interval(labels.repeat(16), predicted.repeat(16))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.1)


def test_the_interval_of_a_classifier_is_that_of_its_seed() -> None:
    first, again, other = (
        interval(rows("000112")[0].repeat(50), rows("001101")[0].repeat(50), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
