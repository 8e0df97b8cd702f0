"""Trimming the vocabulary: fewer rows in the embedding table, and a tokenizer that spells every word with them."""

from __future__ import annotations

import copy
import heapq
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import SettingsError
from distill.models.families import position_offset
from distill.models.loading import embedding_name, rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.settings import Characters
from distill.students.subwords import BytePairs, Subwords, TrimmedTokenizer, special_ids, subwords_of, with_tokens
from distill.tokenization import TextTokenizer

_TEXTS_AT_ONCE = 4096


def trim_vocabulary(
    classifier: TorchClassifier, size: int, *, texts: Sequence[str], characters: Characters = "all"
) -> TorchClassifier:
    """Return the classifier with at most `size` tokens, each with the vector it had.

    Kept are the special tokens, all that words are spelt with, and of the others those that the texts need most. A
    text that lost no token has the same logits as before; a word that was removed is split into pieces that were kept.

    Args:
        classifier: With a WordPiece, BPE or Unigram tokenizer.
        size: Rows of the new table.
        texts: The transfer set.
        characters: Which stay spelt; "seen" gives up those that the texts lack, ASCII's aside, and a word with one of them
            is unknown.

    Raises:
        SettingsError: The tokenizer is of another kind, `size` is too small to spell every word, or there are no texts.
    """
    if size >= classifier.tokenizer.vocabulary_size:
        return classifier
    if not texts:
        raise SettingsError("a vocabulary is trimmed to the texts that the student learns from, and none were given")
    trimmed = trimmed_tokenizer(classifier.tokenizer, classifier.tokenizer_config, size, texts=texts, characters=characters)
    new_ids = trimmed.new_ids()
    config = copy.deepcopy(classifier.model.config)
    config.vocab_size = len(trimmed.old_ids)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
    if position_offset(config) != position_offset(classifier.model.config):
        raise SettingsError(
            f"trimming would move the padding id of a {config.model_type} model, from which it counts positions; leave out "
            "--vocabulary-size"
        )
    name = embedding_name(classifier)
    weights = classifier.model.state_dict()
    rows = torch.tensor(trimmed.old_ids, device=weights[name].device)
    tokenizer = TextTokenizer.from_json(
        trimmed.json, max_length=classifier.tokenizer.max_length, pad_id=new_ids[classifier.tokenizer.pad_id]
    )
    return rebuilt(classifier, config=config, weights={**weights, name: weights[name][rows]}, tokenizer=tokenizer)


def trimmed_tokenizer(
    tokenizer: TextTokenizer,
    tokenizer_config: dict[str, Any],
    size: int,
    *,
    texts: Sequence[str],
    characters: Characters = "all",
) -> TrimmedTokenizer:
    """Return a tokenizer of `size` tokens, chosen on the texts.

    Args:
        tokenizer: The old one.
        tokenizer_config: Names its special tokens, all of which stay.
        size: Tokens, special and added ones included.
        texts: What it must be short on.
        characters: See `trim_vocabulary`.
    """
    content = tokenizer.to_json()
    subwords = subwords_of(json.loads(content)["model"])
    tokens = subwords.tokens()
    occurrences = count_tokens(tokenizer, texts)
    beside = len(occurrences) - len(tokens)  # added tokens that the model itself does not know
    special = {tokens[index] for index in {*special_ids(content), tokenizer.pad_id} if index < len(tokens)}
    named = {value for value in tokenizer_config.values() if isinstance(value, str)}.intersection(tokens)
    counts = dict(zip(tokens, occurrences.tolist(), strict=False))
    always = {*special, *named, *subwords.alphabet()}
    if characters == "seen":
        foreign = _tokens_with_unseen_characters(counts, subwords) - special - named
        counts = {token: count for token, count in counts.items() if token not in foreign}
        always -= foreign
    kept = kept_tokens(subwords, counts, always=always, size=size - beside)
    return with_tokens(content, kept)


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Return how often each token occurs in the texts, as far as they are read, by id."""
    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        rows = tokenizer.encode(texts[start : start + _TEXTS_AT_ONCE])
        counts += np.bincount(np.concatenate(rows), minlength=len(counts))
    return counts


def _tokens_with_unseen_characters(counts: Mapping[str, int], subwords: Subwords) -> set[str]:
    """Return the tokens that hold a character which neither the texts nor ASCII have."""
    if isinstance(subwords, BytePairs):
        raise SettingsError(
            "a BPE tokenizer has no token for a word that it cannot spell, so every character must stay; use "
            "--vocabulary-characters all"
        )
    seen = {character for token, count in counts.items() if count for character in token}
    return {token for token in counts if any(not character.isascii() and character not in seen for character in token)}


def kept_tokens(subwords: Subwords, counts: Mapping[str, int], *, always: Collection[str], size: int) -> set[str]:
    """Return the tokens to keep.

    Args:
        subwords: How the tokenizer spells a token that it no longer has.
        counts: Every token, the most frequent of the language first, and how often the texts hold it.
        always: Tokens that are never taken out.
        size: How many to keep.

    Raises:
        SettingsError: More than `size` tokens cannot be missed.
    """
    kept, count_of = set(counts), dict(counts)
    place_of = {token: place for place, token in enumerate(counts)}

    def entry(token: str) -> tuple[int, int, str]:
        pieces = subwords.pieces_of(token, kept) if count_of[token] else ()
        cost = count_of[token] * (len(pieces or ()) - 1)
        return cost, -place_of[token], token  # among equals the rarer one of the language goes first

    queue = [entry(token) for token in counts if token not in always]
    heapq.heapify(queue)
    needed: set[str] = set()  # by others, when their turn came
    while len(kept) > size:
        if not queue:
            raise SettingsError(
                f"vocabulary_size is {size}, but {len(kept)} tokens cannot be missed: the special ones and those that "
                "spell any other word; raise --vocabulary-size"
            )
        candidate = heapq.heappop(queue)
        token = candidate[-1]
        pieces = subwords.pieces_of(token, kept)
        if pieces is None:
            needed.add(token)
            continue
        current = entry(token)
        if current > candidate:  # dearer since: it has inherited, or one of its pieces has gone
            heapq.heappush(queue, current)
            continue
        kept.remove(token)
        for piece in pieces:
            count_of[piece] += count_of[token]
            if piece in needed:
                needed.remove(piece)
                heapq.heappush(queue, entry(piece))
    return kept
