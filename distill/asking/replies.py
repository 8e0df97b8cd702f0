"""What a reply says: the label, and the probability of each label where the reply has log-probabilities. Pure."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FOLLOW_UP = 0.02
"""Undivided probability above which the labels that share it are asked for by themselves."""

_OBJECT = re.compile(r"\{[^{}]*\}")
_JSON_LABEL = re.compile(rb'"label"\s*:\s*"')
_AROUND = " \t\r\n\"'`*.:"


class UnreadableReplyError(ValueError):
    """A reply that names none of the labels, or several; the message says why."""


@dataclass(frozen=True)
class Reading:
    """What one reply says.

    Attributes:
        label: The label it names.
        shares: Probability of each label, summing to 1 with `undivided`; empty where the reply has no log-probabilities.
        undivided: Probability of what several labels have in common, as far as the reply tells: their names and it.
        mass: Probability of all readable answers before it was scaled to 1.
    """

    label: str
    shares: dict[str, float] = field(default_factory=dict)
    undivided: tuple[tuple[tuple[str, ...], float], ...] = ()
    mass: float = 0.0


def read_reply(content: str, positions: Sequence[dict[str, Any]], labels: Sequence[str]) -> Reading:
    """Read a reply.

    Args:
        content: The text of the reply.
        positions: Its tokens with their log-probabilities, as OpenAI's `logprobs.content`; may be empty.
        labels: The labels that were offered.

    Raises:
        UnreadableReplyError: No label can be read.
    """
    label, is_json = _named(content, labels)
    tokens = [_token(position) for position in positions]
    written = b"".join(token for token, _, _ in tokens)
    start = _start(written, label, is_json=is_json)
    if start is None:  # no log-probabilities, or of another text than the content
        return Reading(label)
    shares, shared, lowest = _walk(tokens, start, labels, label, ending=b'"' if is_json else b"")
    return _scaled(label, shares, shared, lowest, labels)


def _named(content: str, labels: Sequence[str]) -> tuple[str, bool]:
    """Return the label that a reply names, and whether in JSON."""
    by_name = {label.lower(): label for label in labels}
    bare = by_name.get(content.strip(_AROUND).lower())
    if bare is not None:
        return bare, False
    named = []
    for found in _OBJECT.findall(content):
        try:
            named.append(json.loads(found)["label"])
        except (ValueError, KeyError, TypeError):
            continue
    if not named:
        raise UnreadableReplyError("the reply is empty" if not content.strip() else "the reply names no label")
    if len(set(map(str, named))) > 1:
        raise UnreadableReplyError(f"the reply names several labels: {', '.join(map(str, named))[:80]}")
    label = by_name.get(str(named[0]).strip().lower())
    if label is None:
        raise UnreadableReplyError(f"the reply names {str(named[0])[:60]!r}, which is none of the labels")
    return label, True


def _token(position: dict[str, Any]) -> tuple[bytes, float, list[tuple[bytes, float]]]:
    """Return the bytes of a token, its probability, and both of each of its alternatives, itself excluded."""
    chosen = _bytes(position)
    others = [(_bytes(each), math.exp(each["logprob"])) for each in position.get("top_logprobs") or ()]
    return chosen, math.exp(position["logprob"]), [(token, share) for token, share in others if token != chosen]


def _bytes(position: dict[str, Any]) -> bytes:
    # A token may be part of a character: then only its bytes are right.
    return bytes(position["bytes"]) if position.get("bytes") is not None else str(position["token"]).encode()


def _start(written: bytes, label: str, *, is_json: bool) -> int | None:
    """Return where the label begins in what was written."""
    if is_json:
        found = _JSON_LABEL.search(written)
        return found.end() if found else None
    place = written.lower().find(label.encode().lower())
    return place if place >= 0 else None


def _walk(
    tokens: Sequence[tuple[bytes, float, list[tuple[bytes, float]]]],
    start: int,
    labels: Sequence[str],
    label: str,
    *,
    ending: bytes,
) -> tuple[dict[str, float], dict[tuple[str, ...], float], float]:
    """Follow the reply token by token: each alternative goes to the labels that it could still become.

    The probability of a label is that of all its tokens. Along the reply it is exact. An alternative that several labels
    begin with is returned as shared by them, because the reply does not say how it goes on.

    Returns:
        The probability of each label, that of each group of labels, and the smallest that an alternative had.
    """
    shares: dict[str, float] = defaultdict(float)
    shared: dict[tuple[str, ...], float] = defaultdict(float)
    names = {name: name.encode().lower() + ending for name in labels}  # ASCII alone is lowered, as in what is compared
    reach, lowest, place, written = 1.0, 1.0, 0, b"".join(token for token, _, _ in tokens)
    for token, share, others in tokens:
        before, place = place, place + len(token)
        if place <= start:
            continue
        lead, prefix = written[before:start], written[start:before] if before > start else b""
        for other, probability in others:
            lowest = min(lowest, reach * probability)
            if matching := _matching(other, lead, prefix, names):
                _give(shares, shared, matching, reach * probability)
        reach *= share
        matching = _matching(token, lead, prefix, names)
        if len(matching) <= 1 or place >= start + len(names[label]):
            break
    shares[label] += reach
    return shares, shared, lowest


def _give(
    shares: dict[str, float], shared: dict[tuple[str, ...], float], matching: tuple[str, ...], probability: float
) -> None:
    if len(matching) == 1:
        shares[matching[0]] += probability
    else:
        shared[matching] += probability


def _matching(token: bytes, lead: bytes, prefix: bytes, names: dict[str, bytes]) -> tuple[str, ...]:
    """Return the labels that what was written and then this token begins, or that it ends."""
    if not token.startswith(lead):
        return ()
    begun = (prefix + token[len(lead) :]).lower()
    begun = begun if prefix else begun.lstrip()
    if not begun:
        return ()
    longest = max((name for name in names.values() if begun.startswith(name)), key=len, default=None)
    return tuple(
        label
        for label, name in names.items()
        if name.startswith(begun) or (name == longest and not begun[len(name) :].isalnum())
    )


def _scaled(
    label: str, shares: dict[str, float], shared: dict[tuple[str, ...], float], lowest: float, labels: Sequence[str]
) -> Reading:
    """Return the reading with probabilities that sum to 1.

    A label that no alternative names has at most the smallest probability that one had, and all of them together what is left.
    Shares of groups that are small, or have the reply's own label in them (other tokens of it), are divided here.
    """
    mass = sum(shares.values()) + sum(shared.values())
    undivided = {}
    for group, share in shared.items():
        if label in group or share < FOLLOW_UP * mass:
            known = [shares.get(name, 0.0) for name in group]
            parts = known if sum(known) else [1.0] * len(group)
            for name, part in zip(group, parts, strict=True):
                shares[name] += share * part / sum(parts)
        else:
            undivided[group] = share
    named = set(shares) | {name for group in undivided for name in group}
    missing = [name for name in labels if name not in named]
    for name in missing:
        shares[name] = max(min(lowest, max(0.0, 1 - mass) / len(missing)), 1e-9)
    total = sum(shares.values()) + sum(undivided.values())
    return Reading(
        label=label,
        shares={name: share / total for name, share in shares.items()},
        undivided=tuple((group, share / total) for group, share in undivided.items()),
        mass=min(1.0, mass),
    )
