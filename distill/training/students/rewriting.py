"""Writing a `tokenizer.json` for fewer tokens: the same normaliser, splitter and special tokens, other ids.

Strings in, strings out; knows no torch and no texts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill.training.students.subwords import subwords_of


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
