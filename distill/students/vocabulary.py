"""A smaller vocabulary: fewer rows in the embedding table, and a tokenizer that splits every word into the kept tokens."""

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
from distill.texts import TextInput
from distill.tokenization import TextTokenizer, token_ids

_TEXTS_AT_ONCE = 4096


def trim_vocabulary(
    classifier: TorchClassifier, size: int, *, texts: Sequence[TextInput], characters: Characters = "all"
) -> TorchClassifier:
    """Return the classifier with at most `size` tokens, which keep their vectors.

    It keeps the special tokens, the single characters, and those of the other tokens that the texts need most. A text whose
    tokens were all kept has the same logits as before; a removed token is split into kept tokens.

    Args:
        classifier: A classifier with a WordPiece, BPE or Unigram tokenizer.
        size: Rows of the new table.
        texts: The transfer set.
        characters: Single-character tokens to keep: "all", or only ASCII and those "seen" in the texts; a word with another
            character becomes the unknown token.

    Raises:
        SettingsError: The tokenizer is of another kind, `size` is too small to split every word, or there are no texts.
    """
    if size >= classifier.tokenizer.vocabulary_size:
        return classifier
    if not texts:
        raise SettingsError("vocabulary_size needs texts to choose tokens on, and there are none")
    trimmed = trimmed_tokenizer(classifier.tokenizer, classifier.tokenizer_config, size, texts=texts, characters=characters)
    new_ids = trimmed.new_ids
    config = copy.deepcopy(classifier.model.config)
    config.vocab_size = len(new_ids)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
    if position_offset(config) != position_offset(classifier.model.config):
        raise SettingsError(
            f"vocabulary_size would change the padding id of a {config.model_type} model, from which it counts positions; "
            "leave out --vocabulary-size"
        )
    name, weights = embedding_name(classifier), classifier.model.state_dict()
    rows = torch.tensor(list(new_ids), device=weights[name].device)
    tokenizer = TextTokenizer.from_json(
        trimmed.json,
        max_length=classifier.tokenizer.max_length,
        pad_id=new_ids[classifier.tokenizer.pad_id],
        pairs=classifier.tokenizer.pairs,
    )
    return rebuilt(classifier, config=config, weights={**weights, name: weights[name][rows]}, tokenizer=tokenizer)


def trimmed_tokenizer(
    tokenizer: TextTokenizer,
    tokenizer_config: dict[str, Any],
    size: int,
    *,
    texts: Sequence[TextInput],
    characters: Characters = "all",
) -> TrimmedTokenizer:
    """Return a tokenizer of `size` tokens, chosen on the texts.

    Args:
        tokenizer: The old tokenizer.
        tokenizer_config: Names its special tokens, which are all kept.
        size: Number of tokens, including special and added tokens.
        texts: Texts that should be split into few tokens.
        characters: See `trim_vocabulary`.
    """
    content = tokenizer.to_json()
    subwords = subwords_of(json.loads(content)["model"])
    tokens = subwords.tokens()
    occurrences = count_tokens(tokenizer, texts)
    special = {tokens[index] for index in {*special_ids(content), tokenizer.pad_id} if index < len(tokens)}
    named = {value for value in tokenizer_config.values() if isinstance(value, str)}.intersection(tokens)
    counts = dict(zip(tokens, occurrences.tolist(), strict=False))
    always = {*special, *named, *subwords.alphabet()}
    if characters == "seen":
        foreign = _tokens_with_unseen_characters(counts, subwords) - special - named
        counts = {token: count for token, count in counts.items() if token not in foreign}
        always -= foreign
    beside = len(occurrences) - len(tokens)  # added tokens that the model itself does not know
    return with_tokens(content, kept_tokens(subwords, counts, always=always, size=size - beside))


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[TextInput]) -> NDArray[np.int64]:
    """Return how often each token occurs in the texts, cut to `max_length`, by id."""
    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        rows = tokenizer.encode(texts[start : start + _TEXTS_AT_ONCE])
        counts += np.bincount(token_ids(np.concatenate(rows)), minlength=len(counts))
    return counts


def _tokens_with_unseen_characters(counts: Mapping[str, int], subwords: Subwords) -> set[str]:
    """Return the tokens with a character that is neither in the texts nor in ASCII."""
    if isinstance(subwords, BytePairs):
        raise SettingsError(
            "a BPE tokenizer has no unknown token for a character that was removed, so all must be kept; use "
            "--vocabulary-characters all"
        )
    seen = {character for token, count in counts.items() if count for character in token}
    return {token for token in counts if any(not character.isascii() and character not in seen for character in token)}


def kept_tokens(subwords: Subwords, counts: Mapping[str, int], *, always: Collection[str], size: int) -> set[str]:
    """Return the tokens to keep.

    Args:
        subwords: How the tokenizer splits a token that was removed.
        counts: Occurrences of every token in the texts; tokens that are frequent in the language come first.
        always: Tokens that are never removed.
        size: Number of tokens to keep.

    Raises:
        SettingsError: More than `size` tokens cannot be removed.
    """
    kept, count_of = set(counts), dict(counts)
    place_of = {token: place for place, token in enumerate(counts)}

    def entry(token: str) -> tuple[int, int, str]:
        pieces = subwords.pieces_of(token, kept) if count_of[token] else ()
        cost = count_of[token] * (len(pieces or ()) - 1)
        return cost, -place_of[token], token  # of equal costs, the token that is rarer in the language is removed first

    queue = [entry(token) for token in counts if token not in always]
    heapq.heapify(queue)
    needed: set[str] = set()  # by other kept tokens, when their turn came
    while len(kept) > size:
        if not queue:
            raise SettingsError(
                f"vocabulary_size is {size}, but {len(kept)} tokens cannot be removed: special tokens and those that all "
                "words can be split into; use a larger --vocabulary-size"
            )
        candidate = heapq.heappop(queue)
        token = candidate[-1]
        pieces = subwords.pieces_of(token, kept)
        if pieces is None:
            needed.add(token)
            continue
        current = entry(token)
        if current > candidate:  # its cost has risen since: it replaced another token, or one of its own pieces was removed
            heapq.heappush(queue, current)
            continue
        kept.remove(token)
        for piece in pieces:
            count_of[piece] += count_of[token]
            if piece in needed:
                needed.remove(piece)
                heapq.heappush(queue, entry(piece))
    return kept
