"""Intervals on simulated rounds cover the true value; pairs; too few samples are refused."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.sessions import SpeedSettings, dealt, in_turn, shares
from distill.errors import SettingsError
from export.measure.protocol import settle
from export.measure.statistics import (
    marks_of,
    mean_estimate,
    median_estimate,
    percentile,
    ratio_estimate,
    ratios_of,
    samples_by_process,
    spread,
)

ROUNDS_OF = (0, 0, 0, 1, 1, 2, 2, 2)
"""Which process answered in each of eight rounds."""


def test_the_median_is_that_of_all_samples() -> None:
    processes = [[1.0, 9.0, 9.0, 2.0, 8.0, 3.0, 7.0], [4.0, 6.0, 1.0, 9.0], [2.0, 8.0, 3.0, 7.0, 4.0, 6.0]]
    found = median_estimate(processes, seed=0)
    # eight samples are below 6, and with it nine of seventeen; the processes' medians 7, 5 and 5 would give 5
    assert found.value == pytest.approx(6.0)
    assert found.low <= 6.0 <= found.high


def test_a_ratio_pairs_the_texts_of_a_round() -> None:
    # the same texts in the same order: each exactly twice as fast, though the texts differ tenfold and the rounds by a half
    slow = [[factor * length for length in (1.0, 4.0, 10.0)] for factor in (1.0, 1.2, 0.9, 1.5, 1.1, 1.0, 0.8, 1.3)]
    fast = [[sample / 2 for sample in each] for each in slow]
    found = ratio_estimate(slow, fast, process_of=ROUNDS_OF, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_above_one_says_the_other_is_faster() -> None:
    assert ratio_estimate([[3.0]] * 8, [[1.0]] * 8, process_of=ROUNDS_OF, seed=0).value == pytest.approx(3.0)


def test_a_process_counts_once_however_many_rounds_it_has() -> None:
    # logarithms of the ratios by process: 0, 1 and 2; their mean is 1. By rounds it would be (3 * 0 + 2 * 1 + 3 * 2) / 8 = 1
    # too, so the last process gets ten rounds more: by rounds that is 28 / 18.
    process_of = (*ROUNDS_OF, *[2] * 10)
    reference = [[float(np.exp(number))] for number in process_of]
    other = [[1.0]] * len(process_of)
    assert ratios_of(reference, other, process_of=process_of) == pytest.approx(np.exp([0, 1, 2]))
    assert ratio_estimate(reference, other, process_of=process_of, seed=0).value == pytest.approx(np.e)


def test_an_interval_is_students_over_the_processes() -> None:
    found = mean_estimate([-0.1, 0.0, 0.1], seed=0)
    # standard deviation 0.1, error 0.1 / sqrt(3) = 0.0577, t of two degrees of freedom 4.303; 2,000 draws know it to 2 %
    assert found.high == pytest.approx(0.0577 * 4.303, rel=0.05)
    assert found.low == pytest.approx(-found.high)


def test_rounds_that_agree_do_not_hide_that_processes_differ() -> None:
    # by process 3 % slower, as fast and 3 % faster, in each of its rounds
    reference = [[1.0 + 0.03 * (number - 1)] for number in ROUNDS_OF]
    found = ratio_estimate(reference, [[1.0]] * 8, process_of=ROUNDS_OF, seed=0)
    assert found.low < 0.95
    assert found.high > 1.05


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(SettingsError, match="their times do not pair"):
        ratio_estimate([[1.0, 2.0]] * 8, [[1.0]] * 8, process_of=ROUNDS_OF, seed=0)


@pytest.mark.parametrize("processes", [3, 4, 8])
def test_an_interval_of_95_percent_holds_the_truth_about_95_times_in_100(processes: int) -> None:
    draw = np.random.default_rng(processes)
    hits = 0
    for seed in range(400):
        found = mean_estimate(draw.normal(0.0, 1.0, processes), seed=seed)
        hits += found.low <= 0.0 <= found.high
    # 95 % of 400 is 380; three standard errors of 4.4 either way are 367 and 393. The percentiles of a bootstrap of three
    # processes end at the smallest and the largest: they hold the truth three times in four.
    assert 367 <= hits <= 393


def test_two_processes_make_no_interval() -> None:
    with pytest.raises(SettingsError, match="at least 3 processes of a row, got 2; give --processes 3 or more"):
        median_estimate([[1.0]] * 2, seed=0)


def test_samples_are_told_apart_by_process() -> None:
    assert samples_by_process([[1.0, 2.0], [3.0], [4.0]], [0, 1, 0]) == [[1.0, 2.0, 4.0], [3.0]]


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (99, 662)])
def test_a_tail_needs_its_samples(percent: int, least: int) -> None:
    assert percentile([[1.0] * (least - 1)], percent) is None
    assert percentile([[1.0] * least], percent) == 1.0


def test_spread_is_between_the_rounds_not_within() -> None:
    assert spread([[1.0, 100.0, 50.0]] * 6) == 0.0
    # medians 10, 10, 10, 10, 20: a tenth below the top lies at 16, so (16 - 10) / 10
    assert spread([[10.0]] * 4 + [[20.0]]) == pytest.approx(0.6)


def test_marks_say_what_is_wrong_and_nothing_else() -> None:
    assert marks_of(spread=0.1, steady=True, others_processors=0.05, samples=100) == []
    marks = marks_of(spread=0.3, steady=False, others_processors=0.8, samples=40)
    assert [mark.partition(":")[0] for mark in marks] == ["unsteady", "not warm", "busy machine", "few samples"]


def test_a_warm_up_ends_when_the_times_are_steady() -> None:
    now = 0.0

    def one(_: str) -> np.ndarray:
        nonlocal now
        now += 0.1 if now > 2.0 else 0.1 + (2.0 - now)  # it gets faster for two seconds
        return np.zeros(2)

    found = settle(one, ["a", "b"], most_s=60.0, window_s=1.0, clock=lambda: now)
    assert found["steady"]
    assert 4.0 < found["settled_s"] < 8.0  # two slow seconds, then three windows of one


def test_a_warm_up_without_end_is_cut_and_says_so() -> None:
    now, factor = 0.0, 1.0

    def one(_: str) -> np.ndarray:
        nonlocal now, factor
        factor *= 1.05
        now += 0.01 * factor
        return np.zeros(2)

    found = settle(one, ["a"], most_s=3.0, window_s=0.2, clock=lambda: now)
    assert not found["steady"]
    assert found["settled_s"] > 3.0


def test_every_text_is_dealt_once_and_every_round_gets_long_ones() -> None:
    lengths = list(range(103))
    hands = dealt(lengths, 10, seed=0)
    assert sorted(index for hand in hands for index in hand) == lengths
    assert {len(hand) for hand in hands} <= {10, 11}
    assert all(max(hand) >= 90 and min(hand) < 10 for hand in hands)


def test_rounds_go_there_and_back_so_that_none_is_early_more_often() -> None:
    settings = SpeedSettings(seed=3)
    orders = [in_turn("abcd", number, settings, what=1) for number in range(40)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert all(there == back[::-1] for there, back in zip(orders[::2], orders[1::2], strict=True))
    assert len({"".join(order) for order in orders[::2]}) > 5  # of 24 orders, drawn twenty times
    assert orders != [in_turn("abcd", number, settings, what=0) for number in range(40)]
    named = SpeedSettings(order="alternating")
    assert [in_turn("ab", number, named, what=1) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_rounds_are_shared_out_among_processes() -> None:
    assert [list(each) for each in shares(8, 3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    with pytest.raises(SettingsError, match="4 processes need at least as many rounds, got 3; give --rounds 4"):
        shares(3, 4)
