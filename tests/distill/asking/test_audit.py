"""What an audit finds in answers whose faults were planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_folders import kept_answer, write_answers
from tiny_task import Outcome, tiny_texts, write_csv

from distill.asking.audit import Audit, audit
from distill.asking.combined import read_answered
from distill.data import Dataset
from distill.errors import DatasetError

LABELS = ("negative", "positive")
ROWS = tiny_texts(300)


def other(label: str) -> str:
    return LABELS[1 - LABELS.index(label)]


def shares(label: str, share: float) -> dict[str, float]:
    return {label: share, other(label): 1 - share}


def right_at(share: float, *, seed: int = 0, confidence: float = 0.8) -> list[Any]:
    """Return an answer to each text, right with this probability and of this confidence."""
    generator = np.random.default_rng(seed)
    given = [label if generator.uniform() < share else other(label) for _, label in ROWS]
    return [
        kept_answer(text, answer, LABELS, shares=shares(answer, confidence))
        for (text, _), answer in zip(ROWS, given, strict=True)
    ]


def gold_of(rows: Any = ROWS) -> Dataset:
    return Dataset.from_texts([text for text, _ in rows], [label for _, label in rows], LABELS, source="gold")


def audited(folder: Path, answers: Any, gold: Dataset | None = None, **arguments: Any) -> Audit:
    return audit(read_answered(write_answers(folder, LABELS, answers)), gold, **arguments)


def test_askings_of_a_text_are_averaged(tmp_path: Path) -> None:
    answers = [
        kept_answer("a", "positive", LABELS, shares=shares("positive", 0.9), mass=0.2),
        kept_answer("a", "negative", LABELS, asking=1, shares=shares("negative", 0.7), mass=0.4),
        kept_answer("b", "positive", LABELS),
        kept_answer("b", "positive", LABELS, asking=1),
        kept_answer("c", None, LABELS, problem="empty"),
    ]
    answered = read_answered(write_answers(tmp_path / "answers", LABELS, answers))
    assert answered.texts == ("a", "b")
    # a: (0.9 + 0.3) / 2. b: two votes and a tenth for each label: 2.1 / 2.2
    assert answered.shares == pytest.approx(np.array([[0.4, 0.6], [0.1 / 2.2, 2.1 / 2.2]]))
    assert answered.logits == pytest.approx(np.log(answered.shares))
    assert audit(answered, None).mean_mass == pytest.approx(0.3)  # of the two answers that have one
    assert (answered.is_vote.tolist(), answered.num_quarantined) == ([False, False, True, True], 1)


def test_what_was_undivided_is_divided_by_the_answer_that_followed(tmp_path: Path) -> None:
    labels = ("very bad", "very good", "neutral")
    both = ("very bad", "very good")
    answers = [
        kept_answer("a", "neutral", labels, shares={"neutral": 0.6}, undivided=((both, 0.4),)),
        kept_answer("a", "very good", both, shares={"very good": 0.75, "very bad": 0.25}),
        kept_answer("b", "neutral", labels, shares={"neutral": 0.6}, undivided=((both, 0.4),)),
    ]
    answered = read_answered(write_answers(tmp_path / "answers", labels, answers))
    assert answered.shares == pytest.approx(np.array([[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]]))


def test_a_good_model_is_good_enough_and_a_random_one_is_not(tmp_path: Path) -> None:
    good = audited(tmp_path / "good", right_at(0.95), gold_of())
    assert good.gold is not None
    assert good.gold.quality.accuracy == pytest.approx(0.95, abs=0.03)
    assert good.gold.is_good_enough
    poor = audited(tmp_path / "poor", right_at(0.5), gold_of())
    assert poor.gold is not None
    assert not poor.gold.is_good_enough
    assert poor.verdict.startswith("Not good enough to teach: macro-F1 ")


def test_gold_labels_that_teach_as_well_are_named(tmp_path: Path) -> None:
    # The label of a tiny text follows from its words, which TF-IDF learns from 300 of them better than 70 % right.
    found = audited(tmp_path / "answers", right_at(0.7), gold_of())
    assert found.gold is not None
    assert found.gold.human_macro_f1 is not None
    assert found.gold.human_macro_f1 > 0.9
    assert found.verdict.startswith("The gold labels alone teach as well")


def test_calibration_is_confidence_against_accuracy(tmp_path: Path) -> None:
    found = audited(tmp_path / "answers", right_at(0.6, confidence=0.9), gold_of())
    assert found.gold is not None
    (only,) = found.gold.bins
    assert (only.count, only.confidence) == (300, pytest.approx(0.9))
    assert only.accuracy == found.gold.quality.accuracy
    assert found.gold.quality.expected_calibration_error == pytest.approx(0.9 - only.accuracy, abs=1e-6)


def test_the_number_of_gold_labels_needed_falls_with_the_square_of_the_width(tmp_path: Path) -> None:
    narrow = audited(tmp_path / "answers", right_at(0.8), gold_of(), wanted_width=0.02)
    wide = audit(read_answered(tmp_path / "answers"), gold_of(), wanted_width=0.04)
    assert narrow.gold is not None
    assert wide.gold is not None
    assert narrow.gold.needed == pytest.approx(4 * wide.gold.needed, abs=4)
    low, high = narrow.gold.quality.macro_f1_interval
    assert narrow.gold.needed == pytest.approx(300 * ((high - low) / 0.02) ** 2, abs=1)
    assert narrow.needed_without_gold == 9604  # (1.96 / 0.02)^2


def test_a_planted_preference_for_the_first_label_is_found(tmp_path: Path) -> None:
    honest = audited(tmp_path / "honest", right_at(0.9))
    assert honest.first_share[1] <= 0.5 <= honest.first_share[2]
    first = [kept_answer(text, rotated_first(text), LABELS) for text, _ in ROWS[:150]]
    biased = audited(tmp_path / "biased", first + right_at(0.9)[150:])
    assert biased.first_share[1] > 0.65
    assert biased.first_expected == 0.5


def rotated_first(text: str) -> str:
    return kept_answer(text, None, LABELS).labels[0]


def test_disagreement_counts_texts_asked_several_times(tmp_path: Path) -> None:
    answers = [
        *(kept_answer(text, "positive", LABELS) for text in "abcd"),
        *(kept_answer(text, "positive", LABELS, asking=1) for text in "ab"),
        kept_answer("c", "negative", LABELS, asking=1),
    ]
    assert audited(tmp_path / "answers", answers).disagreeing == pytest.approx(1 / 3)
    assert audited(tmp_path / "once", answers[:4]).disagreeing is None


def test_planted_wrong_gold_labels_are_suspected(tmp_path: Path) -> None:
    rows = [(text, other(label) if number < 5 else label) for number, (text, label) in enumerate(ROWS)]
    found = audited(tmp_path / "answers", right_at(1.0, confidence=0.95), gold_of(rows))
    assert found.gold is not None
    assert {one.text for one in found.gold.suspect_gold} == {text for text, _ in ROWS[:5]}
    assert found.gold.confusions
    assert sum(count for _, _, count in found.gold.confusions) == 5


def test_planted_wrong_answers_are_suspected_without_gold(tmp_path: Path) -> None:
    answers = right_at(1.0)
    for place in (3, 50, 120):
        answers[place] = kept_answer(ROWS[place][0], other(ROWS[place][1]), LABELS, shares=shares(other(ROWS[place][1]), 0.8))
    found = audited(tmp_path / "answers", answers)
    assert {ROWS[place][0] for place in (3, 50, 120)} <= {one.text for one in found.suspects}
    assert len(found.suspects) < 10


def test_without_gold_it_says_what_cannot_be_known(tmp_path: Path) -> None:
    found = audited(tmp_path / "answers", right_at(0.9))
    assert found.gold is None
    assert "Nothing here says how often the answers are right" in found.verdict
    assert "1,537 make the interval of the accuracy as narrow as --width" in found.verdict  # (1.96 / 0.05)^2


def test_gold_texts_without_an_answer_are_counted_and_none_at_all_is_refused(tmp_path: Path) -> None:
    found = audited(tmp_path / "answers", right_at(0.9)[:100], gold_of())
    assert found.gold is not None
    assert (found.gold.quality.num_texts, found.gold_unanswered) == (100, 200)
    with pytest.raises(DatasetError, match="none of the 5 texts of gold has an answer"):
        audit(read_answered(tmp_path / "answers"), gold_of([(f"new {text}", label) for text, label in ROWS[:5]]))


def test_the_command_says_how_the_answers_are_divided_and_which_gold_texts_are_left_out(
    tmp_path: Path, potstill: Callable[..., Outcome]
) -> None:
    folder = write_answers(tmp_path / "answers", LABELS, [kept_answer(text, label, LABELS) for text, label in ROWS[:40]])
    negatives = sum(label == "negative" for _, label in ROWS[:40])
    told = potstill("audit", folder, "--gold", write_csv(tmp_path / "gold.csv", ROWS[:50]))
    assert told.code == 0, told.err
    assert f"negative {negatives / 40:.1%}" in told.out
    assert "10 gold texts have no answer and are left out" in told.out


def test_the_command_writes_a_page(tmp_path: Path, potstill: Callable[..., Outcome]) -> None:
    texts = [(f"<b>{text}</b>", label) for text, label in ROWS]
    answers = [kept_answer(text, other(label) if number < 9 else label, LABELS) for number, (text, label) in enumerate(texts)]
    folder = write_answers(tmp_path / "answers", LABELS, answers)
    gold = write_csv(tmp_path / "gold.csv", texts)
    told = potstill("audit", folder, "--gold", gold)
    assert told.code == 0, told.err
    assert "Good enough to teach" in told.out or "The gold labels alone" in told.out
    page = (folder / "audit.html").read_text()
    assert "Against 300 gold labels" in page
    assert "<b>" not in page  # a text is no markup
    figures = json.loads(potstill("audit", folder, "--gold", gold, "--json").out)
    assert figures["gold"]["quality"]["accuracy"] == pytest.approx(291 / 300)
    assert potstill("audit", tmp_path / "nothing").code == 3
