"""The three kinds of subword tokenizers: how each splits a word whose token was removed, and how it is saved.

Reads and writes `tokenizer.json`. Knows nothing of texts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from distill.errors import SettingsError

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


class Subwords(ABC):
    """The `model` part of a `tokenizer.json`; the vocabulary is an object from token to id."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        self._prefix = model.get("continuing_subword_prefix") or ""

    def tokens(self) -> list[str]:
        """Return the model's tokens by id."""
        return sorted(self._model["vocab"], key=self._model["vocab"].__getitem__)

    def alphabet(self) -> set[str]:
        """Return the tokens without which some text could no longer be split into tokens.

        They are the single characters, and tokens with a character that has no token of its own.
        """
        letters_of = {token: self._letters(token) for token in self.tokens()}
        single = {token for token, letters in letters_of.items() if len(letters) <= 1}
        return single | {token for token, letters in letters_of.items() if not single.issuperset(letters)}

    def _letters(self, token: str) -> list[str]:
        """Return the single-character tokens of a token."""
        return list(token)

    @abstractmethod
    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Return the kept tokens that replace a token; None if it cannot be removed as long as `kept` is kept."""

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these of its tokens, in the order of their new ids."""
        return {**self._model, "vocab": {token: index for index, token in enumerate(tokens)}}


def subwords_of(model: dict[str, Any]) -> Subwords:
    """Read the model of a `tokenizer.json`.

    Raises:
        SettingsError: A model of this kind cannot split a word that has no token.
    """
    kinds: dict[str, type[Subwords]] = {"WordPiece": WordPiece, "BPE": BytePairs, "Unigram": Unigram}
    if model["type"] not in kinds:
        raise SettingsError(
            f"a {model['type']} tokenizer cannot split words that have no token, so its vocabulary cannot be trimmed; leave "
            f"out --vocabulary-size (it works with {', '.join(kinds)})"
        )
    return kinds[model["type"]](model)


class WordPiece(Subwords):
    """Longest match from the left; tokens inside a word start with a prefix."""

    def alphabet(self) -> set[str]:
        """Return [UNK], single characters in both forms, and tokens with a character that has no token of its own."""
        return super().alphabet() | {self._model["unk_token"]}

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Return the longest matches from the left."""
        letters = self._letters(token)
        bare = "".join(letter.removeprefix(self._prefix) for letter in letters)
        pieces: list[str] = []
        start = 0
        while start < len(bare):
            before = self._prefix if start or letters[0].startswith(self._prefix) else ""
            shorter = (before + bare[start:end] for end in range(len(bare), start, -1))
            piece = next((piece for piece in shorter if piece != token and piece in kept), None)
            if piece is None:
                return None
            pieces.append(piece)
            start += len(piece) - len(before)
        return pieces

    def _letters(self, token: str) -> list[str]:
        if token.startswith(self._prefix) and token != self._prefix:
            return [self._prefix + letter for letter in token.removeprefix(self._prefix)]
        return [letter if index == 0 else self._prefix + letter for index, letter in enumerate(token)]


class BytePairs(Subwords):
    """Byte-pair encoding: a token needs the merge that makes it, and that merge's two parts."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__(model)
        self._merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
        self._parts: dict[str, tuple[str, ...]] = {}
        self._wholes: dict[str, set[str]] = {}
        for parts in self._merges:
            whole = self._whole(parts)
            if whole not in self._parts:  # only the first merge that makes a token is ever applied
                self._parts[whole] = parts
                for part in parts:
                    self._wholes.setdefault(part, set()).add(whole)

    def alphabet(self) -> set[str]:
        """Return the tokens that no merge makes: bytes or characters."""
        return {token for token in self._model["vocab"] if token not in self._parts}

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Return the two parts of its merge, unless a kept token is merged from it."""
        needed = any(whole in kept for whole in self._wholes.get(token, ()))
        return None if needed else self._parts.get(token)

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these tokens."""
        kept = set(tokens)
        merges = [list(parts) for parts in self._merges if kept.issuperset((*parts, self._whole(parts)))]
        return {**super().with_tokens(tokens), "merges": merges}

    def _whole(self, parts: Sequence[str]) -> str:
        return parts[0] + parts[1].removeprefix(self._prefix)


class Unigram(Subwords):
    """The most probable split of a word; each token has a log-probability."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__(model)
        self._scores: dict[str, float] = dict(model["vocab"])

    def tokens(self) -> list[str]:
        """Return the tokens by id."""
        return [token for token, _ in self._model["vocab"]]

    def alphabet(self) -> set[str]:
        """Return single characters, bytes, the unknown token, and tokens with a character that has no token."""
        unknown = self._model["unk_id"]
        unknown_token = set() if unknown is None else {self.tokens()[unknown]}
        return super().alphabet() | unknown_token | _BYTES.intersection(self._scores)

    def pieces_of(self, token: str, kept: Collection[str]) -> Sequence[str] | None:
        """Return the most probable split into kept tokens."""
        best: dict[int, tuple[float, tuple[str, ...]]] = {0: (0.0, ())}  # by the length of the part that is split
        for start, end in combinations(range(len(token) + 1), 2):  # every piece, by its start
            piece = token[start:end]
            if start in best and piece != token and piece in kept and piece in self._scores:
                score = best[start][0] + self._scores[piece]
                if end not in best or score > best[end][0]:
                    best[end] = (score, (*best[start][1], piece))
        return best[len(token)][1] if len(token) in best else None

    def with_tokens(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model's JSON for these tokens."""
        unknown = self._model["unk_id"]
        return {
            **self._model,
            "vocab": [[token, self._scores[token]] for token in tokens],
            "unk_id": None if unknown is None else tokens.index(self.tokens()[unknown]),
        }


@dataclass(frozen=True)
class TrimmedTokenizer:
    """A tokenizer with fewer tokens.

    Attributes:
        json: Content of its `tokenizer.json`.
        new_ids: The new id of each kept token by its old id, in the order of the new ids.
    """

    json: str
    new_ids: dict[int, int]


def with_tokens(tokenizer_json: str, kept: Collection[str]) -> TrimmedTokenizer:
    """Return the tokenizer with only these of its model's tokens, and all its added tokens, in the old order.

    Args:
        tokenizer_json: Content of the old `tokenizer.json`.
        kept: Tokens of the model; must include those of `special_ids`.
    """
    tokenizer = json.loads(tokenizer_json)
    subwords = subwords_of(tokenizer["model"])
    known = {token: index for index, token in enumerate(subwords.tokens())}
    tokens = [token for token in known if token in kept]
    beside = sorted(added["id"] for added in tokenizer["added_tokens"] if added["content"] not in known)
    new_ids = {old: new for new, old in enumerate((*(known[token] for token in tokens), *beside))}
    tokenizer["model"] = subwords.with_tokens(tokens)
    for holder, key in _places_of_ids(tokenizer):
        holder[key] = new_ids[holder[key]]
    return TrimmedTokenizer(json.dumps(tokenizer, ensure_ascii=False), new_ids)


def special_ids(tokenizer_json: str) -> set[int]:
    """Return the ids of the added tokens and of the tokens that the post-processor puts around a text."""
    return {holder[key] for holder, key in _places_of_ids(json.loads(tokenizer_json))}


def _places_of_ids(tokenizer: dict[str, Any]) -> Iterator[tuple[Any, str | int]]:
    """Yield (object or array, key) of every token id outside the model."""
    yield from ((added, "id") for added in tokenizer["added_tokens"])
    processors = [tokenizer.get("post_processor") or {}]
    for processor in processors:  # grows while it is read: a Sequence holds others
        processors += processor.get("processors", ())
        for special in processor.get("special_tokens", {}).values():
            yield from ((special["ids"], index) for index in range(len(special["ids"])))
        yield from ((processor[end], 1) for end in ("cls", "sep") if end in processor)  # each is [token, id]
