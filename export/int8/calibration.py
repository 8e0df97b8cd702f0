"""Calibration of activations: which texts it may use, and the range of each channel over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from distill.data import Dataset
from distill.errors import SettingsError
from distill.scales import ChannelRange, calibration_texts
from distill.texts import TextInput, content_of
from distill.tokenization import TextTokenizer

ONE_IN = 3
"""One validation text in so many calibrates."""


def calibration_split(validation: Dataset) -> tuple[tuple[TextInput, ...], Dataset]:
    """Return the texts that calibrate, about a third, and the other texts, on which the gates judge the result.

    The digest of a text decides where it goes. A later export with more or other validation texts therefore never judges
    int8 on a text that the scales in the bundle were calibrated on.

    Raises:
        SettingsError: There are fewer than two texts.
    """
    if len(validation) < 2:
        raise SettingsError(
            f"int8 needs at least 2 validation texts, one to calibrate and one to judge it, got {len(validation)}; "
            "give more with --validation"
        )
    digests = [hashlib.sha256(content_of(text)).digest() for text in validation.texts]
    calibrates = np.array([int.from_bytes(digest) % ONE_IN == 0 for digest in digests])
    if calibrates.all() or not calibrates.any():  # a handful of texts
        calibrates = np.arange(len(digests)) == digests.index(min(digests))
    calibrating, judged = np.flatnonzero(calibrates), np.flatnonzero(~calibrates)
    return validation.take(calibrating).texts, validation.take(judged)


def channel_ranges(
    graph: onnx.ModelProto, tensors: Sequence[str], *, texts: Sequence[TextInput], tokenizer: TextTokenizer
) -> dict[str, ChannelRange]:
    """Run an fp32 graph over texts and return the range of each channel of some tensors.

    The plain minimum and maximum: percentiles cut off the few large channels of BERT (microsoft/onnxruntime #10571). One text
    at a time: padded positions hold values that no answer depends on, and would widen the ranges.

    Args:
        graph: The fp32 graph.
        tensors: Names of tensors inside it.
        texts: Texts like those that will be classified; at most 400 are used, and their first words.
        tokenizer: Texts to ids.

    Raises:
        SettingsError: There is no text.
    """
    if not tensors:
        return {}  # without names, onnxruntime would return every output
    if not texts:
        raise SettingsError("int8 needs texts for calibration, and there are none; give some with --validation")
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges: dict[str, ChannelRange] = {}
    for text in calibration_texts(texts):
        batch = tokenizer.pad(tokenizer.encode([text]))
        for name, values in zip(tensors, session.run(list(tensors), batch.inputs()), strict=True):
            rows = values.reshape(-1, values.shape[-1])
            seen = ChannelRange(rows.min(axis=0), rows.max(axis=0))
            ranges[name] = ranges[name].joined(seen) if name in ranges else seen
    return ranges
