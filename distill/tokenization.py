"""Texts to token ids: the one tokenizer, in training and at run time alike.

A thin layer over the `tokenizers` library: it fixes truncation and padding, refuses what cannot be encoded,
and pads batches. Knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distill.classifier import TextInput
from distill.errors import BundleError, DatasetError, SettingsError

INPUT_NAMES = ("input_ids", "attention_mask")
"""Names of the graph's inputs, in order; every writer and reader of a graph uses these."""

ENCODED_AT_ONCE = 1024
"""Texts encoded at a time: an encoding takes twenty times the memory of its ids, and only the ids are kept."""


class Batch(NamedTuple):
    """Padded token ids and which of them are real; both int64, shape (texts, longest)."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class TextTokenizer:
    """A fast tokenizer with a fixed `max_length`, in tokens."""

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id

    @classmethod
    def from_file(cls, path: Path, *, max_length: int, pad_id: int) -> TextTokenizer:
        """Read a `tokenizer.json`."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises a bare Exception, for a missing file too
            raise BundleError(f"{path} is not a tokenizer: {exc}") from exc
        return cls(tokenizer, max_length=max_length, pad_id=pad_id)

    @classmethod
    def from_json(cls, content: str, *, max_length: int, pad_id: int) -> TextTokenizer:
        """Read the content of a `tokenizer.json`."""
        return cls(Tokenizer.from_str(content), max_length=max_length, pad_id=pad_id)

    def with_max_length(self, max_length: int) -> TextTokenizer:
        """Return the same tokenizer with another limit; this one stays as it is."""
        return TextTokenizer.from_json(self.to_json(), max_length=max_length, pad_id=self.pad_id)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def vocabulary(self) -> dict[str, int]:
        """Return every token and its id, added ones included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return self._tokenizer.to_str(pretty=False)

    def digest(self) -> str:
        """Return the sha256 of everything that decides the ids, `max_length` included."""
        return hashlib.sha256(f"{self.max_length} {self.pad_id} {self.to_json()}".encode()).hexdigest()

    def encode(self, texts: Sequence[TextInput]) -> list[NDArray[np.int64]]:
        """Return the ids of each text, special tokens included, at most `max_length` long.

        Raises:
            DatasetError: A text is not a string, or holds a lone surrogate, which no UTF-8 can carry; or `texts` is one string.
            SettingsError: A pair whose halves need token types, which the graph does not take.
        """
        if isinstance(texts, str):  # a string is a sequence of strings: each of its letters would be a text
            raise DatasetError(f"texts is one string, wanted a sequence of them: pass [{texts[:20]!r}]")
        for index, text in enumerate(texts):
            _require_text(text, index)
        if len(texts) == 1:
            return [self._ids_of_one(texts[0])]
        return [row for portion in _portions(texts) for row in self._ids_of(portion)]

    def _ids_of_one(self, text: TextInput) -> NDArray[np.int64]:
        # In the calling thread: a batch is handed to the library's own, and waking one costs more than it saves.
        if not isinstance(text, str):
            return self._ids_of([text])[0]
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def _ids_of(self, texts: Sequence[TextInput]) -> list[NDArray[np.int64]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts))  # fast: without the places of tokens in the text
        if any(isinstance(text, tuple) for text in texts) and any(any(encoding.type_ids) for encoding in encodings):
            raise SettingsError(
                "this tokenizer marks the second text of a pair by token types, which the graph does not take; "
                "join the two texts into one instead"
            )
        return [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]

    def count_truncated(self, texts: Sequence[TextInput]) -> int:
        """Return how many of these texts lose tokens to `max_length`."""
        return sum(
            bool(encoding.overflowing)
            for portion in _portions(texts)
            for encoding in self._tokenizer.encode_batch(list(portion))
        )

    def windows(self, text: str) -> list[NDArray[np.int64]]:
        """Return the ids of all of a text: as many rows of at most `max_length` as it takes, special tokens in each.

        A window begins with the last tokens of the one before, a quarter of its length, so that what stands at a cut is
        read whole in one of the two and the last window is never a stray word.
        """
        _require_text(text, 0)
        encoding = self._overlapping.encode(text)
        return [np.array(each.ids, dtype=np.int64) for each in (encoding, *encoding.overflowing)]

    @cached_property
    def _overlapping(self) -> Tokenizer:
        # Of its own: the overlap must not be written into the tokenizer.json of a bundle.
        tokenizer = Tokenizer.from_str(self.to_json())
        room = self.max_length - tokenizer.num_special_tokens_to_add(is_pair=False)
        tokenizer.enable_truncation(self.max_length, stride=room // 4)
        return tokenizer

    def pad(self, rows: Sequence[NDArray[np.int64]]) -> Batch:
        """Pad rows of ids to the longest of them."""
        if len(rows) == 1:  # nothing to pad
            input_ids = rows[0][None]
            return Batch(input_ids, np.ones_like(input_ids))
        longest = max((len(row) for row in rows), default=0)
        input_ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        return Batch(input_ids, attention_mask)


def _portions(texts: Sequence[TextInput]) -> Iterator[Sequence[TextInput]]:
    return (texts[start : start + ENCODED_AT_ONCE] for start in range(0, len(texts), ENCODED_AT_ONCE))


def _require_text(text: object, index: int) -> None:
    parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
    for part in parts:
        if not isinstance(part, str):
            raise DatasetError(f"text {index} is {type(part).__name__}, wanted a string or a pair of strings")
        try:
            part.encode()
        except UnicodeEncodeError as exc:
            raise DatasetError(f"text {index} holds a lone surrogate at character {exc.start}; it is not UTF-8") from exc
