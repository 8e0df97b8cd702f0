"""The answers of a folder, text by text: all askings of a text as one probability of each label. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.asking.kept import QUARANTINE, KeptAnswer, read_asked, read_kept
from distill.errors import DatasetError
from distill.labels import Logits
from distill.texts import TextInput

SMOOTHING = 0.2
"""Votes that are added to those of a text, divided among all labels: five equal votes do not make a label certain."""

LEAST = 1e-6
"""Smallest probability; its logarithm is finite."""

Followed = Mapping[tuple[TextInput, int, frozenset[str]], KeptAnswer]
"""Answers to questions about some of the labels, by text, asking and these labels."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Every text with an answer.

    Attributes:
        folder: The folder of the answers.
        model: Name of the model.
        labels: Label names, in the order of the task.
        texts: Each text once, in the order of its first answer.
        shares: Probability of each label, mean over the askings, shape (texts, labels).
        text_of: Of each answer the place of its text, shape (answers,).
        chosen: Of each answer the label it names, likewise.
        first: Of each answer the label that was listed first, likewise.
        asking: Of each answer the number of the asking, likewise.
        is_vote: Of each answer whether it came without probabilities, likewise.
        mass: Of each answer the probability of all readable answers, likewise.
        num_quarantined: Replies that could not be read.
        tokens: Tokens of prompts and of answers, checks and quarantine left out.
    """

    folder: Path
    model: str
    labels: tuple[str, ...]
    texts: tuple[TextInput, ...]
    shares: NDArray[np.float64]
    text_of: NDArray[np.int64]
    chosen: NDArray[np.int64]
    first: NDArray[np.int64]
    asking: NDArray[np.int64]
    is_vote: NDArray[np.bool_]
    mass: NDArray[np.float64]
    num_quarantined: int
    tokens: tuple[int, int]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def logits(self) -> Logits:
        """Logarithms of the shares, shape (texts, labels)."""
        return np.log(np.maximum(self.shares, LEAST)).astype(np.float32)


def read_answered(folder: Path) -> Answered:
    """Read a folder of answers.

    Raises:
        DatasetError: It is no such folder, damaged, or has no answers.
    """
    asked = read_asked(folder)
    labels = tuple(asked.task.labels)
    whole: list[KeptAnswer] = []
    followed: dict[tuple[TextInput, int, frozenset[str]], KeptAnswer] = {}
    tokens = np.zeros(2, dtype=np.int64)
    for answer in read_kept(folder):
        tokens += (answer.input_tokens, answer.output_tokens)
        if len(answer.labels) == len(labels):
            whole.append(answer)
        else:
            followed[(answer.of_text, answer.asking, frozenset(answer.labels))] = answer
    if not whole:
        raise DatasetError(f"{folder} has no answers yet; run `potstill ask`", path=folder)
    place_of = {text: place for place, text in enumerate(dict.fromkeys(answer.of_text for answer in whole))}
    text_of = np.array([place_of[answer.of_text] for answer in whole])
    is_vote = np.array([not answer.shares for answer in whole])
    shares = np.zeros((len(place_of), len(labels)))
    np.add.at(shares, text_of, [_shares(answer, labels, followed) for answer in whole])
    counts = np.bincount(text_of)[:, None]
    has_votes = (np.bincount(text_of, weights=is_vote) > 0)[:, None]
    extra = SMOOTHING * has_votes
    return Answered(
        folder=folder,
        model=asked.model,
        labels=labels,
        texts=tuple(place_of),
        shares=(shares + extra / len(labels)) / (counts + extra),
        text_of=text_of,
        chosen=np.array([labels.index(str(answer.label)) for answer in whole]),
        first=np.array([labels.index(answer.labels[0]) for answer in whole]),
        asking=np.array([answer.asking for answer in whole]),
        is_vote=is_vote,
        mass=np.array([answer.mass for answer in whole]),
        num_quarantined=sum(1 for _ in read_kept(folder, QUARANTINE)),
        tokens=(int(tokens[0]), int(tokens[1])),
    )


def _shares(answer: KeptAnswer, labels: tuple[str, ...], followed: Followed) -> NDArray[np.float64]:
    """Return the probability of each label by one asking, shape (labels,); that of a vote is all on one."""
    found = dict.fromkeys(labels, 0.0)
    for name, share in _divided(answer, followed).items():
        found[name] += share
    return np.array([found[name] for name in labels])


def _divided(answer: KeptAnswer, followed: Followed) -> dict[str, float]:
    """Return the probabilities of an answer, with what it left undivided divided by the answers that followed it."""
    found: dict[str, Any] = dict(answer.shares) or {str(answer.label): 1.0}
    for group, share in answer.undivided:
        further = followed.get((answer.of_text, answer.asking, frozenset(group)))
        # Evenly where the further question is in quarantine, or not asked yet.
        parts = dict.fromkeys(group, 1 / len(group)) if further is None else _divided(further, followed)
        for name, part in parts.items():
            found[name] = found.get(name, 0.0) + share * part
    return found
