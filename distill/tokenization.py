"""The tokenizer, from texts to token ids; training and inference use the same one.

A thin wrapper of the `tokenizers` library with fixed truncation and padding; it rejects texts that cannot be encoded, and pads
batches.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from distill.errors import BundleError, DatasetError, SettingsError
from distill.texts import TextInput, num_chars
from distill.tokenizer_limits import require_bounded

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

PREFIX_CHARS = 8
"""Characters per kept token that are encoded first of a long text; a kept token of plain English has four to five."""


BIGGER_PREFIX = 16
"""How much larger the second part is that is encoded where the first does not decide: mostly the text is one long word, and
every part that does not decide is encoded in vain."""


class Batch(NamedTuple):
    """Padded token ids, a mask with 0 for padding, and token types if the model takes them; int64, shape (texts, longest)."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None = None

    def inputs(self) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of a graph or model by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


class Reading(NamedTuple):
    """A text as a model reads it.

    Attributes:
        ids: At most `max_length`, including special tokens, for `pad`.
        is_cut: Whether the text has more tokens.
        num_chars: Characters that were encoded to find that out; of a long text mostly a few.
    """

    ids: NDArray[np.int64]
    is_cut: bool
    num_chars: int


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
    def from_bytes(
        cls, content: bytes, *, source: Path, max_length: int, pad_id: int, pairs: Pairs | None = None
    ) -> TextTokenizer:
        """Create a tokenizer from the bytes of a `tokenizer.json`; `source` is its path, for messages.

        Raises:
            BundleError: It is not a tokenizer, or one that a short text could keep busy for hours; see `require_bounded`.
        """
        try:
            tokenizer = Tokenizer.from_buffer(content)
        except Exception as exc:  # the library raises a bare Exception
            raise BundleError(f"{source} is not a tokenizer: {exc}") from exc
        require_bounded(tokenizer, source=source, max_length=max_length)
        return cls(tokenizer, max_length=max_length, pad_id=pad_id, pairs=pairs)

    @classmethod
    def from_file(cls, path: Path, *, max_length: int, pad_id: int, pairs: Pairs | None = None) -> TextTokenizer:
        """Load a `tokenizer.json`; see `from_bytes`."""
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise BundleError(f"cannot read {path}: {exc.strerror}") from exc
        return cls.from_bytes(content, source=path, max_length=max_length, pad_id=pad_id, pairs=pairs)

    @classmethod
    def from_json(cls, content: str, *, max_length: int, pad_id: int, pairs: Pairs | None = None) -> TextTokenizer:
        """Create a tokenizer from the content of a `tokenizer.json`."""
        return cls(Tokenizer.from_str(content), max_length=max_length, pad_id=pad_id, pairs=pairs)

    def with_max_length(self, max_length: int) -> TextTokenizer:
        """Return a copy of this tokenizer with another limit."""
        return TextTokenizer.from_json(self.to_json(), max_length=max_length, pad_id=self.pad_id, pairs=self.pairs)

    def reading_pairs(self, *, has_types: bool) -> TextTokenizer:
        """Return a copy for a model of pairs; `has_types` says whether it has a vector for each of two token types."""
        pairs: Pairs = "typed" if has_types and self._types_pairs else "untyped"
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
        return [reading.ids for reading in self.read(texts)]

    def count_truncated(self, texts: Sequence[TextInput]) -> int:
        """Return how many of these texts are cut at `max_length`."""
        return sum(reading.is_cut for reading in self.read(texts))

    def read(self, texts: Sequence[TextInput]) -> Iterator[Reading]:
        """Return the ids of each text and whether it was cut; texts are encoded only as the iterator advances.

        Raises:
            DatasetError: As `encode`; before the first text is encoded.
            SettingsError: As `encode`.
        """
        self.require(texts)
        return chain.from_iterable(map(self._read_alike, _portions(texts, self.is_long)))

    def require(self, texts: Sequence[TextInput]) -> None:
        """Refuse texts that `read` would refuse, without encoding them."""
        if isinstance(texts, str):  # a string is also a sequence of strings; its characters would become texts
            raise DatasetError(f"texts is one string, expected a sequence of strings: pass [{texts[:20]!r}]")
        for index, text in enumerate(texts):
            _require_text(text, index)
            if isinstance(text, tuple) and self.pairs is None and self._types_pairs:
                raise SettingsError(
                    "this tokenizer uses token type ids for the second text of a pair, but the model was trained on single "
                    "texts and its graph has no such input; train it on pairs with --pair-column, or join the two texts"
                )

    def is_long(self, text: TextInput) -> bool:
        """Return whether a text has so many characters that only its beginning is encoded if possible; never of a pair."""
        return isinstance(text, str) and len(text) > 2 * self.first_chars

    @property
    def first_chars(self) -> int:
        """How many characters of a long text are encoded first."""
        return PREFIX_CHARS * self.max_length

    def _read_alike(self, texts: Sequence[TextInput]) -> list[Reading]:
        """Read texts that are all long, or all not."""
        if self.is_long(texts[0]):
            return [self._read_long(text) for text in texts if isinstance(text, str)]
        encodings = _encoded(self._tokenizer, texts)
        return [
            # A list of the parts that were cut off is expensive, and only a full row can have some.
            Reading(self._ids_of(encoding), len(encoding) >= self.max_length and bool(encoding.overflowing), num_chars(text))
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def _read_long(self, text: str) -> Reading:
        """Encode no more of a text than decides its kept tokens.

        These are known when all of them belong to words before the last word of the part that was encoded: what follows can
        only continue the last one. The tests compare with the whole text.
        """
        num_chars, size = 0, self.first_chars
        while size < len(text) and (end := self._place_to_cut(text, size)):
            (encoding,) = _encoded(self._one_longer, [text[:end]], with_words=True)
            num_chars += end
            if len(encoding) > self.max_length:
                parts = encoding.overflowing[-1:] or [encoding]
                words = [word for word in parts[0].word_ids if word is not None]
                if words and words[-1] not in encoding.word_ids[: self._last_place(encoding)]:
                    return Reading(self._without_last(encoding), is_cut=True, num_chars=num_chars)
                break  # a word that is longer than all tokens that are kept
            size *= BIGGER_PREFIX
        (encoding,) = _encoded(self._one_longer, [text])
        if len(encoding) <= self.max_length:
            return Reading(self._ids_of(encoding), is_cut=False, num_chars=num_chars + len(text))
        return Reading(self._without_last(encoding), is_cut=True, num_chars=num_chars + len(text))

    def _place_to_cut(self, text: str, size: int) -> int:
        """Return at most `size`: where a text can be cut without changing the words before it; 0 if no place was found.

        Best is the end of a word. Without white space, as in Chinese, any place will do whose two sides are normalized
        independently, and where no added token begins before it and ends after it.
        """
        for end in range(size, size // 2, -1):
            if text[end].isspace() and not text[end - 1].isspace():
                return end if self._is_cut_at_spaces else 0
        if not self._is_cut_anywhere:
            return 0
        for end in range(size, max(size - 64, 0), -1):
            if _is_independent(text[end - 1], text[end]):
                around = text[max(0, end - self._longest_added) : end + self._longest_added]
                return 0 if any(added in around for added in self._added) else end
        return 0

    @cached_property
    def _added(self) -> list[str]:
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values() if len(token.content) > 1]

    @cached_property
    def _longest_added(self) -> int:
        return max(map(len, self._added), default=0)

    @cached_property
    def _is_cut_at_spaces(self) -> bool:
        return not any(not added.isspace() and any(map(str.isspace, added)) for added in self._added)

    @cached_property
    def _is_cut_anywhere(self) -> bool:
        """Whether added tokens are found as they are written, not in normalized text."""
        return not any(token.normalized for token in self._tokenizer.get_added_tokens_decoder().values())

    @cached_property
    def _types_pairs(self) -> bool:
        return any(self._tokenizer.encode("a", "a").type_ids)

    @cached_property
    def _one_longer(self) -> Tokenizer:
        """A tokenizer that keeps one token more, which shows whether a text is cut without a list of what was cut off."""
        tokenizer = Tokenizer.from_str(self.to_json())
        tokenizer.enable_truncation(self.max_length + 1)
        return tokenizer

    def _last_place(self, encoding: Encoding) -> int:
        """Return the place of the last token that is not special."""
        mask: list[int] = encoding.special_tokens_mask
        return len(mask) - 1 - mask[::-1].index(0)

    def _without_last(self, encoding: Encoding) -> NDArray[np.int64]:
        return np.delete(self._ids_of(encoding), self._last_place(encoding))

    def _ids_of(self, encoding: Encoding) -> NDArray[np.int64]:
        ids = np.array(encoding.ids, dtype=np.int64)
        return ids + _SECOND_TEXT * np.array(encoding.type_ids, np.int64) if self.pairs == "typed" else ids

    def windows(self, text: str) -> list[NDArray[np.int64]]:
        """Return the ids of a whole text in windows of at most `max_length`, each with special tokens.

        Consecutive windows overlap by a quarter, so that a phrase at a cut is complete in one of the two windows, and the last
        window is never a single word.
        """
        _require_text(text, 0)
        (encoding,) = _encoded(self._overlapping, [text])
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


def _portions(texts: Sequence[TextInput], is_long: Callable[[TextInput], bool]) -> Iterator[Sequence[TextInput]]:
    """Yield consecutive texts: one that is long, or several that are not."""
    for long, run in groupby(texts, is_long):
        while portion := list(islice(run, 1 if long else ENCODED_AT_ONCE)):
            yield portion


def _encoded(tokenizer: Tokenizer, texts: Sequence[TextInput], *, with_words: bool = False) -> list[Encoding]:
    """Encode in the library, which lets other threads run meanwhile (it does not where a single text is encoded).

    Raises:
        DatasetError: The library failed, or panicked.
    """
    try:
        return tokenizer.encode_batch(list(texts)) if with_words else tokenizer.encode_batch_fast(list(texts))
    except BaseException as exc:  # a panic is none of the library's exceptions, which have only Exception in common
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise DatasetError(f"a text cannot be encoded: {exc}") from exc


def _is_independent(before: str, after: str) -> bool:
    """Return whether two neighbouring characters are normalized in the same way apart and together, marks aside."""
    return all(unicodedata.category(each)[0] in "LNPS" for each in (before, after)) and all(
        unicodedata.normalize(form, before + after) == unicodedata.normalize(form, before) + unicodedata.normalize(form, after)
        for form in ("NFKC", "NFKD")
    )


def _require_text(text: object, index: int) -> None:
    for part in text if isinstance(text, tuple) and len(text) == 2 else (text,):
        if not isinstance(part, str):
            raise DatasetError(f"text {index} is {type(part).__name__}, expected a string or a pair of strings")
        try:
            part.encode()
        except UnicodeEncodeError as exc:
            raise DatasetError(f"text {index} has a lone surrogate at character {exc.start}; it is not valid UTF-8") from exc
