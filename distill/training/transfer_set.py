"""What a student learns from: labelled, unlabelled and augmented texts, with what each source counts.

The texts, their token ids and the teacher's logits stand in files that are mapped, so that a million unlabelled texts
pass through without growing the run: made once, by the first of its processes, and mapped by all. So a process holds of
them what it is reading, however many texts there are; the labelled texts alone are in its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset, SeenTexts
from distill.settings import TransferSettings
from distill.tokenization import TextTokenizer
from distill.training.losses import UNLABELLED
from distill.training.mapped import JoinedTexts, MappedRows
from distill.training.together import SharedFiles


@dataclass(frozen=True)
class TransferSet:
    """The texts of the three sources, in this order.

    Attributes:
        labelled: Texts with labels.
        unlabeled: Texts without, none of which is labelled or held out, none twice.
        augmented: Noisy copies of either.
        files: Where what is made from them is kept while the student learns.
    """

    labelled: Dataset
    unlabeled: Sequence[str]
    augmented: Sequence[str]
    files: SharedFiles

    @classmethod
    def gather(
        cls, labelled: Dataset, unlabeled: Iterable[str], *, held_out: Sequence[Dataset], files: SharedFiles
    ) -> TransferSet:
        """Read unlabelled texts, once and one at a time, leaving out repeats and what is labelled or held out."""
        return cls(labelled, files.texts("unlabeled", _fresh(unlabeled, (labelled, *held_out))), (), files)

    def with_unlabeled(self, kept: Iterable[str]) -> TransferSet:
        """Return the set with these of its unlabelled texts, which are read once and one at a time."""
        return replace(self, unlabeled=self.files.texts("kept", kept))

    def with_augmented(self, copies: Iterable[str]) -> TransferSet:
        """Return the set with these augmented texts, which are read once and one at a time."""
        return replace(self, augmented=self.files.texts("augmented", copies))

    def labels_alone(self) -> TransferSet:
        """Return the labelled texts as a set of their own."""
        return replace(self, unlabeled=(), augmented=())

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabeled) + len(self.augmented)

    @property
    def texts(self) -> Sequence[str]:
        """All texts."""
        return JoinedTexts(self.labelled.texts, self.unlabeled, self.augmented)

    def rows(self, tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of all texts."""
        return self.files.rows("rows", self.texts, tokenizer)

    def label_ids(self) -> NDArray[np.int64]:
        """Return the labels of all texts, `UNLABELLED` throughout after the labelled ones."""
        known = self.labelled.label_ids
        shape = (len(self) - len(known), *known.shape[1:])
        return self.files.array("label_ids", lambda: np.concatenate([known, np.full(shape, UNLABELLED, dtype=known.dtype)]))

    def weights(self, settings: TransferSettings) -> NDArray[np.float32] | None:
        """Return what each text counts, shape (texts,); None where all count 1."""
        sources = (
            (self.labelled.texts, settings.labelled_weight),
            (self.unlabeled, settings.unlabeled_weight),
            (self.augmented, settings.augmented_weight),
        )
        if all(weight == 1 for _, weight in sources):
            return None
        return self.files.array(
            "weights", lambda: np.concatenate([np.full(len(texts), weight, dtype=np.float32) for texts, weight in sources])
        )


def _fresh(unlabeled: Iterable[str], others: Sequence[Dataset]) -> Iterator[str]:
    yield from SeenTexts(text for dataset in others for text in dataset.texts).fresh(unlabeled)
