"""Quantization scales: for the inputs of linear layers, and for the columns and rows of weights. numpy only.

The ranges of the channels of BERT's activations differ by a factor of a hundred, so one scale for all channels would waste most
of the 8 bits. As in SmoothQuant (Xiao et al., 2023, equation 4), each channel is divided by its own factor and the weights are
multiplied by it. This is exact except for rounding, and halves the error of the probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.bundle import QUANTIZATION, Bundle
from distill.errors import BundleError
from distill.texts import TextInput, of_parts, parts_of

INT8_LIMIT = 127
SEVEN_BIT_LIMIT = 63
"""With weights up to this, the sum of two products with unsigned bytes fits in 16 bits (2 * 255 * 63 = 32,130)."""

MAX_CALIBRATION_TEXTS = 400

STEPS = 254
MIGRATION = 0.8
"""Alpha of SmoothQuant: how much of the range of a channel moves from the activations to the weights."""


@dataclass(frozen=True)
class ChannelRange:
    """Minimum and maximum of each channel (last axis) of a tensor, shape (channels,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def joined(self, other: ChannelRange) -> ChannelRange:
        """Return the union of two ranges."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass(frozen=True)
class InputScales:
    """The quantization of a linear layer's input: q = round(x / step) + zero_point, so x is about (q - zero_point) * step.

    Attributes:
        step: Scale of each channel, shape (inputs,).
        zero_point: The byte for 0 in all channels, from 0 to 255.
    """

    step: NDArray[np.float32]
    zero_point: int


def calibration_texts(texts: Sequence[TextInput]) -> list[TextInput]:
    """Return at most 400 evenly spaced texts, and the first word of each as another text.

    One-word texts have larger activations in a static student; without them in the calibration these values were clipped.
    """
    places = np.linspace(0, len(texts) - 1, min(len(texts), MAX_CALIBRATION_TEXTS)).astype(int)
    chosen = [texts[place] for place in places]
    first_words = (tuple(part.split()[:1] for part in parts_of(text)) for text in chosen)
    return chosen + [of_parts(tuple(word for (word,) in words)) for words in first_words if all(words)]


def input_scales(values: ChannelRange, weights: Sequence[NDArray[np.float32]], *, migration: float = MIGRATION) -> InputScales:
    """Return scales that balance the rounding error of the input's channels and of the weights.

    All channels share one zero point: after a GELU all of them start at about -0.17, elsewhere they are centred on 0, and one
    zero point per channel would need another pass over the values at run time.

    Args:
        values: Range of each channel of the input, shape (inputs,).
        weights: Weights of the linear layers with this input, each of shape (inputs, outputs).
        migration: Alpha of SmoothQuant, from 0 to 1.
    """
    low, high = np.minimum(values.low, 0), np.maximum(values.high, 0)
    reach = np.maximum(-low, high)
    # A channel that was constant in calibration needs a scale, too. A higher minimum takes precision from the many small
    # channels after a GELU: at a hundredth of the largest range, the predictions were useless.
    reach = np.maximum(reach, max(float(reach.max()), 1e-6) * 1e-5)
    largest_weight = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0), 1e-6)
    factor = reach**migration / largest_weight ** (1 - migration)
    lowest, highest = float((low / factor).min()), float((high / factor).max())
    if lowest == highest:  # all channels were 0
        highest = float((reach / factor).max())
    unit = (highest - lowest) / STEPS
    # An integer zero point represents 0 exactly: after a GELU most values are near 0, and a common error would add up.
    return InputScales(step=(factor * unit).astype(np.float32), zero_point=int(np.rint(-lowest / unit)))


def quantize_columns(weights: NDArray[np.float32], *, limit: int = INT8_LIMIT) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights up to the limit, shape (inputs, outputs), and one scale per output, shape (outputs,)."""
    values, scales = quantize_rows(weights.T, limit=limit)
    return np.ascontiguousarray(values.T), scales[:, 0]


def quantize_rows(table: NDArray[np.float32], *, limit: int = INT8_LIMIT) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values up to the limit, shape (rows, width), and one scale per row, shape (rows, 1)."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(limit)
    scales = np.where(scales > 0, scales, np.float32(1))  # a row of zeros, or of values too small to have a scale
    return np.rint(table / scales).astype(np.int8), scales


def quantize_blocks(table: NDArray[np.float32], *, block_size: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return 4-bit values, two per byte with the first in the low half, and one scale per block of a row.

    value = (nibble - 8) * scale. Signed 4-bit integers go from -8 to 7; the sign of the scale is chosen so that the value with
    the largest magnitude becomes -8. Scales are stored as float16, whose 11 bits of precision are enough for 4-bit values; the
    values are rounded with the stored scale.

    Args:
        table: Shape (rows, width); the width is a multiple of the block size, which is even.
        block_size: Values that share a scale.

    Returns:
        Shapes (rows, width / 2) and (rows, width / block_size).
    """
    blocks = table.reshape(table.shape[0], -1, block_size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    limit = np.finfo(np.float16).max
    scales: NDArray[np.float16] = np.clip(largest / np.float32(-8), -limit, limit).astype(np.float16)
    scales[scales == 0] = 1
    steps = np.clip(np.rint(blocks / scales.astype(np.float32)), -8, 7)
    nibbles = (steps + 8).astype(np.uint8).reshape(table.shape)
    return nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4), scales[..., 0]


SCALES_SCHEMA = 1

KnownScales = dict[str, tuple[InputScales, str]]
"""The scales of each input of a linear layer, by its name, and how they were determined."""


def read_scales(bundle: Bundle) -> KnownScales:
    """Return the activation scales in the bundle; empty if it has none.

    Raises:
        BundleError: The file is not valid.
    """
    if QUANTIZATION not in bundle.manifest.files:
        return {}
    path = bundle.file(QUANTIZATION)
    written = bundle.read(QUANTIZATION)
    try:
        content = json.loads(written)
        if content["schema"] != SCALES_SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, expected {SCALES_SCHEMA}")
        return {name: (_scales(entry), str(entry["source"])) for name, entry in content["inputs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BundleError(f"{path} is not a valid file of activation scales ({exc!r}); export with --recalibrate") from exc


def scales_text(scales: KnownScales) -> str:
    """Return the content of `quantization.json`."""
    inputs = {
        # the shortest decimal that is parsed as the same float32
        name: {"source": source, "zero_point": known.zero_point, "step": [float(str(step)) for step in known.step]}
        for name, (known, source) in sorted(scales.items())
    }
    return json.dumps({"schema": SCALES_SCHEMA, "inputs": inputs}, indent=None, sort_keys=True) + "\n"


def _scales(entry: Mapping[str, Any]) -> InputScales:
    step, zero_point = np.asarray(entry["step"], dtype=np.float32), entry["zero_point"]
    if step.ndim != 1 or not (np.isfinite(step).all() and (step > 0).all()):
        raise ValueError("step must hold finite numbers above 0")
    if not isinstance(zero_point, int) or not 0 <= zero_point <= 255:
        raise ValueError(f"zero_point {zero_point!r} is not a byte")
    return InputScales(step, zero_point)
