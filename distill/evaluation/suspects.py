"""Labels that are probably wrong, by confident learning."""

from __future__ import annotations

from dataclasses import dataclass

from distill.data import Dataset
from distill.errors import SettingsError, requires
from distill.labels import Logits
from distill.texts import joined


@dataclass(frozen=True)
class Suspect:
    """A row whose label is probably wrong.

    Attributes:
        row: Index of the row.
        text: The text.
        label: Its label in the data.
        likely: The label predicted by a model that was not trained on it.
        confidence: That model's probability of `label`.
    """

    row: int
    text: str
    label: str
    likely: str
    confidence: float


def suspect_rows(dataset: Dataset, held_out_logits: Logits, *, limit: int) -> list[Suspect]:
    """Return the rows whose labels are most likely wrong, worst first (confident learning; Northcutt et al., 2021).

    Args:
        dataset: Texts with one label each.
        held_out_logits: Logits of a model that was not trained on the text, for example by cross-validation, shape
            (texts, labels).
        limit: Maximum number of rows.

    Raises:
        MissingExtraError: cleanlab is not installed.
        SettingsError: The texts have several labels each.
    """
    if dataset.label_ids.ndim == 2:
        raise SettingsError("wrong labels can only be found with one label per text; leave out --suspects")
    with requires("finding wrong labels"):
        from cleanlab.filter import find_label_issues
    shares = dataset.task.probabilities(held_out_logits)
    rows = find_label_issues(dataset.label_ids, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        Suspect(
            row=int(row),
            text=joined(dataset.texts[row]),
            label=dataset.labels[dataset.label_ids[row]],
            likely=dataset.labels[int(shares[row].argmax())],
            confidence=float(shares[row, dataset.label_ids[row]]),
        )
        for row in rows[:limit]
    ]
