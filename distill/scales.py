"""How numbers become bytes: steps for the inputs of products, steps for columns and rows of weights. numpy only.

Channels of BERT's activations differ in range by a hundred times, so one step for all of them wastes most of the 8 bits.
As in SmoothQuant (Xiao et al., 2023, equation 4) each channel is first divided by its own factor, which the weights take
up: exact but for rounding, and it halves the error of the probabilities.
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

INT8_LIMIT = 127
SEVEN_BIT_LIMIT = 63
"""Two products of an unsigned byte and a weight within this fit 16 bits (2 * 255 * 63 = 32,130): nothing can saturate."""

MAX_CALIBRATION_TEXTS = 400

STEPS = 254
MIGRATION = 0.8
"""SmoothQuant's alpha: how much of a channel's range goes from the activations into the weights."""


@dataclass(frozen=True)
class ChannelRange:
    """Lowest and highest value of each channel (last axis) of one tensor, shape (channels,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def joined(self, other: ChannelRange) -> ChannelRange:
        """Return the range that holds both."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass(frozen=True)
class InputScales:
    """How a product's input becomes bytes: q = round(x / step) + zero_point, so x is about (q - zero_point) * step.

    Attributes:
        step: Size of one step of each channel, shape (inputs,).
        zero_point: The byte that stands for 0, in every channel, from 0 to 255.
    """

    step: NDArray[np.float32]
    zero_point: int


def calibration_texts(texts: Sequence[str]) -> list[str]:
    """Return at most 400 of the texts, evenly taken, and the first word of each as a text of its own.

    Without the words a static student's answer to one word lay outside what its head had seen, and was cut off.
    """
    count = min(len(texts), MAX_CALIBRATION_TEXTS)
    chosen = [texts[index] for index in np.linspace(0, len(texts) - 1, count).astype(int)]
    return chosen + [text.split()[0] for text in chosen if text.strip()]


def input_scales(values: ChannelRange, weights: Sequence[NDArray[np.float32]], *, migration: float = MIGRATION) -> InputScales:
    """Return the scales that share the error fairly between an input's channels and the weights they meet.

    One zero point for all channels: behind a GELU all of them reach from about -0.17 upwards, elsewhere they lie around 0,
    and one of its own for each channel would cost another pass over the values at run time.

    Args:
        values: What the input's channels took, shape (inputs,).
        weights: The products that read this input, each of shape (inputs, outputs).
        migration: SmoothQuant's alpha, from 0 to 1.
    """
    low, high = np.minimum(values.low, 0), np.maximum(values.high, 0)
    reach = np.maximum(-low, high)
    # A channel that never moved in calibration still needs a step. A higher floor costs the many small channels behind a
    # GELU their precision: at a hundredth of the largest range the answers were useless.
    reach = np.maximum(reach, max(float(reach.max()), 1e-6) * 1e-5)
    largest_weight = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0), 1e-6)
    factor = reach**migration / largest_weight ** (1 - migration)
    lowest, highest = float((low / factor).min()), float((high / factor).max())
    if lowest == highest:  # nothing moved at all
        highest = float((reach / factor).max())
    unit = (highest - lowest) / STEPS
    # A whole number of steps, so that 0 stays 0: behind a GELU most values are near it, and an error they all share adds up.
    return InputScales(step=(factor * unit).astype(np.float32), zero_point=int(np.rint(-lowest / unit)))


def quantize_columns(weights: NDArray[np.float32], *, limit: int = INT8_LIMIT) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights within the limit and one scale per output, shapes (inputs, outputs) and (outputs,)."""
    values, scales = quantize_rows(weights.T, limit=limit)
    return np.ascontiguousarray(values.T), scales[:, 0]


def quantize_rows(table: NDArray[np.float32], *, limit: int = INT8_LIMIT) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values within the limit and one scale per row, shapes (rows, width), (rows, 1); their product is it."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(limit)
    scales = np.where(scales > 0, scales, np.float32(1))  # a row of nothing, or of numbers too small for any scale
    return np.rint(table / scales).astype(np.int8), scales


def quantize_blocks(table: NDArray[np.float32], *, block_size: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return 4-bit values, two to a byte with the first in the low half, and one scale per block of a row.

    value = (nibble - 8) * scale. The scale's sign is chosen so that the largest number of a block gets the one step that
    4 bits have more below 0 than above. Scales have 16 bits: 11 of precision are plenty beside the 4 of the values, which are
    rounded to the scale as it is stored.

    Args:
        table: Shape (rows, width); the width is a multiple of the block size, which is even.
        block_size: Numbers that share a scale.

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
    packed: NDArray[np.uint8] = nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)
    return packed, scales[..., 0]


SCALES_SCHEMA = 1

KnownScales = dict[str, tuple[InputScales, str]]
"""The scales of a product's input, and how they were got, by the input's name."""


def read_scales(bundle: Bundle) -> KnownScales:
    """Return the scales that the bundle brings; none without the file.

    Raises:
        BundleError: The file does not hold scales.
    """
    if QUANTIZATION not in bundle.manifest.files:
        return {}
    path = bundle.file(QUANTIZATION)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCALES_SCHEMA:
            raise BundleError(f"{path} has schema {content['schema']!r}, wanted {SCALES_SCHEMA}; export with --recalibrate")
        return {name: (_scales(entry), str(entry["source"])) for name, entry in content["inputs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        if isinstance(exc, BundleError):
            raise
        raise BundleError(f"{path} does not hold activation scales ({exc!r}); export with --recalibrate") from exc


def scales_text(scales: KnownScales) -> str:
    """Return the content of `quantization.json`."""
    inputs = {
        # the shortest spelling that is the same float32 again
        name: {"source": source, "zero_point": known.zero_point, "step": [float(str(step)) for step in known.step]}
        for name, (known, source) in sorted(scales.items())
    }
    return json.dumps({"schema": SCALES_SCHEMA, "inputs": inputs}, indent=None, sort_keys=True) + "\n"


def _scales(entry: Mapping[str, Any]) -> InputScales:
    step, zero_point = np.asarray(entry["step"], dtype=np.float32), entry["zero_point"]
    if step.ndim != 1 or not (np.isfinite(step).all() and (step > 0).all()):
        raise ValueError("a step is not a number above 0")
    if not isinstance(zero_point, int) or not 0 <= zero_point <= 255:
        raise ValueError(f"zero_point {zero_point!r} is not a byte")
    return InputScales(step, zero_point)
