"""`quantization.json`: the activation scales of a bundle's int8 products, learned in training or calibrated at export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill.bundle import QUANTIZATION, Bundle
from distill.errors import BundleError
from distill.scales import InputScales

SCHEMA = 1

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
        if content["schema"] != SCHEMA:
            raise BundleError(f"{path} has schema {content['schema']!r}, wanted {SCHEMA}; export with --recalibrate")
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
    return json.dumps({"schema": SCHEMA, "inputs": inputs}, indent=None, sort_keys=True) + "\n"


def _scales(entry: Mapping[str, Any]) -> InputScales:
    step, zero_point = np.asarray(entry["step"], dtype=np.float32), entry["zero_point"]
    if step.ndim != 1 or not (np.isfinite(step).all() and (step > 0).all()):
        raise ValueError("a step is not a number above 0")
    if not isinstance(zero_point, int) or not 0 <= zero_point <= 255:
        raise ValueError(f"zero_point {zero_point!r} is not a byte")
    return InputScales(step, zero_point)
