"""What all protocols share: a query, a reply, and strict reading of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from distill.classifier import TextInput
from distill.errors import requires
from distill.labels import ProblemType, probabilities
from serve.answering.engine import Engine, RowAnswer
from serve.errors import Reason, Refusal

with requires("serving"):
    import msgspec

T = TypeVar("T")
Headers = Mapping[bytes, bytes]

JSON = b"application/json"
PROBLEM_OF_FUNCTION: Mapping[str, ProblemType] = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
    "none": "regression",
}


@dataclass(frozen=True)
class Query:
    """What a client asks.

    Attributes:
        texts: At least one.
        is_single: The answer for one text, not a list of answers.
        top_k: Labels to give; None gives all.
        function: How logits become scores; None as the bundle says.
        truncate: What to do with long texts; None as the server's settings say.
        outputs: What the Open Inference Protocol was asked for: names, and whether in binary form.
        id: The client's own name of the request.
    """

    texts: Sequence[TextInput]
    is_single: bool = False
    top_k: int | None = None
    function: ProblemType | None = None
    truncate: bool | None = None
    outputs: Sequence[tuple[str, bool]] = ()
    id: str | None = None


@dataclass(frozen=True)
class Reply:
    """What goes back."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


class Dialect(Protocol):
    """One protocol."""

    name: str

    def read(self, body: bytes, headers: Headers) -> Query:
        """Return what is asked; raises `Refusal` for anything that is not well formed."""
        ...

    def write(self, query: Query, answers: Sequence[RowAnswer], engine: Engine, model: str) -> Reply:
        """Return the answer."""
        ...

    def refuse(self, refusal: Refusal) -> Reply:
        """Return the protocol's error."""
        ...


def scores_of(query: Query, answers: Sequence[RowAnswer]) -> list[list[float]]:
    """Return the scores of each text as the query wants them."""
    if query.function is None:
        return [answer.probabilities for answer in answers]
    if query.function == "regression":
        return [answer.logits for answer in answers]
    rows: list[list[float]] = probabilities(
        np.array([answer.logits for answer in answers], np.float32), query.function
    ).tolist()
    return rows


def ranked(scores: Sequence[float], labels: Sequence[str], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels and scores, the highest first; of equal ones the earlier label first."""
    order = sorted(range(len(labels)), key=lambda index: -scores[index])
    return [{"label": labels[index], "score": scores[index]} for index in order[:top_k]]


def require_json(headers: Headers) -> None:
    """Refuse a body that is said to be something else than JSON."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != JSON:
        raise Refusal(Reason.MEDIA_TYPE, "the content type must be application/json")
    require_plain(headers)


def require_plain(headers: Headers) -> None:
    """Refuse a compressed body."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(Reason.MEDIA_TYPE, "a compressed body is not accepted")


def decoded(decoder: msgspec.json.Decoder[T], body: bytes, *, once: Sequence[bytes]) -> T:
    """Read JSON strictly.

    Args:
        decoder: Of the request's type.
        body: What came.
        once: Names in quotes that a usual body holds at most once; a body that holds one twice is looked at closely.

    Raises:
        Refusal: It is not JSON, not of the type, or names a member twice.
    """
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise Refusal(Reason.INVALID, f"the body does not fit: {_without_values(str(exc))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(Reason.MALFORMED, "the body is not JSON in UTF-8") from None
    # An escaped name (\u0069nputs) would be counted wrongly.
    if b"\\u00" in body or any(body.count(name) > 1 for name in once):
        require_unique_names(body)
    return value


def require_unique_names(body: bytes) -> None:
    """Refuse an object that names a member twice: readers differ in which of the two they take."""
    try:
        json.loads(body, object_pairs_hook=_unique)
    except Refusal:
        raise
    except (ValueError, RecursionError):
        raise Refusal(Reason.MALFORMED, "the body is not JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refusal(Reason.MALFORMED, "an object in the body names a member twice")
    return made


def _without_values(message: str) -> str:
    """Return a validator's message without what the client wrote."""
    if "unknown field" in message:
        return f"there is an unknown member{message[message.rfind(' - at ') :] if ' - at ' in message else ''}"
    return message.partition("'")[0].rstrip() + message[message.rfind(" - at ") :] if "'" in message else message
