"""Reading replies: the label, and the probability of each label from the log-probabilities of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.asking.scripted_address import generated
from distill.asking.replies import Reading, UnreadableReplyError, read_reply

LABELS = ("positive", "negative")
TONES = ("very positive", "very negative", "neutral")


def token(text: str, share: float, **others: float) -> dict[str, Any]:
    """Return a token as OpenAI's `logprobs.content` has it."""
    alternatives = [{"token": name, "logprob": math.log(value)} for name, value in {text: share, **others}.items()]
    return {"token": text, "logprob": math.log(share), "bytes": None, "top_logprobs": alternatives}


@pytest.mark.parametrize(
    "content",
    [
        "positive",
        " Positive.\n",
        '"positive"',
        "**positive**",
        '{"label": "positive"}',
        '{"label":"Positive"}',
        'Sure!\n```json\n{"label": "positive"}\n```\nAnything else?',
        '{"label": "positive"} {"label": "positive"}',
    ],
)
def test_a_reply_that_names_one_label_is_read(content: str) -> None:
    assert read_reply(content, [], LABELS) == Reading("positive")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("I think it is rather positive", "names no label"),
        ("not positive", "names no label"),
        ('{"label": "mixed"}', "'mixed', which is none of the labels"),
        ("positiv", "names no label"),
        ('{"label": "positive"} or {"label": "negative"}', "several labels"),
        ('{"label": ["positive"]}', "none of the labels"),
        ('{"label": "posi', "names no label"),
    ],
)
def test_a_reply_that_names_none_is_refused_with_the_reason(content: str, why: str) -> None:
    with pytest.raises(UnreadableReplyError, match=why):
        read_reply(content, [], LABELS)


def test_the_probability_of_a_label_is_that_of_its_first_token_where_no_other_begins_with_it() -> None:
    # Of 0.9 + 0.06 that name a label, 0.9 / 0.96 is positive's; "The" begins neither.
    found = read_reply("positive", [token("positive", 0.9, negative=0.06, The=0.03)], LABELS)
    assert found.shares == pytest.approx({"positive": 0.9375, "negative": 0.0625})
    assert found.mass == pytest.approx(0.96)


def test_other_tokens_of_the_same_label_count_for_it() -> None:
    found = read_reply("positive", [token("positive", 0.7, pos=0.1, **{" Positive": 0.1}, neg=0.1)], LABELS)
    assert found.shares == pytest.approx({"positive": 0.9, "negative": 0.1})


def test_labels_with_a_common_first_token_get_the_likelihood_of_the_whole_label() -> None:
    # "very" 0.8, then "positive" 0.75 or "negative" 0.25; "neutral" 0.2 instead of "very".
    positions = [token("very", 0.8, neutral=0.2), token(" positive", 0.75, **{" negative": 0.25})]
    found = read_reply("very positive", positions, TONES)
    assert found.shares == pytest.approx({"very positive": 0.6, "very negative": 0.2, "neutral": 0.2})
    assert found.undivided == ()


def test_what_several_labels_have_in_common_is_left_for_another_question() -> None:
    found = read_reply("neutral", [token("neutral", 0.55, very=0.45)], TONES)
    assert found.shares == pytest.approx({"neutral": 0.55})
    assert found.undivided == ((("very positive", "very negative"), pytest.approx(0.45)),)


def test_a_small_common_share_is_split_evenly_instead() -> None:
    found = read_reply("neutral", [token("neutral", 0.99, very=0.01)], TONES)
    assert found.shares == pytest.approx({"neutral": 0.99, "very positive": 0.005, "very negative": 0.005})


def test_a_label_that_begins_another_one_is_told_apart_by_its_end() -> None:
    labels = ("bug", "bug report")
    json = [token('{"label": "', 1.0), token("bug", 1.0), token('"}', 0.7, **{" report": 0.3})]
    assert read_reply('{"label": "bug"}', json, labels).shares == pytest.approx({"bug": 0.7, "bug report": 0.3})
    # In plain text the end is no token of the reply: what is not the longer label is the shorter one.
    plain = [token("bug", 1.0), token(" report", 0.4)]
    assert read_reply("bug report", plain, labels).label == "bug report"


def test_a_token_that_begins_before_the_label_is_compared_from_the_label_on() -> None:
    positions = [token('{"label": ', 1.0), token('"positive', 0.8, **{'"negative': 0.2, "null": 0.0001}), token('"}', 1.0)]
    assert read_reply('{"label": "positive"}', positions, LABELS).shares == pytest.approx(
        {"positive": 0.8, "negative": 0.2}, abs=1e-3
    )


def test_part_of_a_character_is_compared_by_its_bytes() -> None:
    def part(value: bytes, share: float, *others: tuple[bytes, float]) -> dict[str, Any]:
        alternatives = [{"token": "?", "logprob": math.log(p), "bytes": list(b)} for b, p in ((value, share), *others)]
        return {"token": "?", "logprob": math.log(share), "bytes": list(value), "top_logprobs": alternatives}

    good, bad = "好".encode(), "坏".encode()  # e5 a5 bd and e5 9d 8f
    positions = [part(good[:1], 1.0), part(good[1:], 0.75, (bad[1:], 0.25))]
    assert read_reply("好", positions, ("好", "坏")).shares == pytest.approx({"好": 0.75, "坏": 0.25})


def test_a_label_that_is_not_among_the_listed_tokens_gets_no_more_than_the_least_of_them() -> None:
    found = read_reply("a", [token("a", 0.6, b=0.2)], ("a", "b", "c", "d"))
    # 0.2 is not listed: 0.1 for each of two labels, below the smallest listed.
    assert found.shares == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.1})
    found = read_reply("a", [token("a", 0.6, b=0.05)], ("a", "b", "c", "d"))
    assert found.shares == pytest.approx(
        {name: value / 0.75 for name, value in {"a": 0.6, "b": 0.05, "c": 0.05, "d": 0.05}.items()}
    )


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "shares",
    [
        {"positive": 0.7, "negative": 0.3},
        {"very positive": 0.5, "very negative": 0.3, "neutral": 0.2},
        {"refund": 0.25, "refund request": 0.45, "request": 0.3},
        {"a b c": 0.4, "a b d": 0.35, "a e": 0.25},
    ],
)
def test_the_probabilities_behind_a_reply_are_found_again(shares: Mapping[str, float], as_json: bool) -> None:
    label = max(shares, key=lambda name: shares[name])
    tokens = generated(shares, label, top=20, as_json=as_json)
    found = read_reply("".join(each["token"] for each in tokens), tokens, tuple(shares))
    assert found.label == label
    assert found.shares == pytest.approx(dict(shares))
