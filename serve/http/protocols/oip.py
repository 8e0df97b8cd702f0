"""The Open Inference Protocol, version 2 (KServe, Triton): a BYTES tensor of texts in; labels, probabilities, logits out.

Tensors are JSON or, with the binary extension, follow the JSON: each string after its length in 4 bytes.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from distill.classifier import TextInput
from distill.labels import task_of
from serve.answering.engine import Engine, RowAnswer
from serve.answering.models import Model
from serve.errors import Reason, Refusal
from serve.http.protocols.base import (
    JSON,
    Headers,
    Query,
    Reply,
    decoded,
    require_few,
    require_json,
    require_plain,
    require_unique_names,
)

INPUT = "text"
OUTPUTS = ("label", "probabilities", "logits")
HEADER_LENGTH = b"inference-header-content-length"

Size = Annotated[int, Meta(ge=0, le=2**31)]


class TensorParameters(Struct):
    """The form of a tensor."""

    binary_data_size: Size | None = None
    binary_data: bool | None = None
    classification: Size | None = None


class InputTensor(Struct):
    """Texts; `data` is absent when they follow in binary form."""

    name: str
    shape: Annotated[list[Size], Meta(min_length=1, max_length=2)]
    datatype: str
    data: list[str | list[str]] | None = None
    parameters: TensorParameters | None = None


class RequestedOutput(Struct):
    """A requested output."""

    name: str
    parameters: TensorParameters | None = None


class InferParameters(Struct):
    """Options of a request."""

    binary_data_output: bool = False


class InferRequest(Struct):
    """One input named `text`; without `outputs`, all outputs are returned."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    outputs: list[RequestedOutput] | None = None
    id: str | None = None
    parameters: InferParameters | None = None


class InferError(Struct):
    """An error."""

    error: str


_DECODER = msgspec.json.Decoder(InferRequest)


class OpenInference:
    """`POST /v2/models/{name}/infer`."""

    name = "oip"

    def read(self, body: bytes, headers: Headers, *, max_texts: int) -> Query:
        """Return the query."""
        head, tail = _parts(body, headers)
        request = decoded(_DECODER, head, once=())
        require_unique_names(head)
        return Query(_texts(request.inputs[0], tail, max_texts), outputs=_outputs(request), id=request.id)

    def write(self, query: Query, answers: Sequence[RowAnswer], engine: Engine, model: str) -> Reply:
        """Return the requested outputs; binary ones follow the JSON."""
        described, binaries = [], []
        for name, is_binary in query.outputs:
            datatype, values = _values(name, answers, engine)
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
            if is_binary:
                binaries.append(_packed(values))
                output["parameters"] = {"binary_data_size": len(binaries[-1])}
            else:
                output["data"] = values.ravel().tolist()
            described.append(output)
        named = {} if query.id is None else {"id": query.id}
        head = msgspec.json.encode({"model_name": model, "model_version": "1", "outputs": described, **named})
        headers = ((HEADER_LENGTH, b"%d" % len(head)),) if binaries else ()
        return Reply(200, b"".join([head, *binaries]), b"application/octet-stream" if binaries else JSON, headers)

    def refuse(self, refusal: Refusal) -> Reply:
        """Return `{"error": …}`; this protocol has 400 for every invalid request."""
        status = 400 if refusal.reason is Reason.INVALID else refusal.reason.value
        return Reply(status, msgspec.json.encode({"error": refusal.message}))


def metadata(model: Model) -> dict[str, Any]:
    """Return the metadata at `/v2/models/{name}`."""
    labels = len(model.engine.classifier.labels)
    return {
        "name": model.name,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, labels]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, labels]},
        ],
    }


def _parts(body: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """Return the JSON, and the bytes after it."""
    declared = headers.get(HEADER_LENGTH)
    if declared is None:
        require_json({b"content-type": JSON, **headers})
        return body, b""
    require_plain(headers)
    length = int(declared) if declared.isdigit() and len(declared) < 12 else -1
    if not 0 < length <= len(body):
        raise Refusal(Reason.MALFORMED, "inference-header-content-length is not the length of the JSON in this body")
    return body[:length], body[length:]


def _texts(tensor: InputTensor, tail: bytes, max_texts: int) -> list[TextInput]:
    if tensor.name != INPUT or tensor.datatype != "BYTES":
        raise Refusal(Reason.INVALID, f"the input must be named {INPUT!r} and have datatype BYTES")
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (size is None) == (tensor.data is None):
        raise Refusal(Reason.INVALID, "the input must have either data or the parameter binary_data_size")
    if (size or 0) != len(tail):
        raise Refusal(Reason.INVALID, f"binary_data_size must be the number of bytes after the JSON; there are {len(tail)}")
    require_few(math.prod(tensor.shape), max_texts)
    data = tensor.data or []
    require_few(len(data), max_texts)
    given = itertools.chain(*([each] if isinstance(each, str) else each for each in data), _unpacked(tail))
    texts: list[TextInput] = list(itertools.islice(given, max_texts + 1))
    if tensor.shape[1:] not in ([], [1]) or math.prod(tensor.shape) != len(texts) or not texts:
        raise Refusal(
            Reason.INVALID, "the shape must be [texts] or [texts, 1], with at least one text and as many as there are"
        )
    return texts


def _unpacked(tail: bytes) -> Iterator[str]:
    at = 0
    while at < len(tail):
        length = int.from_bytes(tail[at : at + 4], "little")
        at += 4 + length
        if at > len(tail):
            raise Refusal(Reason.INVALID, "the binary data end within a text or its length")
        try:
            yield tail[at - length : at].decode()
        except UnicodeDecodeError:
            raise Refusal(Reason.INVALID, "a text is not UTF-8") from None


def _outputs(request: InferRequest) -> list[tuple[str, bool]]:
    by_default = request.parameters.binary_data_output if request.parameters else False
    if request.outputs is None:
        return [(name, by_default) for name in OUTPUTS]
    wanted = [(output.name, output.parameters or TensorParameters()) for output in request.outputs]
    if any(name not in OUTPUTS for name, _ in wanted):
        raise Refusal(Reason.INVALID, f"an output is unknown; there are {', '.join(OUTPUTS)}")
    if any(parameters.classification for _, parameters in wanted):
        raise Refusal(Reason.INVALID, "the classification extension is not supported; request the output 'label'")
    if len(dict(wanted)) != len(wanted):
        raise Refusal(Reason.INVALID, "an output is requested twice")
    return [(name, by_default if form.binary_data is None else form.binary_data) for name, form in wanted]


def _values(name: str, answers: Sequence[RowAnswer], engine: Engine) -> tuple[str, np.ndarray[Any, Any]]:
    if name == "probabilities":
        return "FP32", np.array([answer.probabilities for answer in answers], np.float32)
    logits = np.array([answer.logits for answer in answers], np.float32)
    if name == "logits":
        return "FP32", logits
    chosen = task_of(engine.classifier.problem_type).chosen_labels(logits)
    names = ["|".join(itertools.compress(engine.classifier.labels, row)) for row in chosen]
    return "BYTES", np.array(names, object)


def _packed(values: np.ndarray[Any, Any]) -> bytes:
    if values.dtype == object:
        return b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, values))
    return values.astype("<f4").tobytes()
