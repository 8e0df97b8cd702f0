"""What a student learns from: labelled, unlabelled and augmented texts, with what each source counts.

The texts, their token ids and the teacher's logits stand in files that are mapped, so that a million unlabelled texts
pass through without growing the run. Only labels and weights are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset, SeenTexts
from distill.settings import TransferSettings
from distill.tokenization import TextTokenizer
from distill.training.losses import UNLABELLED
from distill.training.mapped import JoinedTexts, MappedRows, MappedTexts

_CHUNK_TEXTS = 4096


@dataclass(frozen=True)
class TransferSet:
    """The texts of the three sources, in this order.

    Attributes:
        labelled: Texts with labels.
        unlabeled: Texts without, none of which is labelled or held out, none twice.
        augmented: Noisy copies of either.
        folder: Where what is made from them is kept while the student learns.
    """

    labelled: Dataset
    unlabeled: Sequence[str]
    augmented: Sequence[str]
    folder: Path

    @classmethod
    def gather(cls, labelled: Dataset, unlabeled: Iterable[str], *, held_out: Sequence[Dataset], folder: Path) -> TransferSet:
        """Read unlabelled texts, once and one at a time, leaving out repeats and what is labelled or held out."""
        seen = SeenTexts(text for dataset in (labelled, *held_out) for text in dataset.texts)
        return cls(labelled, MappedTexts(folder / "unlabeled", seen.fresh(unlabeled)), (), folder)

    def with_unlabeled(self, kept: Iterable[str]) -> TransferSet:
        """Return the set with these of its unlabelled texts, which are read once and one at a time."""
        return TransferSet(self.labelled, MappedTexts(self.folder / "kept", kept), self.augmented, self.folder)

    def with_augmented(self, copies: Iterable[str]) -> TransferSet:
        """Return the set with these augmented texts, which are read once and one at a time."""
        augmented = MappedTexts(self.folder / "augmented", copies)
        return TransferSet(self.labelled, self.unlabeled, augmented, self.folder)

    def labels_alone(self) -> TransferSet:
        """Return the labelled texts as a set of their own."""
        return TransferSet(self.labelled, (), (), self.folder)

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabeled) + len(self.augmented)

    @property
    def texts(self) -> Sequence[str]:
        """All texts."""
        return JoinedTexts(self.labelled.texts, self.unlabeled, self.augmented)

    def rows(self, tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of all texts."""
        return MappedRows(self.folder / "rows", _encoded(tokenizer, self.texts))

    def label_ids(self) -> NDArray[np.int64]:
        """Return the labels of all texts, `UNLABELLED` throughout after the labelled ones."""
        known = self.labelled.label_ids
        return np.concatenate([known, np.full((len(self) - len(known), *known.shape[1:]), UNLABELLED, dtype=known.dtype)])

    def weights(self, settings: TransferSettings) -> NDArray[np.float32] | None:
        """Return what each text counts, shape (texts,); None where all count 1."""
        sources = (
            (self.labelled.texts, settings.labelled_weight),
            (self.unlabeled, settings.unlabeled_weight),
            (self.augmented, settings.augmented_weight),
        )
        if all(weight == 1 for _, weight in sources):
            return None
        return np.concatenate([np.full(len(texts), weight, dtype=np.float32) for texts, weight in sources])


def _encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(texts), _CHUNK_TEXTS):
        yield from tokenizer.encode(texts[start : start + _CHUNK_TEXTS])
