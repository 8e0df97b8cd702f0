"""`quantization.json` holds scales to the last bit, and anything else in it is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distill.bundle import QUANTIZATION, Bundle
from distill.errors import BundleError
from distill.scales import InputScales, read_scales, scales_text


def with_scales(bundle: Bundle, content: str) -> Bundle:
    with bundle.staging() as staged:
        (staged / QUANTIZATION).write_text(content)
        return bundle.adding({QUANTIZATION: staged / QUANTIZATION})


def test_scales_come_back_to_the_last_bit(tiny_teacher: Bundle, copied: Callable[[Bundle], Bundle]) -> None:
    step = np.random.default_rng(0).lognormal(size=50).astype(np.float32)
    bundle = with_scales(copied(tiny_teacher), scales_text({"x": (InputScales(step, 16), "learned")}))
    (known, source) = read_scales(bundle)["x"]
    np.testing.assert_array_equal(known.step, step)
    assert (known.step.dtype, known.zero_point, source) == (np.float32, 16, "learned")


def test_a_bundle_without_the_file_brings_none(tiny_teacher: Bundle) -> None:
    assert read_scales(tiny_teacher) == {}


ENTRY = {"step": [0.5], "zero_point": 128, "source": "learned"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("not json", "activation scales"),
        ("[]", "activation scales"),
        (json.dumps({"schema": 2, "inputs": {}}), "schema 2, expected 1"),
        (json.dumps({"schema": 1, "inputs": {"x": {**ENTRY, "step": [0.0]}}}), "step must"),
        (json.dumps({"schema": 1, "inputs": {"x": {**ENTRY, "step": [[1.0]]}}}), "step must"),
        (json.dumps({"schema": 1, "inputs": {"x": {**ENTRY, "zero_point": 256}}}), "256 is not a byte"),
        (json.dumps({"schema": 1, "inputs": {"x": {**ENTRY, "zero_point": 1.5}}}), "1.5 is not a byte"),
        (json.dumps({"schema": 1, "inputs": {"x": {"step": [1.0]}}}), "zero_point"),
    ],
)
def test_what_is_not_scales_is_refused(content: str, why: str, tiny_teacher: Bundle, copied: Callable[[Bundle], Any]) -> None:
    with pytest.raises(BundleError, match=why):
        read_scales(with_scales(copied(tiny_teacher), content))
