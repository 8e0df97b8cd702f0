"""Which tokens a smaller vocabulary keeps: those whose loss would lengthen the texts most.

Tokens are taken out one by one, the cheapest first. A token costs what its occurrences would add to the length of the
texts: a word seen ten times that falls into three pieces costs twenty. When it goes, its pieces inherit its
occurrences, so that what the removed words are spelt with becomes dear itself. Texts are not split again on the way: a
token is looked at on its own, not for what its pieces might join with beside it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

from distill.errors import SettingsError
from distill.training.students.subwords import Subwords


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
