"""The Hugging Face text classification API: `{"inputs": …, "parameters": {…}}`; the answer for one text is nested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from serve.answering.engine import Engine, RowAnswer
from serve.http.protocols.base import (
    PROBLEM_OF_FUNCTION,
    Dialect,
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


class HuggingFacePair(Struct, forbid_unknown_fields=True):
    """A pair of texts."""

    text: Text
    text_pair: Text


class HuggingFaceParameters(Struct, forbid_unknown_fields=True):
    """Options of a request."""

    top_k: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    truncation: Truncate | None = None


class HuggingFaceRequest(Struct):
    """A text, a pair, or a list of them."""

    inputs: Text | HuggingFacePair | Annotated[list[Text | HuggingFacePair], Meta(min_length=1)]
    parameters: HuggingFaceParameters | None = None


class LabelScore(Struct):
    """A label and its score."""

    label: str
    score: float


class HuggingFaceError(Struct):
    """An error."""

    error: str


_DECODER = msgspec.json.Decoder(HuggingFaceRequest)
_ONCE = (b'"inputs"', b'"parameters"', b'"text"', b'"text_pair"', b'"top_k"', b'"function_to_apply"', b'"truncation"')


class HuggingFace(Dialect):
    """`POST /` and `POST /models/{name}`."""

    name = "huggingface"

    def read(self, body: bytes, headers: Headers, *, max_texts: int) -> Query:
        """Return the query."""
        require_json(headers)
        request = decoded(_DECODER, body, once=_ONCE)
        parameters = request.parameters or HuggingFaceParameters()
        inputs = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        require_few(len(inputs), max_texts)
        return Query(
            texts=[each if isinstance(each, str) else (each.text, each.text_pair) for each in inputs],
            is_single=not isinstance(request.inputs, list),
            top_k=parameters.top_k,
            function=PROBLEM_OF_FUNCTION[parameters.function_to_apply] if parameters.function_to_apply else None,
            truncate=parameters.truncation,
        )

    def write(self, query: Query, answers: Sequence[RowAnswer], engine: Engine, model: str) -> Reply:
        """Return a list of ranked labels per text, also for a single text, like Hugging Face's own servers."""
        rows = [ranked(scores, engine.classifier.labels, query.top_k) for scores in scores_of(query, answers)]
        return Reply(200, msgspec.json.encode(rows))
