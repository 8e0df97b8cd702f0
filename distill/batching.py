"""How texts are grouped into batches: by length, so that little is padded, and within a token budget.

Shared by training, the PyTorch classifier and the ONNX runtime. numpy only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill.labels import Logits
from distill.tokenization import Batch, TextTokenizer

Indices = NDArray[np.int64]

FEW_TEXTS = 64
"""Up to so many texts the best cuts are looked for; of more, neighbours are of like length wherever they are cut."""

_WIDTH_STEP = 8


class OrderedMap(Protocol):
    """`map`, or an executor's `map`: a function applied to each item, the results in the items' order."""

    def __call__(self, function: Callable[[Indices], Logits], items: Sequence[Indices], /) -> Iterable[Logits]:
        """Yield function(item) for each item."""
        ...


def length_sorted_batches(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[Indices]:
    """Group texts of like length, longest first, so that the largest batch comes first and memory is known early.

    Args:
        lengths: Tokens of each text.
        max_tokens: Padded tokens a batch may hold (longest text x texts); a longer text stands alone.
        max_texts: Texts a batch may hold.

    Returns:
        Positions of the texts, each in exactly one batch.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"):
        full = not batches or len(batches[-1]) >= max_texts or longest * (len(batches[-1]) + 1) > max_tokens
        if full:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(int(index))
    return [np.array(batch, dtype=np.int64) for batch in batches]


def cheapest_batches(lengths: Sequence[int], *, max_tokens: int, max_texts: int, overhead_tokens: int) -> list[Indices]:
    """Group a few texts so that what is computed in all is least, the longest first.

    Of few texts the lengths differ much, and in one batch each is padded to the longest; in many batches each pays for
    the call. The best cuts of the texts sorted by length are found by dynamic programming, in texts x `max_texts` steps.

    Args:
        lengths: Tokens of each text.
        max_tokens: Padded tokens a batch may hold; a longer text stands alone.
        max_texts: Texts a batch may hold.
        overhead_tokens: What a batch costs beside its padded tokens, in tokens.

    Returns:
        Positions of the texts, each in exactly one batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    cost, began = [0] + [sys.maxsize] * len(order), [0] * (len(order) + 1)
    for start, first in enumerate(order):
        longest = lengths[first]
        room = max(1, min(max_texts, max_tokens // max(1, longest)))
        before = cost[start] + overhead_tokens
        for stop in range(start + 1, min(start + room, len(order)) + 1):
            through = before + (stop - start) * longest
            if through < cost[stop]:
                cost[stop], began[stop] = through, start
    batches: list[Indices] = []
    stop = len(order)
    while stop:
        batches.append(np.array(order[began[stop] : stop], dtype=np.int64))
        stop = began[stop]
    return batches[::-1]


@dataclass(frozen=True)
class SteadyBatch:
    """Texts and the shape of the batch they are computed in.

    Attributes:
        places: Positions of the texts.
        shape: Rows and tokens a row; there is always a row more than texts.
    """

    places: Indices
    shape: tuple[int, int]


def steady_batches(lengths: Sequence[int], *, max_length: int, max_tokens: int) -> list[SteadyBatch]:
    """Group texts so that the shape of a text's batch depends on its own length alone, the longest first.

    Matrix products of one shape sum each row in one order, so a text's logits are the same to the last bit whatever
    its batch-mates are. A row is always left free: a batch without padding would be given another attention kernel.

    Args:
        lengths: Tokens of each text.
        max_length: Tokens a row may have.
        max_tokens: Padded tokens of a batch.

    Returns:
        Each text in exactly one batch.
    """
    steps = np.maximum(-(-np.asarray(lengths, dtype=np.int64) // _WIDTH_STEP), 1)
    widths = np.minimum(steps * _WIDTH_STEP, max_length)
    batches = []
    for width in np.unique(widths)[::-1]:
        places = np.flatnonzero(widths == width)
        rows = max(2, max_tokens // int(width))
        batches += [
            SteadyBatch(places[start : start + rows - 1], (rows, int(width))) for start in range(0, len(places), rows - 1)
        ]
    return batches


def filled_up(batch: Batch, shape: tuple[int, int], *, pad_id: int) -> Batch:
    """Return the batch with padding up to a shape; rows that hold no text attend to one token, so as to stay finite."""
    texts, tokens = batch.input_ids.shape
    grown = ((0, shape[0] - texts), (0, shape[1] - tokens))
    filled = Batch(np.pad(batch.input_ids, grown, constant_values=pad_id), np.pad(batch.attention_mask, grown))
    filled.attention_mask[texts:, 0] = 1
    return filled


def training_batches(lengths: Sequence[int] | Indices, *, batch_size: int, generator: np.random.Generator) -> list[Indices]:
    """Shuffle texts into batches of like length, in random order.

    Lengths are alike only within pools of 50 batches, so that two epochs do not see the same batches.

    Args:
        lengths: Tokens of each text.
        batch_size: Texts per batch; the last of a pool may be smaller.
        generator: Decides the order.
    """
    order = generator.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches: list[Indices] = []
    pool_size = 50 * batch_size
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def logits_in_order(
    rows: Sequence[NDArray[np.int64]],
    *,
    tokenizer: TextTokenizer,
    run: Callable[[Batch], Logits],
    num_labels: int,
    max_tokens: int,
    max_texts: int,
    overhead_tokens: int | None = None,
    on_batch: Callable[[int], object] | None = None,
    run_all: OrderedMap = map,
) -> Logits:
    """Run a model over rows of ids in length-sorted batches and put the answers back in order.

    Args:
        rows: Token ids of each text.
        tokenizer: Pads the batches.
        run: Padded batch to logits, shape (texts, labels).
        num_labels: Columns of the result, for no texts at all.
        max_tokens: Padded tokens per batch.
        max_texts: Texts per batch.
        overhead_tokens: What a batch costs beside its tokens, where it is known; few texts are then grouped by it.
        on_batch: Told how many texts each finished batch held.
        run_all: Runs the batches: one after another, or an executor's `map` for several at once.

    Returns:
        Shape (len(rows), num_labels), float32; row i belongs to rows[i].
    """
    logits = np.empty((len(rows), num_labels), dtype=np.float32)
    lengths = [len(row) for row in rows]
    if overhead_tokens is not None and len(rows) <= FEW_TEXTS:
        batches = cheapest_batches(lengths, max_tokens=max_tokens, max_texts=max_texts, overhead_tokens=overhead_tokens)
    else:
        batches = length_sorted_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)
    answers = run_all(lambda batch: run(tokenizer.pad([rows[index] for index in batch])), batches)
    for batch, answer in zip(batches, answers, strict=True):
        logits[batch] = answer
        if on_batch is not None:
            on_batch(len(batch))
    return logits
