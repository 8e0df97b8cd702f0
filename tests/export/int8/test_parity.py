"""The gates: a difference in one text of one batch is found and named, and each budget stands for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from distill.classifier import TextInput
from distill.errors import ParityError, QualityError, SettingsError
from distill.evaluation.intervals import wilson_interval
from distill.evaluation.metrics import ClassQuality, Quality
from distill.labels import Logits, ProblemType
from export.int8.parity import BATCH_SIZES, Change, change_between, compare, parity_texts, require_quality
from export.settings import ExportSettings

TEXTS = tuple(f"text {index}" for index in range(70))


class Lengths:
    """A classifier whose logits are known: the text's number, and its negative."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, labels: tuple[str, ...] = ("a", "b")) -> None:
        self.labels = labels
        self.batches: list[int] = []

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.batches.append(len(texts))
        numbers = np.array([int(str(text).split()[1]) for text in texts], dtype=np.float32)
        return np.stack([numbers, -numbers], axis=1)


class OffAt(Lengths):
    """The same, but for one logit of one text, and there only in batches of at least or at most a size."""

    def __init__(self, text: str, by: float, *, least: int = 1, most: int = 1000) -> None:
        super().__init__()
        self._text, self._by, self._sizes = text, by, range(least, most + 1)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        logits = super().predict_logits(texts)
        if self._text in texts and len(texts) in self._sizes:
            logits[list(texts).index(self._text), 1] += self._by
        return logits


def test_equal_classifiers_are_zero_apart_at_every_batch_size() -> None:
    candidate = Lengths()
    report = compare(Lengths(), candidate, TEXTS)
    assert report.max_abs_diff == 0
    assert (report.num_texts, report.batch_sizes) == (70, (1, 2, 7, 32))
    assert candidate.batches == [1] * 70 + [2] * 35 + [7] * 10 + [32, 32, 6]
    report.require(1e-9)


@pytest.mark.parametrize("by", [0.01, -0.01])
@pytest.mark.parametrize("sizes", [{}, {"most": 1}, {"least": 2, "most": 2}, {"least": 32}], ids=str)
def test_a_logit_that_is_off_in_one_text_is_found_and_named(by: float, sizes: dict[str, int]) -> None:
    report = compare(Lengths(), OffAt("text 43", by, **sizes), TEXTS)
    assert report.max_abs_diff == pytest.approx(0.01, rel=1e-3)
    assert report.worst_text == "text 43"
    with pytest.raises(ParityError, match=r"0\.01 .*0\.0001.*'text 43'") as caught:
        report.require(1e-4)
    assert caught.value.max_abs_diff == report.max_abs_diff
    assert (caught.value.tolerance, caught.value.worst_text) == (1e-4, "text 43")
    report.require(0.02)


@pytest.mark.parametrize("sizes", [{}, {"most": 1}, {"least": 7, "most": 7}, {"least": 32}], ids=str)
def test_a_logit_that_is_no_number_is_found_at_any_batch_size(sizes: dict[str, int]) -> None:
    report = compare(Lengths(), OffAt("text 5", float("nan"), **sizes), TEXTS)
    assert np.isnan(report.max_abs_diff)
    assert report.worst_text == "text 5"
    with pytest.raises(ParityError):
        report.require(1e9)


def test_a_reference_that_is_no_number_does_not_pass_either() -> None:
    with pytest.raises(ParityError):
        compare(OffAt("text 5", float("nan")), Lengths(), TEXTS).require(1e9)


def test_classifiers_with_other_label_order_are_not_compared() -> None:
    with pytest.raises(SettingsError, match=r"PyTorch .*the graph "):
        compare(Lengths(("a", "b")), Lengths(("b", "a")), TEXTS)


def test_parity_texts_hold_the_shortest_the_longest_and_one_past_every_limit() -> None:
    texts = [f"{'word ' * (index % 50 + 1)}{index}" for index in range(500)]
    chosen = parity_texts(texts)
    assert len(chosen) <= 64
    assert len(set(chosen)) == len(chosen)
    lengths = [len(text) for text in chosen[:-1]]
    assert (min(lengths), max(lengths)) == (len(texts[0]), len(texts[149]))
    assert len(chosen[-1].split()) > 512
    assert set(chosen[:-1]) <= set(texts)
    assert parity_texts(texts) == chosen
    assert len(chosen) > max(BATCH_SIZES)  # else no batch is ever full


def test_few_texts_are_all_checked() -> None:
    assert set(parity_texts(("dull", "a film"))) == {"dull", "a film", "dull a film"}


def quality(macro_f1: float = 0.9, *, num_texts: int = 1000, **recalls: float) -> Quality:
    """Return figures of two labels with half of the texts each."""
    recalls = recalls or {"bad": 0.9, "good": 0.9}
    return Quality(
        macro_f1=macro_f1,
        macro_f1_interval=(macro_f1 - 0.01, macro_f1 + 0.01),
        accuracy=macro_f1,
        expected_calibration_error=0.0,
        brier_score=0.0,
        negative_log_likelihood=0.0,
        per_class={name: ClassQuality(0.9, recall, 0.9, num_texts // 2) for name, recall in recalls.items()},
        num_texts=num_texts,
    )


def changed(agreement: float, *, mean_probability_change: float = 0.0) -> Change:
    """Return how two classifiers differ that give this share of the texts the same labels."""
    return Change(agreement, mean_probability_change)


BUDGETS = ExportSettings(budget_f1=0.005, budget_recall=0.03, min_agreement=0.97)


def test_int8_within_every_budget_passes() -> None:
    after = quality(0.8951, bad=0.871, good=0.95)
    require_quality(before=quality(0.9), after=after, change=changed(0.97), settings=BUDGETS)


def test_a_gain_is_never_too_much() -> None:
    before, after = quality(0.5, bad=0.5, good=0.5), quality(1.0, bad=1.0, good=1.0)
    require_quality(before=before, after=after, change=changed(0.97), settings=BUDGETS)


@pytest.mark.parametrize(
    ("after", "agreed", "metric", "figures", "flag"),
    [
        (quality(0.894), 0.98, "macro-F1", (0.9, 0.894, 0.005), "--budget-f1"),
        # Collapsing towards one class: macro-F1 may hide it, the other class's recall does not.
        (quality(0.9, bad=0.86, good=0.95), 0.98, "recall of 'bad'", (0.9, 0.86, 0.03), "--budget-recall"),
        (quality(0.9, bad=0.95, good=0.86), 0.98, "recall of 'good'", (0.9, 0.86, 0.03), "--budget-recall"),
        (quality(0.9), 0.96, "agreement with fp32", (1.0, 0.96, 0.03), "--min-agreement"),
    ],
    ids=["macro-F1", "recall of the first", "recall of the second", "agreement"],
)
def test_each_budget_that_is_overdrawn_is_named(
    after: Quality, agreed: float, metric: str, figures: tuple[float, float, float], flag: str
) -> None:
    with pytest.raises(QualityError, match=f"{metric}.*{flag}") as caught:
        require_quality(before=quality(0.9), after=after, change=changed(agreed), settings=BUDGETS)
    error = caught.value
    assert error.metric == metric
    assert (error.before, error.after, error.budget) == pytest.approx(figures)
    assert error.exit_code == 4


def test_a_figure_that_is_no_number_does_not_pass() -> None:
    with pytest.raises(QualityError, match="macro-F1"):
        require_quality(
            before=quality(), after=replace(quality(), macro_f1=float("nan")), change=changed(0.97), settings=BUDGETS
        )


def test_probabilities_that_drift_from_the_truth_fail_although_every_label_stays() -> None:
    # All 1,000 answers are the same and 0.1 surer of themselves, with 90 % right as before.
    after = replace(quality(), expected_calibration_error=0.1)
    with pytest.raises(QualityError) as caught:
        require_quality(before=quality(), after=after, change=changed(1.0, mean_probability_change=0.1), settings=BUDGETS)
    assert caught.value.metric == "calibration"
    assert (caught.value.after, caught.value.budget) == pytest.approx((-0.1, 0.03))
    assert "--budget-ece" in str(caught.value)


def test_texts_that_only_cross_the_edge_of_a_confidence_bin_do_not_fail() -> None:
    # No probability moved by more than 0.005: a calibration error that grew by 0.04 is an effect of the bins.
    after = replace(quality(), expected_calibration_error=0.04)
    require_quality(before=quality(), after=after, change=changed(1.0, mean_probability_change=0.005), settings=BUDGETS)


def test_agreement_counts_texts_whose_labels_are_all_the_same() -> None:
    before = np.float32([[5, 5, -5], [5, -5, -5], [-5, -5, 5], [-5, -5, -5]])
    after = np.float32([[5, 5, -5], [5, 5, -5], [5, 5, -5], [-5, -5, -5]])  # of 12 decisions 4 differ, in 2 texts
    assert change_between(before, after, "multi_label_classification").agreement == 0.5
    assert change_between(before, after, "single_label_classification").agreement == 0.75


def test_the_mean_probability_change_is_of_each_texts_largest() -> None:
    half, three_quarters = [0.0, 0.0], [0.0, float(np.log(3))]  # probabilities 1/2 and 1/2; 1/4 and 3/4
    change = change_between(np.float32([half, half]), np.float32([three_quarters, half]), "single_label_classification")
    assert change.mean_probability_change == pytest.approx(0.125)


@pytest.mark.parametrize("num_texts", [20, 50, 100, 1000])
def test_two_texts_that_changed_are_never_held_against_int8(num_texts: int) -> None:
    # Both lost from one class: its recall falls by 4 / n, and macro-F1 by a little more than 2 / n.
    half = num_texts // 2
    f1_of_loser, f1_of_gainer = 2 * (half - 2) / (2 * half - 2), 2 * half / (2 * half + 2)
    after = quality((f1_of_loser + f1_of_gainer) / 2, num_texts=num_texts, bad=1 - 2 / half, good=1.0)
    before = quality(1.0, num_texts=num_texts, bad=1.0, good=1.0)
    require_quality(before=before, after=after, change=changed(1 - 2 / num_texts), settings=BUDGETS)


def test_three_texts_of_a_small_set_are() -> None:
    before, after = quality(1.0, num_texts=100, bad=1.0, good=1.0), quality(0.97, num_texts=100, bad=0.94, good=1.0)
    with pytest.raises(QualityError, match="macro-F1"):
        require_quality(before=before, after=after, change=changed(0.97), settings=BUDGETS)


def test_a_budget_that_is_used_up_exactly_is_not_overdrawn() -> None:
    # Two of the 50 texts of a label are lost, and 4 of all 100 changed.
    before, after = quality(1.0, num_texts=100, bad=1.0, good=1.0), quality(0.98, num_texts=100, bad=0.96, good=1.0)
    settings = ExportSettings(budget_f1=0.02, budget_recall=0.04, min_agreement=0.96)
    assert 1 - 0.96 > 0.04
    require_quality(before=before, after=after, change=changed(0.96), settings=settings)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        (81 / 263, 263, 0.2553, 0.3662),  # Newcombe, 1998, table I
        (0.5, 10, 0.2366, 0.7634),
        (0.9, 100, 0.8256, 0.9448),
        (0.0, 10, 0.0, 0.2775),  # none of n: z² / (n + z²), 3.8415 / 13.8415
        (1.0, 10, 0.7225, 1.0),
    ],
)
def test_wilson_intervals_are_the_published_ones(share: float, count: int, low: float, high: float) -> None:
    assert wilson_interval(share, count) == pytest.approx((low, high), abs=5e-5)
