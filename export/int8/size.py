"""The size limit of a bundle: the precision of its embedding tables that fits, or the student that would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from distill.bundle import MANIFEST, TOKENIZER, Bundle
from distill.errors import GateError
from export.int8.embeddings import is_table
from export.settings import EmbeddingPrecision, ExportSettings

MANIFEST_GROWTH = 4096
"""Bytes that sealing can add to the manifest."""

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Parts:
    """Bytes of the files needed to serve int8, of their two largest parts, and the vocabulary and width behind these."""

    total: int
    words: int
    tokenizer: int
    num_words: int
    width: int

    @property
    def layers(self) -> int:
        """Bytes of the rest, which are mostly the layers."""
        return self.total - self.words - self.tokenizer


def embeddings_that_fit(
    bundle: Bundle, fp32: onnx.ModelProto, settings: ExportSettings, quantized: Callable[[EmbeddingPrecision], onnx.ModelProto]
) -> EmbeddingPrecision:
    """Return the precision of the embedding tables: the one in the settings, or the larger of int8 and int4 that fits.

    Args:
        bundle: Its tokenizer and manifest count too.
        fp32: The fp32 graph.
        settings: The size limit and the precision.
        quantized: From a precision of the tables to the int8 graph.

    Raises:
        GateError: Not even the smallest fits; the message names a vocabulary or width that would.
    """
    if settings.max_size_mb is None:
        return "int8" if settings.embeddings == "auto" else settings.embeddings
    forms: tuple[EmbeddingPrecision, ...] = ("int8", "int4") if settings.embeddings == "auto" else (settings.embeddings,)
    limit = settings.max_size_mb * MEGABYTE
    for form in forms:
        parts = _parts_of(bundle, fp32, quantized(form))
        if parts.total <= limit:
            return form
    raise GateError(_what_would_fit(parts, limit, forms[-1]))


def _parts_of(bundle: Bundle, fp32: onnx.ModelProto, int8: onnx.ModelProto) -> _Parts:
    tokenizer = bundle.manifest.files[TOKENIZER].size_bytes
    rows, width = max(tuple(tensor.dims) for tensor in fp32.graph.initializer if is_table(tensor))
    held = {tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in int8.graph.initializer}
    # the part of the graph that grows with the vocabulary: the largest table and its scales
    name = max(held, key=lambda each: held[each])
    scales = held.get(name.removesuffix("_int8").removesuffix("_int4") + "_scales", 0)
    total = int8.ByteSize() + tokenizer + (bundle.path / MANIFEST).stat().st_size + MANIFEST_GROWTH
    return _Parts(total, held[name] + scales, tokenizer, rows, width)


def _what_would_fit(parts: _Parts, limit: float, form: EmbeddingPrecision) -> str:
    found = (
        f"the files to ship for int8 take {parts.total / MEGABYTE:.2f} MB with {form} tables, the limit is "
        f"{limit / MEGABYTE:g} MB: {parts.words / MEGABYTE:.2f} MB are the embeddings of {parts.num_words:,} tokens, "
        f"{parts.tokenizer / MEGABYTE:.2f} MB the tokenizer, the rest the layers"
    )
    per_word = (parts.words + parts.tokenizer) / parts.num_words
    num_words = int((limit - parts.layers) / per_word)
    width = next((width for width in range(parts.width - 32, 0, -32) if _size_at(parts, width) <= limit), None)
    ways = [
        *([f"a vocabulary of {num_words // 100 * 100:,} tokens"] if num_words >= 1000 else []),
        *([f"a width of {width}"] if width is not None else []),
    ]
    return f"{found}. {' or '.join(ways) or 'No student of its shape'} would fit; nothing was sealed"


def _size_at(parts: _Parts, width: int) -> float:
    """Return the size at another width: embeddings grow with the width, layers with its square."""
    share = width / parts.width
    return parts.words * share + parts.layers * share**2 + parts.tokenizer
