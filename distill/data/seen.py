"""Which texts have been seen, in 8 bytes a text: a stream of millions is freed of repeats without holding it.

Texts are told apart by 64 bits of a digest of their fold; among a million texts two share them once in 37 million runs.
numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from distill.data.dataset import Dataset, fold

_CHUNK_TEXTS = 8192


class SeenTexts:
    """A set of texts, equal where their folds are; it remembers digests, not texts."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Start with these texts seen."""
        self._sorted = np.empty(0, dtype=np.uint64)
        for _ in self.fresh(texts):
            pass

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, text: str) -> bool:
        return bool(self._known(_digests([text]))[0])

    def fresh(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield those texts that are seen for the first time, in order, and count them as seen."""
        source = iter(texts)
        while chunk := list(islice(source, _CHUNK_TEXTS)):
            digests = _digests(chunk)
            _, first = np.unique(digests, return_index=True)
            new = np.sort(first[~self._known(digests[first])])
            self._sorted = np.sort(np.concatenate([self._sorted, digests[new]]), kind="stable")
            for index in new:
                yield chunk[index]

    def _known(self, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._sorted):
            return np.zeros(len(digests), dtype=bool)
        nearest = np.minimum(np.searchsorted(self._sorted, digests), len(self._sorted) - 1)
        known: NDArray[np.bool_] = self._sorted[nearest] == digests
        return known


def texts_not_in(texts: Iterable[str], others: Iterable[Dataset]) -> tuple[str, ...]:
    """Return each of these texts once, without those that stand in `others`."""
    return tuple(SeenTexts(text for other in others for text in other.texts).fresh(texts))


def _digests(texts: list[str]) -> NDArray[np.uint64]:
    # surrogatepass: the tokenizer refuses a lone surrogate, and says which text has it
    folded = (fold(text).encode(errors="surrogatepass") for text in texts)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in folded), dtype="<u8")
