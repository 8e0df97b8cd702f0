"""What all protocols share: a query, a reply, and strict JSON decoding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar, cast

import numpy as np

from distill.classifier import TextInput
from distill.errors import requires
from distill.labels import ProblemType, task_of
from serve.answering.engine import Engine, RowAnswer
from serve.errors import Reason, Refusal

with requires("serving"):
    import msgspec

T = TypeVar("T")
Headers = Mapping[bytes, bytes]

Text = Annotated[str, msgspec.Meta(min_length=1, description="a text")]
Truncate = Annotated[
    bool,
    msgspec.Meta(
        description="cut texts with more than max_length tokens; false: refuse them, unless the server reads them in windows"
    ),
]

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
        is_single: Answer one text, not a list.
        top_k: Labels per text; None returns all.
        function: How logits become scores; None uses the bundle's problem type.
        truncate: Whether long texts are cut; None uses the server's setting.
        outputs: Outputs of the Open Inference Protocol: their names, and whether in binary form.
        id: The client's name of the request.
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
    """The answer to a request."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


class Dialect(Protocol):
    """One protocol."""

    name: str

    def read(self, body: bytes, headers: Headers, *, max_texts: int) -> Query:
        """Return the query; raises `Refusal` when the request is malformed or has more texts."""

    def write(self, query: Query, answers: Sequence[RowAnswer], engine: Engine, model: str) -> Reply:
        """Return the answer."""

    def refuse(self, refusal: Refusal) -> Reply:
        """Return the error in the protocol's form; `{"error": …}` where it has no other."""
        return Reply(refusal.reason.value, msgspec.json.encode({"error": refusal.message}))


def scores_of(query: Query, answers: Sequence[RowAnswer]) -> list[list[float]]:
    """Return the scores of each text, by the query's function."""
    if query.function is None:
        return [answer.probabilities for answer in answers]
    logits = np.array([answer.logits for answer in answers], np.float32)
    return cast(list[list[float]], task_of(query.function).probabilities(logits).tolist())


def ranked(scores: Sequence[float], labels: Sequence[str], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels and scores by falling score; equal scores keep the order of the labels."""
    pairs = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in pairs[:top_k]]


def require_few(count: int, max_texts: int) -> None:
    """Refuse too many texts, before a list of them is made."""
    if count > max_texts:
        raise Refusal(Reason.INVALID, f"the request has {count} texts; at most {max_texts} are accepted")


def require_json(headers: Headers) -> None:
    """Refuse a body whose content type is not JSON, and a compressed body."""
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON:
        raise Refusal(Reason.MEDIA_TYPE, "the content type must be application/json")
    require_plain(headers)


def require_plain(headers: Headers) -> None:
    """Refuse a compressed body."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(Reason.MEDIA_TYPE, "a compressed body is not accepted")


def decoded(decoder: msgspec.json.Decoder[T], body: bytes, *, once: Sequence[bytes]) -> T:
    """Read JSON strictly.

    Args:
        decoder: Decoder of the request's type.
        body: The bytes.
        once: Quoted names that a valid body usually holds at most once; a body with one twice is checked for duplicates.

    Raises:
        Refusal: It is not JSON, not of the type, or has a duplicate key.
    """
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise Refusal(Reason.INVALID, f"invalid body: {_without_values(str(exc))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(Reason.MALFORMED, "the body is not JSON in UTF-8") from None
    # An escaped name (\u0069nputs) would be counted wrongly.
    if b"\\u00" in body or any(body.count(name) > 1 for name in once):
        require_unique_names(body)
    return value


def require_unique_names(body: bytes) -> None:
    """Refuse an object with a duplicate key: parsers differ in which value they take."""
    try:
        json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Refusal(Reason.MALFORMED, "the body is not JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refusal(Reason.MALFORMED, "an object in the body has a duplicate key")
    return made


def _without_values(message: str) -> str:
    """Return a validator's message without the values the client sent."""
    if "unknown field" in message:
        return f"unknown key{message[message.rfind(' - at ') :] if ' - at ' in message else ''}"
    return message.partition("'")[0].rstrip() + message[message.rfind(" - at ") :] if "'" in message else message
