"""Grouping texts into batches of similar length, so that there is little padding, within a token budget.

Shared by training, the PyTorch classifier and the ONNX runtime. numpy only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.labels import Logits
from distill.tokenization import Batch

Indices = NDArray[np.int64]

FEW_TEXTS = 64
"""Largest number of texts for which the optimal batches are searched; with more, neighbours have similar lengths anyway."""

_WIDTH_STEP = 8


def length_sorted_batches(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[Indices]:
    """Group texts of similar length, longest first: the first batch shows whether memory suffices.

    Args:
        lengths: Tokens of each text.
        max_tokens: Padded tokens per batch (longest text x texts); a longer text gets a batch of its own.
        max_texts: Texts per batch.

    Returns:
        Positions of the texts, each in exactly one batch.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"):
        if not batches or len(batches[-1]) >= max_texts or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(int(index))
    return [np.array(batch, dtype=np.int64) for batch in batches]


def cheapest_batches(lengths: Sequence[int], *, max_tokens: int, max_texts: int, overhead_tokens: int) -> list[Indices]:
    """Group a few texts so that the total cost is smallest, longest first.

    A few texts differ much in length: one batch pads all of them to the longest, and many batches add the overhead of many
    calls. Dynamic programming finds the best cuts of the texts sorted by length, in texts x `max_texts` steps.

    Args:
        lengths: Tokens of each text.
        max_tokens: Padded tokens per batch; a longer text gets a batch of its own.
        max_texts: Texts per batch.
        overhead_tokens: Fixed cost of a batch, in padded tokens.

    Returns:
        Positions of the texts, each in exactly one batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    cost, began = [0] + [sys.maxsize] * len(order), [0] * (len(order) + 1)
    for start, first in enumerate(order):
        longest = lengths[first]
        room = max(1, min(max_texts, max_tokens // max(1, longest)))
        for stop in range(start + 1, min(start + room, len(order)) + 1):
            total = cost[start] + overhead_tokens + (stop - start) * longest
            if total < cost[stop]:
                cost[stop], began[stop] = total, start
    batches: list[Indices] = []
    stop = len(order)
    while stop:
        batches.append(np.array(order[began[stop] : stop], dtype=np.int64))
        stop = began[stop]
    return batches[::-1]


@dataclass(frozen=True)
class SteadyBatch:
    """Texts, and the shape of the batch in which they are computed.

    Attributes:
        places: Positions of the texts.
        shape: Rows and tokens per row; there is always at least one row more than texts.
    """

    places: Indices
    shape: tuple[int, int]


def steady_batches(lengths: Sequence[int], *, max_length: int, max_tokens: int) -> list[SteadyBatch]:
    """Group texts so that the shape of a text's batch depends only on the length of that text, longest first.

    Matmuls of the same shape sum each row in the same order, so the logits of a text are bit-identical whatever else is in
    its batch. One row always stays empty, because PyTorch chooses another attention kernel for a batch without padding.

    Args:
        lengths: Tokens of each text.
        max_length: Maximum tokens per row.
        max_tokens: Padded tokens per batch.

    Returns:
        Batches that hold each text exactly once.
    """
    steps = np.maximum(-(-np.asarray(lengths, dtype=np.int64) // _WIDTH_STEP), 1)
    widths = np.minimum(steps * _WIDTH_STEP, max_length)
    batches = []
    for width in np.unique(widths)[::-1].tolist():
        places = np.flatnonzero(widths == width)
        rows = max(2, max_tokens // width)
        batches += [SteadyBatch(places[start : start + rows - 1], (rows, width)) for start in range(0, len(places), rows - 1)]
    return batches


def filled_up(batch: Batch, shape: tuple[int, int], *, pad_id: int) -> Batch:
    """Return the batch padded to a shape; empty rows attend to one token, so that their values stay finite."""
    texts, tokens = batch.input_ids.shape
    grown = ((0, shape[0] - texts), (0, shape[1] - tokens))
    types = None if batch.token_type_ids is None else np.pad(batch.token_type_ids, grown)
    filled = Batch(np.pad(batch.input_ids, grown, constant_values=pad_id), np.pad(batch.attention_mask, grown), types)
    filled.attention_mask[texts:, 0] = 1
    return filled


def training_batches(lengths: Sequence[int] | Indices, *, batch_size: int, generator: np.random.Generator) -> list[Indices]:
    """Shuffle texts into batches of similar length, in random order.

    Texts are sorted by length only within random pools of 50 batches, so that each epoch has other batches.

    Args:
        lengths: Tokens of each text.
        batch_size: Texts per batch; the last batch of a pool may be smaller.
        generator: Random generator.
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
    run: Callable[[list[NDArray[np.int64]]], Logits],
    num_labels: int,
    max_tokens: int,
    max_texts: int,
    overhead_tokens: int | None = None,
    on_batch: Callable[[int], object] | None = None,
    run_all: Callable[..., Iterable[Logits]] = map,
) -> Logits:
    """Run a model on batches of similar length and return the logits in the order of the rows.

    Args:
        rows: Token ids of each text.
        run: Pads the rows of a batch and returns their logits, shape (texts, labels).
        num_labels: Columns of the result, also if there are no rows.
        max_tokens: Padded tokens per batch.
        max_texts: Texts per batch.
        overhead_tokens: Fixed cost of a batch, in padded tokens, if known; a few texts are then divided by cost.
        on_batch: Called with the number of texts after each batch.
        run_all: Runs the batches: `map`, or the `map` of an executor to run several at once.

    Returns:
        Shape (len(rows), num_labels), float32; row i belongs to rows[i].
    """
    logits = np.empty((len(rows), num_labels), dtype=np.float32)
    lengths = [len(row) for row in rows]
    if overhead_tokens is not None and len(rows) <= FEW_TEXTS:
        batches = cheapest_batches(lengths, max_tokens=max_tokens, max_texts=max_texts, overhead_tokens=overhead_tokens)
    else:
        batches = length_sorted_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)
    answers = run_all(lambda batch: run([rows[index] for index in batch]), batches)
    for batch, answer in zip(batches, answers, strict=True):
        logits[batch] = answer
        if on_batch is not None:
            on_batch(len(batch))
    return logits
