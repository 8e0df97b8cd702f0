"""The tokenizer, from texts to token ids; training and inference use the same one.

A thin wrapper of the `tokenizers` library with fixed truncation and padding; it rejects texts that cannot be encoded, and pads
batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distill.errors import BundleError, DatasetError, SettingsError
from distill.texts import TextInput

INPUT_NAMES = ("input_ids", "attention_mask")
"""Names of the inputs of a graph, in order."""

TYPE_INPUT = "token_type_ids"
"""Name of a third input, of models that are trained on pairs and told which text a token is of."""

Pairs = Literal["typed", "untyped"]
"""How a model trained on pairs reads them: with token type ids, or without, because it or its tokenizer has none."""

# In a row of ids, the tokens of the second text of a pair have this bit, so that a row stays one array. Above every id,
# and within an int32, as rows are kept in files.
_SECOND_TEXT = 1 << 30

ENCODED_AT_ONCE = 1024
"""Texts per call of the library: an encoding takes twenty times the memory of its ids, and only the ids are kept."""


class Batch(NamedTuple):
    """Padded token ids, a mask with 0 for padding, and token types if the model takes them; int64, shape (texts, longest)."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None = None

    def inputs(self) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of a graph or model by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


class TextTokenizer:
    """A fast tokenizer with a fixed `max_length` in tokens.

    `pairs` says how a model that was trained on pairs reads them; None: it was trained on single texts.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, pairs: Pairs | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id
        self.pairs = pairs

    @classmethod
    def from_file(cls, path: Path, *, max_length: int, pad_id: int, pairs: Pairs | None = None) -> TextTokenizer:
        """Load a `tokenizer.json`."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises a bare Exception, for a missing file too
            raise BundleError(f"{path} is not a tokenizer: {exc}") from exc
        return cls(tokenizer, max_length=max_length, pad_id=pad_id, pairs=pairs)

    @classmethod
    def from_json(cls, content: str, *, max_length: int, pad_id: int, pairs: Pairs | None = None) -> TextTokenizer:
        """Create a tokenizer from the content of a `tokenizer.json`."""
        return cls(Tokenizer.from_str(content), max_length=max_length, pad_id=pad_id, pairs=pairs)

    def with_max_length(self, max_length: int) -> TextTokenizer:
        """Return a copy of this tokenizer with another limit."""
        return TextTokenizer.from_json(self.to_json(), max_length=max_length, pad_id=self.pad_id, pairs=self.pairs)

    def reading_pairs(self, *, has_types: bool) -> TextTokenizer:
        """Return a copy for a model of pairs; `has_types` says whether it has a vector for each of two token types."""
        typed = has_types and any(self._tokenizer.encode("a", "a").type_ids)
        pairs: Pairs = "typed" if typed else "untyped"
        return TextTokenizer.from_json(self.to_json(), max_length=self.max_length, pad_id=self.pad_id, pairs=pairs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs of a graph that takes what this tokenizer returns."""
        return (*INPUT_NAMES, TYPE_INPUT) if self.pairs == "typed" else INPUT_NAMES

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, including added ones."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token, including added ones."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return self._tokenizer.to_str(pretty=False)

    def digest(self) -> str:
        """Return the sha256 of everything that the ids depend on, including `max_length`."""
        pairs = f" {self.pairs}" if self.pairs else ""
        return hashlib.sha256(f"{self.max_length} {self.pad_id}{pairs} {self.to_json()}".encode()).hexdigest()

    def encode(self, texts: Sequence[TextInput]) -> list[NDArray[np.int64]]:
        """Return the ids of each text, including special tokens, at most `max_length` of them, for `pad`.

        With typed pairs, the tokens of the second text are marked in the ids; see `token_ids`.

        Raises:
            DatasetError: A text is not a string, or has a lone surrogate and is not valid UTF-8; or `texts` is a single string.
            SettingsError: A pair needs token type ids, but the model was trained on single texts.
        """
        if isinstance(texts, str):  # a string is also a sequence of strings; its characters would become texts
            raise DatasetError(f"texts is one string, expected a sequence of strings: pass [{texts[:20]!r}]")
        for index, text in enumerate(texts):
            _require_text(text, index)
        if len(texts) == 1 and isinstance(texts[0], str):
            # In the calling thread: a batch wakes a thread of the library, which costs more than it saves for one text.
            return [np.array(self._tokenizer.encode(texts[0]).ids, dtype=np.int64)]
        return [row for portion in _portions(texts) for row in self._ids_of(portion)]

    def _ids_of(self, texts: Sequence[TextInput]) -> list[NDArray[np.int64]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts))  # fast: without the offsets of the tokens
        if self.pairs == "typed":
            return [np.array(each.ids, np.int64) + _SECOND_TEXT * np.array(each.type_ids, np.int64) for each in encodings]
        is_pair = self.pairs is None and any(isinstance(text, tuple) for text in texts)
        if is_pair and any(any(encoding.type_ids) for encoding in encodings):
            raise SettingsError(
                "this tokenizer uses token type ids for the second text of a pair, but the model was trained on single texts "
                "and its graph has no such input; train it on pairs with --pair-column, or join the two texts into one"
            )
        return [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]

    def count_truncated(self, texts: Sequence[TextInput]) -> int:
        """Return how many of these texts are cut at `max_length`."""
        return sum(
            bool(encoding.overflowing)
            for portion in _portions(texts)
            for encoding in self._tokenizer.encode_batch(list(portion))
        )

    def windows(self, text: str) -> list[NDArray[np.int64]]:
        """Return the ids of a whole text in windows of at most `max_length`, each with special tokens.

        Consecutive windows overlap by a quarter, so that a phrase at a cut is complete in one of the two windows, and the last
        window is never a single word.
        """
        _require_text(text, 0)
        encoding = self._overlapping.encode(text)
        return [np.array(each.ids, dtype=np.int64) for each in (encoding, *encoding.overflowing)]

    @cached_property
    def _overlapping(self) -> Tokenizer:
        # A separate tokenizer, so that the overlap is not saved in the tokenizer.json of a bundle.
        tokenizer = Tokenizer.from_str(self.to_json())
        num_special = tokenizer.num_special_tokens_to_add(is_pair=False)
        tokenizer.enable_truncation(self.max_length, stride=(self.max_length - num_special) // 4)
        return tokenizer

    def pad(self, rows: Sequence[NDArray[np.int64]]) -> Batch:
        """Pad rows of ids to the length of the longest."""
        if len(rows) == 1:  # nothing to pad
            return self._batch(rows[0][None], np.ones((1, len(rows[0])), dtype=np.int64))
        longest = max((len(row) for row in rows), default=0)
        input_ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        return self._batch(input_ids, attention_mask)

    def _batch(self, ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Batch:
        if self.pairs != "typed":
            return Batch(ids, attention_mask)
        return Batch(token_ids(ids), attention_mask, ids // _SECOND_TEXT)


def token_ids(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ids without the mark of the second text of a pair."""
    return rows % _SECOND_TEXT


def _portions(texts: Sequence[TextInput]) -> Iterator[Sequence[TextInput]]:
    return (texts[start : start + ENCODED_AT_ONCE] for start in range(0, len(texts), ENCODED_AT_ONCE))


def _require_text(text: object, index: int) -> None:
    for part in text if isinstance(text, tuple) and len(text) == 2 else (text,):
        if not isinstance(part, str):
            raise DatasetError(f"text {index} is {type(part).__name__}, expected a string or a pair of strings")
        try:
            part.encode()
        except UnicodeEncodeError as exc:
            raise DatasetError(f"text {index} has a lone surrogate at character {exc.start}; it is not valid UTF-8") from exc
