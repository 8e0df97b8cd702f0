"""Intervals on simulated processes cover the true value; pairs; too few samples are refused."""

from __future__ import annotations

import numpy as np
import pytest

from distill.errors import SettingsError
from export.measure.statistics import marks_of, medians_of, over_processes, percentile, ratios_of, spread, tail

ROUNDS_OF = (0, 0, 0, 1, 1, 2, 2, 2)
"""Which process answered in each of eight rounds."""


def test_the_median_of_a_process_is_that_of_all_its_samples() -> None:
    assert medians_of([[1.0, 9.0], [3.0], [4.0], [5.0, 5.0]], [0, 1, 0, 1]).tolist() == [4.0, 5.0]


def test_an_estimate_is_the_geometric_mean_of_the_processes() -> None:
    found = over_processes([1.0, 2.0, 4.0])
    # logarithms to base 2 are 0, 1 and 2: mean 1, standard deviation 1, error 1 / sqrt(3); t of two degrees of freedom 4.303
    assert found.value == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2 * 2 ** (-4.3027 / 3**0.5), 2 * 2 ** (4.3027 / 3**0.5)), rel=1e-4)


def test_a_ratio_pairs_the_texts_of_a_round() -> None:
    # the same texts in the same order: each exactly twice as fast, though the texts differ tenfold and the rounds by a half
    slow = [[factor * length for length in (1.0, 4.0, 10.0)] for factor in (1.0, 1.2, 0.9, 1.5, 1.1, 1.0, 0.8, 1.3)]
    fast = [[sample / 2 for sample in each] for each in slow]
    found = over_processes(ratios_of(slow, fast, ROUNDS_OF))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_above_one_says_the_other_is_faster() -> None:
    assert over_processes(ratios_of([[3.0]] * 8, [[1.0]] * 8, ROUNDS_OF)).value == pytest.approx(3.0)


def test_a_process_counts_once_however_many_rounds_it_has() -> None:
    process_of = (*ROUNDS_OF, *[2] * 10)
    reference = [[float(np.exp(number))] for number in process_of]
    found = ratios_of(reference, [[1.0]] * len(process_of), process_of)
    assert found == pytest.approx(np.exp([0, 1, 2]))
    assert over_processes(found).value == pytest.approx(np.e)  # by rounds it would be exp(28 / 18)


def test_rounds_that_agree_do_not_hide_that_processes_differ() -> None:
    reference = [[1.0 + 0.03 * (number - 1)] for number in ROUNDS_OF]  # 3 % slower, as fast, 3 % faster, in every round
    found = over_processes(ratios_of(reference, [[1.0]] * 8, ROUNDS_OF))
    assert found.low < 0.95
    assert found.high > 1.05


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(SettingsError, match="their times do not pair"):
        ratios_of([[1.0, 2.0]] * 8, [[1.0]] * 8, ROUNDS_OF)


@pytest.mark.parametrize("processes", [3, 4, 8])
def test_an_interval_of_95_percent_holds_the_truth_about_95_times_in_100(processes: int) -> None:
    draw = np.random.default_rng(processes)
    hits = 0
    for _ in range(400):
        found = over_processes(np.exp(draw.normal(0.0, 1.0, processes)))
        hits += found.low <= 1.0 <= found.high
    assert 367 <= hits <= 393  # 95 % of 400 is 380; three standard errors of 4.4 either way


def test_two_processes_make_no_interval() -> None:
    with pytest.raises(SettingsError, match="at least 3 processes of a row, got 2"):
        over_processes([1.0, 1.0])


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (99, 662)])
def test_a_tail_needs_its_samples(percent: int, least: int) -> None:
    samples = np.arange(least, dtype=float)
    assert percentile(samples[1:], percent) is None
    assert percentile(samples, percent) == pytest.approx(percent / 100 * (least - 1))
    assert tail([samples[1:]], percent) is None


def test_the_interval_of_a_tail_takes_rounds_as_units() -> None:
    # Of eight rounds one is slow as a whole: its 100 samples are not 100 independent ones.
    rounds = [np.full(100, 1.0)] * 7 + [np.full(100, 9.0)]
    found = tail(rounds, 99)
    assert found is not None
    assert (found.value, found.low, found.high) == (9.0, 1.0, 9.0)  # without that round, as one draw in three is, it is 1
    together = tail([np.concatenate(rounds)], 99)
    assert together is not None
    assert together.low == together.high == 9.0  # a single round says nothing of how sure it is


def test_spread_is_between_the_rounds_not_within() -> None:
    assert spread([[1.0, 100.0, 50.0]] * 6) == 0.0
    # medians 10, 10, 10, 10, 20: a tenth below the top lies at 16, so (16 - 10) / 10
    assert spread([[10.0]] * 4 + [[20.0]]) == pytest.approx(0.6)


def test_marks_say_what_is_wrong_and_nothing_else() -> None:
    assert marks_of([[1.0] * 100] * 8, others_processors=0.05, stolen_share=0.001) == []
    rounds = [[1.0] * 98 + [5.0] * 2] * 7 + [[1.5] * 100]
    marks = marks_of(rounds, steady=False, others_processors=0.8, stolen_share=0.2)
    assert [mark.partition(":")[0] for mark in marks] == ["not warm", "busy machine", "stolen time", "long tail"]
    assert marks_of([[1.0]] * 4 + [[2.0]])[0].startswith("unsteady: its rounds differ by 60%")
