"""`POST /predict` of text-embeddings-inference: texts, pairs and batches of them, and its error body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from distill.classifier import TextInput
from serve.answering.engine import Engine, RowAnswer
from serve.errors import Reason, Refusal
from serve.http.protocols.base import (
    Headers,
    Query,
    Reply,
    Text,
    Truncate,
    decoded,
    ranked,
    require_few,
    require_json,
    scores_of,
)


class PredictRequest(Struct):
    """A text, a pair `[a, b]`, or a batch `[[a], [a, b], …]`."""

    inputs: Text | Annotated[list[Text | Annotated[list[Text], Meta(min_length=1, max_length=2)]], Meta(min_length=1)]
    raw_scores: bool = False
    truncate: Truncate | None = False
    truncation_direction: Literal["right", "Right"] = "right"


class ErrorResponse(Struct):
    """An error."""

    error: str
    error_type: Literal["unhealthy", "backend", "overloaded", "validation", "tokenizer", "empty"]


_TYPE_OF_REASON = {
    Reason.OVERLOADED: "overloaded",
    Reason.LATE: "overloaded",
    Reason.FAILED: "backend",
    Reason.NOT_READY: "unhealthy",
}
_DECODER = msgspec.json.Decoder(PredictRequest)
_ONCE = (b'"inputs"', b'"raw_scores"', b'"truncate"', b'"truncation_direction"')


class TextEmbeddingsInference:
    """`POST /predict` and `POST /models/{name}/predict`."""

    name = "tei"

    def read(self, body: bytes, headers: Headers, *, max_texts: int) -> Query:
        """Return the query."""
        require_json(headers)
        request = decoded(_DECODER, body, once=_ONCE)
        require_few(len(request.inputs) if isinstance(request.inputs, list) else 1, max(2, max_texts))
        texts, is_single = _texts(request.inputs)
        require_few(len(texts), max_texts)
        return Query(
            texts, is_single=is_single, function="regression" if request.raw_scores else None, truncate=bool(request.truncate)
        )

    def write(self, query: Query, answers: Sequence[RowAnswer], engine: Engine, model: str) -> Reply:
        """Return ranked labels; a list of them for a batch."""
        rows = [ranked(scores, engine.classifier.labels, None) for scores in scores_of(query, answers)]
        return Reply(200, msgspec.json.encode(rows[0] if query.is_single else rows))

    def refuse(self, refusal: Refusal) -> Reply:
        """Return `{"error": …, "error_type": …}`."""
        error = {"error": refusal.message, "error_type": _TYPE_OF_REASON.get(refusal.reason, "validation")}
        return Reply(refusal.reason.value, msgspec.json.encode(error))


def _texts(inputs: str | list[str | list[str]]) -> tuple[list[TextInput], bool]:
    """Return the texts, and whether the request is a single text or pair."""
    given = [inputs] if isinstance(inputs, str) else inputs
    single, batch = [part for part in given if isinstance(part, str)], [row for row in given if isinstance(row, list)]
    if (single and batch) or len(single) > 2:
        raise Refusal(Reason.INVALID, "a list of strings is one text or a pair; a batch is a list of lists: [[a], [b, c], …]")
    return ([_text(single)], True) if single else ([_text(row) for row in batch], False)


def _text(parts: Sequence[str]) -> TextInput:
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])
