"""The three kinds of subword tokenizers: how each spells a token that it no longer has, and how it is written down.

Reads and writes the `model` part of a `tokenizer.json`. Knows nothing of texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distill.errors import SettingsError

_BYTE = re.compile(r"^<0x[0-9A-F]{2}>$")


class Subwords(Protocol):
    """The model of a tokenizer."""

    def tokens(self) -> Sequence[str]:
        """Return the model's tokens by id."""

    def alphabet(self) -> Collection[str]:
        """Return the tokens without which some text could no longer be spelt."""

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Return what a token falls into without itself; None when it cannot be missed as long as `kept` is kept."""

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these of its tokens, in the order of their new ids."""


def subwords_of(model: dict[str, Any]) -> Subwords:
    """Read the model of a `tokenizer.json`.

    Raises:
        SettingsError: It is of a kind that cannot spell a word it lacks.
    """
    kinds: dict[str, type[WordPiece] | type[BytePairs] | type[Unigram]] = {
        "WordPiece": WordPiece,
        "BPE": BytePairs,
        "Unigram": Unigram,
    }
    kind = kinds.get(model["type"])
    if kind is None:
        raise SettingsError(
            f"a {model['type']} tokenizer cannot spell words that it lacks, so its vocabulary cannot be trimmed; leave out "
            f"--vocabulary-size (it works with {', '.join(kinds)})"
        )
    return kind(model)


class WordPiece:
    """Longest match from the left; pieces inside a word carry a prefix."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        self._prefix = model["continuing_subword_prefix"]

    def tokens(self) -> Sequence[str]:
        """Return the tokens by id."""
        return _by_id(self._model["vocab"])

    def alphabet(self) -> Collection[str]:
        """Return every letter in its two places, and tokens with a letter that has no token of its own."""
        tokens = self._model["vocab"]
        letters = {token for token in tokens if len(self._letters(token)) <= 1}
        return (
            letters | {self._model["unk_token"]} | {token for token in tokens if not letters.issuperset(self._letters(token))}
        )

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Match the longest token from the left."""
        letters = self._letters(token)
        bare = "".join(letter.removeprefix(self._prefix) for letter in letters)
        pieces: list[str] = []
        start = 0
        while start < len(bare):
            before = self._prefix if start or letters[0].startswith(self._prefix) else ""
            for end in range(len(bare), start, -1):
                piece = before + bare[start:end]
                if piece != token and piece in kept:
                    break
            else:
                return None
            pieces.append(piece)
            start = end
        return pieces

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these tokens."""
        return {**self._model, "vocab": {token: index for index, token in enumerate(tokens)}}

    def _letters(self, token: str) -> list[str]:
        """Return a token's letters as tokens of their own."""
        if token.startswith(self._prefix) and token != self._prefix:
            return [self._prefix + letter for letter in token.removeprefix(self._prefix)]
        return [letter if index == 0 else self._prefix + letter for index, letter in enumerate(token)]


class BytePairs:
    """Byte-pair encoding: a token is there only with the merge that makes it, and with that merge's two parts."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
        self._parts: dict[str, tuple[str, ...]] = {}
        self._wholes: dict[str, set[str]] = {}
        for parts in self._merges:
            whole = self._whole(parts)
            if whole not in self._parts:  # the first merge that makes a token is the one that is applied
                self._parts[whole] = parts
                for part in parts:
                    self._wholes.setdefault(part, set()).add(whole)

    def tokens(self) -> Sequence[str]:
        """Return the tokens by id."""
        return _by_id(self._model["vocab"])

    def alphabet(self) -> Collection[str]:
        """Return the tokens that no merge makes."""
        return {token for token in self._model["vocab"] if token not in self._parts}

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Undo its merge, unless a kept token is made of it."""
        if any(whole in kept for whole in self._wholes.get(token, ())):
            return None
        return self._parts.get(token)

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these tokens."""
        vocabulary = {token: index for index, token in enumerate(tokens)}
        merges = [list(parts) for parts in self._merges if all(token in vocabulary for token in (*parts, self._whole(parts)))]
        return {**self._model, "vocab": vocabulary, "merges": merges}

    def _whole(self, parts: Sequence[str]) -> str:
        return parts[0] + parts[1].removeprefix(self._prefix)


class Unigram:
    """The most probable of all spellings, each token with a probability of its own."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        self._scores: dict[str, float] = dict(model["vocab"])

    def tokens(self) -> Sequence[str]:
        """Return the tokens by id."""
        return [token for token, _ in self._model["vocab"]]

    def alphabet(self) -> Collection[str]:
        """Return every letter, and tokens with a letter that has no token of its own."""
        letters = {token for token in self._scores if len(token) <= 1}
        unspelt = {token for token in self._scores if not letters.issuperset(token)}
        unknown = self._model["unk_id"]
        unknown_token = set() if unknown is None else {self.tokens()[unknown]}
        bytes_to_fall_back_on = {token for token in self._scores if _BYTE.match(token)}
        return letters | unspelt | unknown_token | bytes_to_fall_back_on

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Find the most probable spelling."""
        best: list[tuple[float, tuple[str, ...]] | None] = [(0.0, ())] + [None] * len(token)
        for start in range(len(token)):
            so_far = best[start]
            if so_far is None:
                continue
            for end in range(start + 1, len(token) + 1):
                piece = token[start:end]
                if piece == token or piece not in kept or piece not in self._scores:
                    continue
                score = so_far[0] + self._scores[piece]
                there = best[end]
                if there is None or score > there[0]:
                    best[end] = (score, (*so_far[1], piece))
        return None if best[-1] is None else best[-1][1]

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these tokens."""
        unknown = self._model["unk_id"]
        return {
            **self._model,
            "vocab": [[token, self._scores[token]] for token in tokens],
            "unk_id": None if unknown is None else tokens.index(self.tokens()[unknown]),
        }


def _by_id(vocabulary: Mapping[str, int]) -> list[str]:
    return sorted(vocabulary, key=vocabulary.__getitem__)


@dataclass(frozen=True)
class TrimmedTokenizer:
    """A tokenizer of fewer tokens.

    Attributes:
        json: Content of its `tokenizer.json`.
        old_ids: For each of its ids, in order, the id that token had.
    """

    json: str
    old_ids: tuple[int, ...]

    def new_ids(self) -> dict[int, int]:
        """Return the new id of each old one that is left."""
        return {old: new for new, old in enumerate(self.old_ids)}


def with_tokens(tokenizer_json: str, kept: Collection[str]) -> TrimmedTokenizer:
    """Return the tokenizer with only these of its model's tokens, and all its added ones, in the old order.

    Args:
        tokenizer_json: Content of the old `tokenizer.json`.
        kept: Tokens of the model; what `special_ids` names must be among them.
    """
    tokenizer = json.loads(tokenizer_json)
    subwords = subwords_of(tokenizer["model"])
    known = {token: index for index, token in enumerate(subwords.tokens())}
    tokens = [token for token in known if token in kept]
    beside = sorted(added["id"] for added in tokenizer["added_tokens"] if added["content"] not in known)
    trimmed = TrimmedTokenizer("", (*(known[token] for token in tokens), *beside))
    new_ids = trimmed.new_ids()
    tokenizer["model"] = subwords.with_tokens(tokens)
    for added in tokenizer["added_tokens"]:
        added["id"] = new_ids[added["id"]]
    for processor in _processors(tokenizer.get("post_processor")):
        _renumber(processor, new_ids)
    return TrimmedTokenizer(json.dumps(tokenizer, ensure_ascii=False), trimmed.old_ids)


def special_ids(tokenizer_json: str) -> set[int]:
    """Return the ids of the added tokens and of those that are put around a text."""
    tokenizer = json.loads(tokenizer_json)
    around = {index for processor in _processors(tokenizer.get("post_processor")) for index in _ids_of(processor)}
    return {added["id"] for added in tokenizer["added_tokens"]} | around


def _processors(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if processor is None:
        return
    yield processor
    for inner in processor.get("processors", ()):
        yield from _processors(inner)


def _ids_of(processor: dict[str, Any]) -> Iterator[int]:
    if processor["type"] == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            yield from special["ids"]
    else:
        yield from (processor[end][1] for end in ("cls", "sep") if end in processor)


def _renumber(processor: dict[str, Any], new_ids: Mapping[int, int]) -> None:
    if processor["type"] == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            special["ids"] = [new_ids[index] for index in special["ids"]]
    else:
        for end in ("cls", "sep"):
            if end in processor:
                token, index = processor[end]
                processor[end] = [token, new_ids[index]]
