"""How sure a teacher is of its answers, and what each of them weighs in the loss. numpy only."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from distill.labels import Logits, Task
from distill.settings import Unsure

LEFT_OUT: Final = 0.2
"""Share of the texts of each label that `leave_out` leaves out. Without gold labels nothing says how many answers are wrong."""


def certainty(logits: Logits) -> NDArray[np.float64]:
    """Return the gap between the probabilities of the two likeliest labels of each text, 0 to 1, shape (texts,).

    This is the margin of Scheffer et al. (2001), not the entropy: it is 0 where the label is a toss-up between two, however
    many other labels there are. By normalised entropy, a toss-up between two of ten labels is still 0.7 sure. Nor does it read
    the unlikely labels, which an address that returns few log-probabilities leaves out.

    Args:
        logits: Of a teacher, shape (texts, labels); one label per text.
    """
    second, first = np.partition(Task().probabilities(logits).astype(np.float64), -2, axis=1)[:, -2:].T
    return np.round(first - second, 5)  # so that answers do not differ by what the softmax rounds


def certainty_weights(logits: Logits, way: Unsure) -> NDArray[np.float32]:
    """Return the weight of each text, with mean 1, shape (texts,).

    `weigh` gives each text its certainty. `leave_out` gives 0 to the least certain `LEFT_OUT` of the texts of each label, so
    that labels keep their shares of the texts and none vanishes (pruning by class: Northcutt et al., 2021); a text as sure as
    one that stays, stays too. Where all answers are equally sure, all weigh 1.

    Args:
        logits: As for `certainty`.
        way: What becomes of unsure answers.
    """
    sure, labels = certainty(logits), logits.argmax(axis=1)
    weights = sure.copy() if way == "weigh" else np.ones(len(sure))
    for label in np.unique(labels) if way == "leave_out" else ():
        is_own = labels == label
        last_to_stay = np.sort(sure[is_own])[int(LEFT_OUT * is_own.sum())]
        weights[is_own & (sure < last_to_stay)] = 0
    total = weights.sum()
    return np.asarray(weights * (len(weights) / total) if total else np.ones(len(weights)), dtype=np.float32)
