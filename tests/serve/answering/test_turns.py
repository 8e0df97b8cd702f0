"""Whose turn it is, and what admission expects of it: plans only, no threads and no time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.answering.admission import TURN_TOKENS, WAIT_SHARE, Admission
from serve.answering.turns import MOST_REMEMBERED, Turns
from serve.errors import Refusal


def served(turns: Turns[str], costs: dict[str, int]) -> list[str]:
    """Return the requests in the order of their turns; each is done in one, and costs what its client's requests cost."""
    order = []
    while turns:
        order.append(turns.first())
        turns.end_turn(costs[order[-1][0]], is_done=True)
    return order


def filled(requests: dict[str, int]) -> Turns[str]:
    turns: Turns[str] = Turns()
    for client, count in requests.items():
        for number in range(count):
            turns.add(client, f"{client}{number}")
    return turns


def test_clients_take_turns_and_their_requests_keep_their_order() -> None:
    assert served(filled({"a": 3, "b": 2}), {"a": 5, "b": 5}) == ["a0", "b0", "a1", "b1", "a2"]


def test_who_takes_more_has_fewer_turns() -> None:
    order = served(filled({"a": 4, "b": 8}), {"a": 20, "b": 10})
    assert order[:6] == ["a0", "b0", "b1", "a1", "b2", "b3"]


@given(st.integers(1, 200), st.integers(1, 128), st.integers(0, 50))
def test_one_that_comes_waits_for_one_turn_of_another_client_at_most(waiting: int, cost: int, already: int) -> None:
    turns = filled({"a": waiting})
    for _ in range(min(already, waiting)):
        turns.end_turn(cost, is_done=True)
    turns.add("b", "b0")
    order = served(turns, {"a": cost, "b": 1})
    assert order.index("b0") <= 1


@given(st.lists(st.integers(1, 128), min_size=2, max_size=5))
def test_while_all_wait_no_two_differ_by_more_than_a_turn_of_each(costs: list[int]) -> None:
    names = "abcde"[: len(costs)]
    turns, taken = filled(dict.fromkeys(names, 500)), Counter[str]()
    for _ in range(500):
        client = turns.first()[0]
        cost = costs[names.index(client)]
        turns.end_turn(cost, is_done=True)
        taken[client] += cost
        assert max(taken[name] for name in names) - min(taken[name] for name in names) <= 2 * max(costs)


def test_what_is_not_done_goes_behind_the_others_of_its_client() -> None:
    turns = filled({"a": 2})
    turns.end_turn(1, is_done=False)
    assert served(turns, {"a": 1}) == ["a1", "a0"]


def test_the_last_request_of_a_client_can_be_dropped() -> None:
    turns = filled({"a": 2, "b": 1})
    assert [turns.drop_last("a"), turns.drop_last("b"), turns.drop_last("b")] == ["a1", "b0", None]
    assert served(turns, {"a": 1}) == ["a0"]
    assert not turns


def test_what_a_turn_took_beyond_what_was_expected_is_charged_and_what_it_did_not_take_is_given_back() -> None:
    turns = filled({"a": 3, "b": 3})
    turns.end_turn(10, is_done=True)
    turns.charge("a", 25)  # 35 in all
    assert served(turns, {"a": 10, "b": 10}) == ["b0", "b1", "b2", "a1", "a2"]
    turns = filled({"a": 3, "b": 3})
    turns.end_turn(10, is_done=True)
    turns.charge("a", -10)
    assert served(turns, {"a": 10, "b": 10}) == ["b0", "a1", "b1", "a2", "b2"]
    turns = filled({"a": 1, "b": 3})
    turns.end_turn(10, is_done=True)
    turns.end_turn(50, is_done=True)
    turns.end_turn(10, is_done=True)
    turns.add("a", "a1")
    turns.charge("a", -100)  # others have gone on meanwhile: it is next, and has nothing saved up
    turns.add("a", "a2")
    assert served(turns, {"a": 60, "b": 10}) == ["a1", "b2", "a2"]


def test_one_that_comes_again_stands_where_its_last_turn_took_it() -> None:
    turns = filled({"a": 1, "b": 3})
    turns.end_turn(10, is_done=True)  # nothing of a is left
    turns.charge("a", 15)
    turns.add("a", "a1")
    assert served(turns, {"a": 10, "b": 10}) == ["b0", "b1", "b2", "a1"]


def test_a_client_whose_last_request_is_dropped_keeps_its_place() -> None:
    turns = filled({"a": 2, "b": 3})
    turns.end_turn(25, is_done=True)
    turns.drop_last("a")
    turns.add("a", "a2")
    assert served(turns, {"a": 10, "b": 10}) == ["b0", "b1", "b2", "a2"]


def test_places_of_clients_that_have_gone_are_not_kept_for_ever() -> None:
    turns: Turns[str] = Turns()
    for number in range(3 * MOST_REMEMBERED):
        turns.add(str(number), "")
        turns.end_turn(1, is_done=True)
    assert len(turns._ahead) <= MOST_REMEMBERED


def admission(**waiting: tuple[int, int]) -> Admission:
    """Return the admission to a queue of 100, at a second per token, with the texts and tokens that clients have in it."""
    made = Admission(threads=1, max_queue=100)
    made.learn(texts=1, tokens=10, seconds=10.0)
    for client, (texts, tokens) in waiting.items():
        made.count(client, texts, tokens)
    return made


def test_the_expected_wait_is_that_of_the_turns() -> None:
    busy = admission(a=(10, 1000), b=(1, 30))
    assert busy.expected_wait_s("a", 10) == 1000 + 10 + 30  # all of b comes before the last of a
    assert busy.expected_wait_s("b", 10) == 30 + 10 + (40 + TURN_TOKENS)  # of a as much, and a turn that has begun
    assert busy.expected_wait_s("c", 10) == 10 + 2 * (10 + TURN_TOKENS)
    assert admission(a=(1, 30)).expected_wait_s("b", 10) == 10 + 30


def test_a_client_that_fills_the_queue_is_refused_and_another_is_not() -> None:
    full = admission(a=(100, 1000))
    patience = full.expected_wait_s("b", 10) / WAIT_SHARE
    with pytest.raises(Refusal):
        full.refuse_if_full("a", 1, tokens=10, deadline_s=1e9)
    with pytest.raises(Refusal):
        full.refuse_if_full("b", 51, tokens=10, deadline_s=1e9)
    full.refuse_if_full("b", 50, tokens=10, deadline_s=1.01 * patience)
    with pytest.raises(Refusal):
        full.refuse_if_full("b", 1, tokens=10, deadline_s=0.99 * patience)


def test_only_what_is_too_much_beside_others_gives_way() -> None:
    assert admission(a=(101, 1000)).greediest() is None
    assert admission(a=(60, 100), b=(40, 1000)).greediest() is None
    assert admission(a=(60, 100), b=(41, 1000)).greediest() == "a"


def test_nothing_is_left_of_a_client_that_waits_for_nothing() -> None:
    empty = admission(a=(3, 30))
    empty.count("a", -3, -30)
    assert not empty.texts_of
    assert not empty.tokens_of
