"""How good a language model's answers are: against gold labels where there are some, and what is known without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.asking.combined import Answered
from distill.data import Dataset
from distill.errors import DatasetError, requires
from distill.evaluation.floors import TfidfClassifier
from distill.evaluation.intervals import macro_f1_of_counts, wilson_interval
from distill.evaluation.metrics import Quality, evaluate, macro_f1
from distill.evaluation.suspects import Suspect, suspect_rows
from distill.labels import Logits
from distill.texts import joined

FOLDS = 5
MAX_SUSPECT_TEXTS = 20_000
"""Answers among which suspect ones are sought, at most; the classifier of words that finds them is trained five times."""

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence: how many, how confident on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class AgainstGold:
    """The answers against gold labels.

    Attributes:
        quality: Every figure.
        floor: Macro-F1 of answers that ignore the text.
        human_macro_f1: Macro-F1 of TF-IDF with logistic regression trained on the gold labels alone, by cross-validation; None
            where a label has too few.
        bins: Confidence against accuracy.
        confusions: Gold label, answer and how often, the most frequent first.
        suspect_gold: Gold labels that are probably wrong.
        wrong: Texts that are answered wrongly with the highest confidence, suspect gold labels left out.
        wanted_width: The width of the interval that is wanted.
        needed: How many gold labels narrow the interval to it.
    """

    quality: Quality
    floor: float
    human_macro_f1: float | None
    bins: tuple[Bin, ...]
    confusions: tuple[tuple[str, str, int], ...]
    suspect_gold: tuple[Suspect, ...]
    wrong: tuple[Suspect, ...]
    wanted_width: float
    needed: int

    @property
    def is_good_enough(self) -> bool:
        """Whether the model is worth learning from: surely better than answers that ignore the text."""
        return self.quality.macro_f1_interval[0] > self.floor


@dataclass(frozen=True)
class Audit:
    """What is known of the answers.

    Attributes:
        model: Name of the model.
        num_texts: Texts with an answer.
        num_answers: Answers, of all askings.
        num_quarantined: Replies that could not be read.
        num_votes: Answers without probabilities.
        shares: Of the texts answered with each label.
        mean_confidence: Mean probability of the answer.
        mean_mass: Mean probability of all readable answers before it was scaled to 1: how likely the model names a label at all
            where nothing forces it to. None without log-probabilities.
        first_share: How often the label listed first is the answer, in the first asking of each text, with its 95 % interval.
        first_expected: How often it would be if the order had no influence.
        disagreeing: Share of the texts asked several times whose askings do not name one label; None if none was.
        suspects: Answers that a classifier of words, trained on the others, finds unlikely.
        gold: Against gold labels; None without them.
        gold_unanswered: Gold texts without an answer.
        needed_without_gold: How many gold labels would give accuracy an interval of the wanted width, whatever the quality.
    """

    model: str
    num_texts: int
    num_answers: int
    num_quarantined: int
    num_votes: int
    shares: dict[str, float]
    mean_confidence: float
    mean_mass: float | None
    first_share: tuple[float, float, float]
    first_expected: float
    disagreeing: float | None
    suspects: tuple[Suspect, ...]
    gold: AgainstGold | None
    gold_unanswered: int
    needed_without_gold: int

    @property
    def verdict(self) -> str:
        """Whether a student should learn from it, in a sentence."""
        if self.gold is None:
            return (
                "Nothing here says how often the answers are right: that needs gold labels. A student of these answers can be "
                "compared with them alone. A few hundred texts labelled by hand are a start (--gold); "
                f"{self.needed_without_gold:,} make the interval of the accuracy as narrow as --width, whatever the answers."
            )
        low, high = self.gold.quality.macro_f1_interval
        score = f"macro-F1 {self.gold.quality.macro_f1:.3f} (95 % interval {low:.3f} to {high:.3f})"
        if not self.gold.is_good_enough:
            return f"Not good enough to teach: {score}; answers that ignore the text reach {self.gold.floor:.3f}."
        human = self.gold.human_macro_f1
        if human is not None and human >= self.gold.quality.macro_f1:
            return (
                f"The gold labels alone teach as well: {score}; TF-IDF trained on the {self.gold.quality.num_texts:,} gold "
                f"labels reaches {human:.3f}."
            )
        return f"Good enough to teach: {score}; answers that ignore the text reach {self.gold.floor:.3f}."

    def to_dict(self) -> dict[str, Any]:
        """Return every figure, with the verdict."""
        enough = {"good_enough": self.gold.is_good_enough} if self.gold else {}
        return {"verdict": self.verdict, **enough, **asdict(self)}


def audit(answered: Answered, gold: Dataset | None, *, wanted_width: float = 0.05, limit: int = 20) -> Audit:
    """Judge the answers.

    Args:
        answered: The answers.
        gold: Texts labelled by hand, with the labels of the task.
        wanted_width: Width of the 95 % interval of macro-F1 that would be narrow enough.
        limit: Most suspect texts of each kind.

    Raises:
        DatasetError: No gold text has an answer.
    """
    first = answered.asking == 0
    by_text = np.zeros((len(answered), len(answered.labels)), dtype=bool)
    by_text[answered.text_of, answered.chosen] = True
    several = np.bincount(answered.text_of) > 1
    share = float((answered.chosen == answered.first)[first].mean())
    counts = np.bincount(answered.shares.argmax(axis=1), minlength=len(answered.labels))
    against, unanswered = (None, 0) if gold is None else _against(answered, gold, wanted_width, limit)
    return Audit(
        model=answered.model,
        num_texts=len(answered),
        num_answers=len(answered.chosen),
        num_quarantined=answered.num_quarantined,
        num_votes=int(answered.is_vote.sum()),
        shares={name: float(count / len(answered)) for name, count in zip(answered.labels, counts, strict=True)},
        mean_confidence=float(answered.shares.max(axis=1).mean()),
        mean_mass=None if answered.is_vote.all() else float(answered.mass[~answered.is_vote].mean()),
        first_share=(share, *wilson_interval(share, int(first.sum()))),
        first_expected=1 / len(answered.labels),
        disagreeing=float((by_text.sum(axis=1) > 1)[several].mean()) if several.any() else None,
        suspects=_suspect_answers(answered, limit),
        gold=against,
        gold_unanswered=unanswered,
        needed_without_gold=math.ceil((NORMAL_95 / wanted_width) ** 2),  # a share of one half, the widest
    )


def _against(answered: Answered, gold: Dataset, wanted_width: float, limit: int) -> tuple[AgainstGold, int]:
    place_of = {text: place for place, text in enumerate(answered.texts)}
    rows = [row for row, text in enumerate(gold.texts) if text in place_of]
    if not rows:
        raise DatasetError(
            f"none of the {len(gold)} texts of {gold.source} has an answer in {answered.folder}; ask for them with "
            "`potstill ask --input` and the same --out",
            path=gold.source,
        )
    judged = gold.take(np.array(rows))
    logits = answered.logits[[place_of[text] for text in judged.texts]]
    labels = judged.label_ids
    quality = evaluate(labels=labels, logits=logits, label_names=answered.labels)
    given = logits.argmax(axis=1)
    suspects = _suspects_of(judged, logits, least=1)
    wrong = np.flatnonzero((given != labels) & ~np.isin(np.arange(len(labels)), [one.row for one in suspects]))
    wrong = wrong[np.argsort(-logits[wrong].max(axis=1), kind="stable")]
    low, high = quality.macro_f1_interval
    found = AgainstGold(
        quality=quality,
        floor=_floor(labels, given, len(answered.labels)),
        human_macro_f1=_human_macro_f1(judged),
        bins=_bins(judged.task.probabilities(logits), labels),
        confusions=_confusions(labels, given, answered.labels),
        suspect_gold=tuple(suspects[:limit]),
        wrong=tuple(_wrong(judged, logits, int(row)) for row in wrong[:limit]),
        wanted_width=wanted_width,
        needed=math.ceil(len(labels) * max(high - low, 1e-9) ** 2 / wanted_width**2),
    )
    return found, len(gold) - len(rows)


def _floor(labels: NDArray[np.int64], given: NDArray[np.int64], num_labels: int) -> float:
    """Return the higher macro-F1 of the most frequent label and of the answers in random order."""
    true = np.bincount(labels, minlength=num_labels)
    always = np.zeros(num_labels)
    always[true.argmax()] = len(labels)
    scores = (
        macro_f1_of_counts(hits=true * counts / len(labels), true=true, given=counts)
        for counts in (always, np.bincount(given, minlength=num_labels))
    )
    return float(max(scores))


def _human_macro_f1(gold: Dataset) -> float | None:
    """Return the macro-F1 that the gold labels alone teach a classifier of words, by cross-validation."""
    if min(gold.counts.values()) < FOLDS:
        return None
    return macro_f1(gold.label_ids, _held_out(gold))


def _held_out(data: Dataset) -> Logits:
    """Return logits of a classifier of words for each text, trained on the other folds."""
    with requires("cross-validation"):
        from sklearn.model_selection import StratifiedKFold
    logits = np.empty((len(data), len(data.labels)), dtype=np.float32)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for learnt, held_out in folds.split(np.zeros(len(data)), data.label_ids):
        logits[held_out] = TfidfClassifier(data.take(learnt)).predict_logits([data.texts[row] for row in held_out])
    return logits


def _suspect_answers(answered: Answered, limit: int) -> tuple[Suspect, ...]:
    """Return answers that do not fit those to similar texts; none where fewer than two labels have enough answers to say."""
    rows = np.sort(np.random.default_rng(0).permutation(len(answered))[:MAX_SUSPECT_TEXTS])
    data = Dataset(
        texts=tuple(answered.texts[row] for row in rows),
        label_ids=answered.shares.argmax(axis=1)[rows],
        labels=answered.labels,
        source="answers",
    )
    return tuple(_suspects_of(data, None, least=FOLDS)[:limit])


def _suspects_of(data: Dataset, logits: Logits | None, *, least: int) -> list[Suspect]:
    """Return the rows whose labels are probably wrong; only labels with so many texts are compared.

    Args:
        data: Texts and labels.
        logits: What suspects them; None: a classifier of words, trained on the other folds.
        least: Texts that a label must have.
    """
    counts = np.bincount(data.label_ids, minlength=len(data.labels))
    kept = np.flatnonzero(counts >= least)
    if len(kept) < 2:
        return []
    rows = np.flatnonzero(np.isin(data.label_ids, kept))
    frequent = Dataset(
        texts=tuple(data.texts[row] for row in rows),
        label_ids=np.searchsorted(kept, data.label_ids[rows]),
        labels=tuple(data.labels[label] for label in kept),
        source=data.source,
    )
    found = suspect_rows(frequent, _held_out(frequent) if logits is None else logits[np.ix_(rows, kept)], limit=len(rows))
    return [replace(one, row=int(rows[one.row])) for one in found]


def _wrong(data: Dataset, logits: Logits, row: int) -> Suspect:
    """Return an answer that differs from the gold label, which is the likely one."""
    shares = data.task.probabilities(logits[row : row + 1])[0]
    return Suspect(
        row=row,
        text=joined(data.texts[row]),
        label=data.labels[int(shares.argmax())],
        likely=data.labels[data.label_ids[row]],
        confidence=float(shares.max()),
    )


def _bins(shares: NDArray[np.floating[Any]], labels: NDArray[np.int64], count: int = 10) -> tuple[Bin, ...]:
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    of = np.clip(np.ceil(confidence * count).astype(int) - 1, 0, count - 1)
    return tuple(
        Bin(one / count, (one + 1) / count, int(is_in.sum()), float(confidence[is_in].mean()), float(right[is_in].mean()))
        for one in range(count)
        if (is_in := of == one).any()
    )


def _confusions(labels: NDArray[np.int64], given: NDArray[np.int64], names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    pairs, counts = np.unique(np.stack([labels, given])[:, labels != given], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple((names[pairs[0, one]], names[pairs[1, one]], int(counts[one])) for one in order)
