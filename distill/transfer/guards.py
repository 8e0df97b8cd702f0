"""What goes wrong in transfer without a word: leaked texts, over-fitting, wrong labels, a source that harms.

Each guard looks, and says in a sentence what it saw; none changes the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset, fold
from distill.errors import SettingsError, requires
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits

SHINGLE = 5
"""Characters of a shingle: long enough that two sentences share few by chance."""

NEAR = 0.7
"""Jaccard similarity of the shingles from which two texts are near duplicates."""

PERMUTATIONS = 128
GAP = 0.1
"""Macro-F1 by which the training texts may do better than the validation texts before it is said."""


@dataclass(frozen=True)
class Duplicate:
    """Two texts that are the same, or nearly.

    Attributes:
        source_row: Place of the one in the source texts.
        target_row: Place of the other in the target texts.
        similarity: Jaccard similarity of their shingles; 1 where they differ in case and white space alone.
    """

    source_row: int
    target_row: int
    similarity: float


def near_duplicates(source: Sequence[str], target: Sequence[str], *, threshold: float = NEAR) -> list[Duplicate]:
    """Return the target texts that stand in the source too, exactly or nearly, each with the nearest one.

    MinHash finds the pairs (Broder, 1997), and the true similarity decides. Texts shorter than a shingle are compared exactly.

    Args:
        source: Texts that a model has learnt from.
        target: Texts that are to measure it.
        threshold: Similarity from which a pair counts.

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
        pairs = [(_jaccard(parts, shingles[other]), -other) for other in index.query(sketch)]
        similarity, other = max(pairs, default=(0.0, 0))
        if similarity >= threshold:
            found.append(Duplicate(source_row=-other, target_row=row, similarity=similarity))
    return found


def leakage_words(source: Dataset, target: Dataset, duplicates: Sequence[Duplicate]) -> str:
    """Return in words which texts stand on both sides, with the first of them; nothing where there are none."""
    if not duplicates:
        return ""
    first = duplicates[0]
    exact = sum(fold(source.texts[one.source_row]) == fold(target.texts[one.target_row]) for one in duplicates)
    return (
        f"leakage: {len(duplicates)} of {len(target)} texts of {target.source} stand in {source.source} too ({exact} exactly), "
        f"the first is {target.texts[first.target_row][:60]!r}; what was learnt there is not new here: take them out of "
        "one side, or measure on others"
    )


def overfitting_words(
    *, train_labels: NDArray[np.int64], train_logits: Logits, validation_labels: NDArray[np.int64], validation_logits: Logits
) -> str:
    """Return a warning where the training texts do so much better than the validation texts that chance does not explain it.

    The gap must exceed `GAP` and twice its standard error, taken as that of two shares.
    """
    trained, validated = macro_f1(train_labels, train_logits), macro_f1(validation_labels, validation_logits)
    variance = sum(
        score * (1 - score) / len(labels) for score, labels in ((trained, train_labels), (validated, validation_labels))
    )
    gap = trained - validated
    if gap <= max(GAP, 2 * float(np.sqrt(variance))):
        return ""
    return (
        f"over-fitting: macro-F1 is {trained:.3f} on the training texts and {validated:.3f} on the validation texts; the "
        "model has learnt these texts by heart: more labels help, or fewer weights that learn (--freeze-below, --layer-decay)"
    )


@dataclass(frozen=True)
class Suspect:
    """A row whose label is probably wrong.

    Attributes:
        row: Its place.
        text: It.
        label: The label it has.
        likely: The label that a model which never saw it gives.
        confidence: That model's probability of the label it has.
    """

    row: int
    text: str
    label: str
    likely: str
    confidence: float


def suspect_rows(dataset: Dataset, held_out_logits: Logits, *, limit: int) -> list[Suspect]:
    """Return the rows with the most doubtful labels, the worst first (confident learning; Northcutt et al., 2021).

    Args:
        dataset: Texts with one label each.
        held_out_logits: Of a model that did not learn from the text, such as a cross-validated one, shape (texts, labels).
        limit: Rows at most.

    Raises:
        MissingExtraError: cleanlab is not installed.
        SettingsError: A text may have several labels.
    """
    if dataset.label_ids.ndim == 2:
        raise SettingsError("suspects are looked for where a text has one label; leave out --suspects")
    with requires("finding wrong labels"):
        from cleanlab.filter import find_label_issues
    shares = dataset.task.probabilities(held_out_logits)
    rows = find_label_issues(dataset.label_ids, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        Suspect(
            row=int(row),
            text=dataset.texts[row],
            label=dataset.labels[dataset.label_ids[row]],
            likely=dataset.labels[int(shares[row].argmax())],
            confidence=float(shares[row, dataset.label_ids[row]]),
        )
        for row in rows[:limit]
    ]


def _shingles(text: str) -> set[bytes]:
    folded = fold(text)
    pieces = {folded[start : start + SHINGLE] for start in range(max(1, len(folded) - SHINGLE + 1))}
    return {piece.encode(errors="surrogatepass") for piece in pieces}


def _jaccard(first: set[bytes], second: set[bytes]) -> float:
    return len(first & second) / len(first | second)
