"""Checks for problems of transfer learning that raise no error: leaked texts, overfitting, wrong labels.

Each check reports what it found; none changes the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset, fold
from distill.errors import requires
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits
from distill.texts import TextInput, joined

SHINGLE = 5
"""Characters per shingle: long enough that two different sentences share few."""

NEAR = 0.7
"""Minimum Jaccard similarity of the shingles of near duplicates."""

PERMUTATIONS = 128
GAP = 0.1
"""Difference of the training and validation macro-F1 up to which overfitting is not reported."""


@dataclass(frozen=True)
class Duplicate:
    """A text of the target that is also in the source, exactly or nearly.

    Attributes:
        source_row: Index in the source texts.
        target_row: Index in the target texts.
        similarity: Jaccard similarity of their shingles; 1 if they differ only in case and white space.
    """

    source_row: int
    target_row: int
    similarity: float


def near_duplicates(source: Sequence[TextInput], target: Sequence[TextInput], *, threshold: float = NEAR) -> list[Duplicate]:
    """Return the target texts that are also in the source, exactly or nearly, each with its nearest source text.

    MinHash finds candidate pairs (Broder, 1997); their exact similarity decides. Texts shorter than a shingle are compared
    exactly.

    Args:
        source: Texts that a model was trained on.
        target: Texts that evaluate it.
        threshold: Minimum similarity of a pair.

    Raises:
        MissingExtraError: datasketch is not installed.
    """
    with requires("finding near duplicates"):
        from datasketch import MinHash, MinHashLSH
    shingles = [_shingles(text) for text in source]
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    for row, sketch in enumerate(MinHash.bulk(shingles, num_perm=PERMUTATIONS)):
        index.insert(row, sketch)
    found = []
    wanted = [_shingles(text) for text in target]
    for row, (parts, sketch) in enumerate(zip(wanted, MinHash.bulk(wanted, num_perm=PERMUTATIONS), strict=True)):
        pairs = [(len(parts & shingles[other]) / len(parts | shingles[other]), -other) for other in index.query(sketch)]
        similarity, other = max(pairs, default=(0.0, 0))
        if similarity >= threshold:
            found.append(Duplicate(source_row=-other, target_row=row, similarity=similarity))
    return found


def leakage_words(source: Dataset, target: Dataset, duplicates: Sequence[Duplicate]) -> str:
    """Return a warning that counts the duplicates and quotes the first; an empty string if there are none."""
    if not duplicates:
        return ""
    first = duplicates[0]
    quoted = joined(target.texts[first.target_row])[:60]
    exact = sum(fold(source.texts[one.source_row]) == fold(target.texts[one.target_row]) for one in duplicates)
    return (
        f"leakage: {len(duplicates)} of {len(target)} texts of {target.source} are also in {source.source} ({exact} exactly), "
        f"the first is {quoted!r}; the model has seen them, so the score is too high: remove them "
        "from one side, or evaluate on other texts"
    )


def overfitting_words(
    *, train_labels: NDArray[np.int64], train_logits: Logits, validation_labels: NDArray[np.int64], validation_logits: Logits
) -> str:
    """Return a warning if the training macro-F1 exceeds the validation macro-F1 by more than chance; else an empty string.

    The difference must exceed `GAP` and twice its standard error, approximated by that of two proportions.
    """
    trained, validated = macro_f1(train_labels, train_logits), macro_f1(validation_labels, validation_logits)
    variance = sum(
        score * (1 - score) / len(labels) for score, labels in ((trained, train_labels), (validated, validation_labels))
    )
    if trained - validated <= max(GAP, 2 * float(np.sqrt(variance))):
        return ""
    return (
        f"overfitting: macro-F1 is {trained:.3f} on the training texts and {validated:.3f} on the validation texts; use more "
        "labelled texts, or train fewer weights (potstill teacher --freeze-below or --layer-decay)"
    )


def _shingles(text: TextInput) -> set[bytes]:
    folded = fold(text)
    starts = range(max(1, len(folded) - SHINGLE + 1))
    return {folded[start : start + SHINGLE].encode(errors="surrogatepass") for start in starts}
