"""Batches: every text once, within the budget, and answers back in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.batching import (
    Indices,
    cheapest_batches,
    filled_up,
    length_sorted_batches,
    logits_in_order,
    steady_batches,
    training_batches,
)
from distill.labels import Logits
from distill.tokenization import Batch

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 100), max_texts=st.integers(1, 10))
def test_every_text_stands_in_one_batch_within_the_budget(lengths: list[int], max_tokens: int, max_texts: int) -> None:
    batches = length_sorted_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_texts
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= max_tokens or len(batch) == 1
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 100), max_texts=st.integers(1, 10))
def test_no_batch_is_closed_early(lengths: list[int], max_tokens: int, max_texts: int) -> None:
    batches = length_sorted_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)
    for batch in batches[:-1]:
        assert len(batch) == max_texts or lengths[batch[0]] * (len(batch) + 1) > max_tokens


def test_batches_by_hand() -> None:
    # Sorted 9 5 5 2 1; the 9 stands alone in a budget of 8, two fives would be 10, a five alone leaves no room for a pair.
    batches = length_sorted_batches([5, 1, 9, 2, 5], max_tokens=8, max_texts=64)
    assert [batch.tolist() for batch in batches] == [[2], [0], [4], [3, 1]]


def ways_to_cut(count: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to cut `count` texts in a row into batches, as their sizes."""
    if count == 0:
        yield ()
    for first in range(1, count + 1):
        for rest in ways_to_cut(count - first):
            yield (first, *rest)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=8),
    max_tokens=st.integers(1, 100),
    max_texts=st.integers(1, 8),
    overhead_tokens=st.integers(0, 60),
)
def test_no_way_to_cut_the_sorted_texts_is_cheaper(
    lengths: list[int], max_tokens: int, max_texts: int, overhead_tokens: int
) -> None:
    batches = cheapest_batches(lengths, max_tokens=max_tokens, max_texts=max_texts, overhead_tokens=overhead_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)

    def cost(sizes: Sequence[int]) -> float:
        total, place = 0.0, 0
        for size in sizes:
            padded = size * in_order[place]
            if size > max_texts or (padded > max_tokens and size > 1):
                return math.inf
            total += overhead_tokens + padded
            place += size
        return total

    assert cost([len(batch) for batch in batches]) == min(map(cost, ways_to_cut(len(lengths))))


def test_cheapest_batches_by_hand() -> None:
    # Longest first 50 20 18 4, each batch 30 besides: all in one 230, the 50 alone 80 + 90 = 170, the 4 alone, too, 184.
    batches = cheapest_batches([20, 50, 4, 18], max_tokens=384, max_texts=32, overhead_tokens=30)
    assert [batch.tolist() for batch in batches] == [[1], [0, 3, 2]]


@given(lengths=LENGTHS, batch_size=st.integers(1, 8), seed=st.integers(0, 99))
def test_training_sees_every_text_once_an_epoch(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = training_batches(lengths, batch_size=batch_size, generator=np.random.default_rng(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-len(lengths) // batch_size)  # only the last may be small: there is one pool here


def test_training_batches_hold_like_lengths_in_random_order() -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 640).tolist()
    batches = training_batches(lengths, batch_size=16, generator=np.random.default_rng(0))
    spread = [max(lengths[index] for index in batch) - min(lengths[index] for index in batch) for batch in batches]
    assert max(spread) <= 10  # 40 batches over 100 lengths: 2.5 on average, where chance would give 90
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_two_epochs_see_other_batches_and_one_seed_the_same() -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 640).tolist()

    def epochs(seed: int) -> list[set[frozenset[int]]]:
        generator = np.random.default_rng(seed)
        return [
            {frozenset(batch.tolist()) for batch in training_batches(lengths, batch_size=16, generator=generator)}
            for _ in range(2)
        ]

    assert epochs(0) == epochs(0)
    assert epochs(0) != epochs(1)
    first, second = epochs(0)
    assert len(first & second) < len(first) / 2


def test_pools_are_of_fifty_batches() -> None:
    # Ten texts of each length: in one pool they would make batches of one length; five pools mix a little.
    lengths = [length for length in range(50) for _ in range(10)]
    batches = training_batches(lengths, batch_size=2, generator=np.random.default_rng(0))
    assert len(batches) == 250
    assert any(lengths[first] != lengths[second] for first, second in batches)


@given(
    rows=st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), max_size=30),
    max_tokens=st.integers(1, 40),
    overhead_tokens=st.none() | st.integers(0, 20),
)
def test_answers_keep_the_order_of_the_texts(rows: list[list[int]], max_tokens: int, overhead_tokens: int | None) -> None:
    told: list[int] = []

    def run(batch: list[Indices]) -> Logits:
        return np.array([(row.sum(), len(row)) for row in batch], dtype=np.float32)

    logits = logits_in_order(
        [np.array(row, dtype=np.int64) for row in rows],
        run=run,
        num_labels=2,
        max_tokens=max_tokens,
        max_texts=4,
        overhead_tokens=overhead_tokens,
        on_batch=told.append,
    )
    assert logits.shape == (len(rows), 2)
    assert logits.dtype == np.float32
    assert logits.tolist() == [[sum(row), len(row)] for row in rows]
    assert sum(told) == len(rows)


def test_no_texts_have_logits_of_the_right_width() -> None:
    def run(batch: list[Indices]) -> Logits:
        pytest.fail("there is nothing to run")

    logits = logits_in_order([], run=run, num_labels=3, max_tokens=8, max_texts=8)
    assert logits.shape == (0, 3)


@given(lengths=st.lists(st.integers(0, 40), max_size=60), max_tokens=st.integers(1, 200), added=st.lists(st.integers(0, 40)))
def test_the_shape_of_a_texts_steady_batch_depends_on_its_length_alone(
    lengths: list[int], max_tokens: int, added: list[int]
) -> None:
    def shapes(given_lengths: list[int]) -> dict[int, tuple[int, int]]:
        batches = steady_batches(given_lengths, max_length=40, max_tokens=max_tokens)
        assert all(0 < len(batch.places) < batch.shape[0] for batch in batches)  # a row is always left free
        placed = {int(place): batch.shape for batch in batches for place in batch.places}
        assert sorted(placed) == list(range(len(given_lengths)))
        return placed

    alone, among_others = shapes(lengths), shapes([*lengths, *added])
    assert alone == {place: among_others[place] for place in alone}
    assert all(lengths[place] <= width for place, (_, width) in alone.items())


def test_steady_batches_by_hand() -> None:
    # Widths 8, 16, 20 (the most there may be) and 8; 64 tokens are 8, 4 and 3 rows, of which one stays free.
    batches = steady_batches([3, 9, 20, 8], max_length=20, max_tokens=64)
    assert [(batch.places.tolist(), batch.shape) for batch in batches] == [([2], (3, 20)), ([1], (4, 16)), ([0, 3], (8, 8))]


def test_a_batch_is_filled_up_with_rows_that_stay_finite() -> None:
    filled = filled_up(Batch(np.array([[5, 6]]), np.array([[1, 1]])), (2, 3), pad_id=9)
    assert filled.input_ids.tolist() == [[5, 6, 9], [9, 9, 9]]
    assert filled.attention_mask.tolist() == [[1, 1, 0], [1, 0, 0]]
