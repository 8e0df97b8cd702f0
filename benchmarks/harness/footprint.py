"""What a student takes, beside its time: multiply-adds, the processor's int8 peak, install size."""

from __future__ import annotations

import sys
import tempfile
import timeit
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper, parser

from benchmarks.harness.peer import session_options
from export.measure.children import run_child
from export.measure.workers import ROOT


def multiply_adds(config: Mapping[str, Any], *, num_tokens: int) -> int:
    """Return the multiply-adds of one text through a BERT-like classifier: weight products and attention.

    Args:
        config: The keys of `config.json`.
        num_tokens: Tokens of the text, special ones included.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    layer = num_tokens * (4 * hidden * hidden + 2 * hidden * inner) + 2 * num_tokens * num_tokens * hidden
    factor, sees_neighbours = config.get("embedding_size", hidden), config.get("trigram_input", False)
    embedding = num_tokens * factor * hidden * (3 if sees_neighbours else 1) if factor != hidden or sees_neighbours else 0
    head = hidden * hidden + hidden * len(config["id2label"])
    return int(config["num_hidden_layers"] * layer + embedding + head)


def int8_peak_multiply_adds_per_second(*, size: int = 1536, repeats: int = 15) -> float:
    """Return the most one core does in a large product of bytes by ONNX Runtime: the best of `repeats`."""
    draw = np.random.default_rng(0)
    head = f'<ir_version: 8, opset_import: ["": 13]> peak (uint8[{size}, {size}] given) => (int32[{size}, {size}] product)'
    model = parser.parse_model(head + "{ product = MatMulInteger (given, weights) }")
    model.graph.initializer.append(numpy_helper.from_array(draw.integers(-127, 128, (size, size), dtype=np.int8), "weights"))
    session = ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
    inputs = {"given": draw.integers(0, 256, (size, size), dtype=np.uint8)}
    return float(size**3 / min(timeit.repeat(lambda: session.run(None, inputs), repeat=repeats, number=1)))


def install_bytes() -> int:
    """Return the bytes that `pip install potstill[serve]` puts into an empty environment, compiled files included."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "empty"
        venv.create(environment)
        pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
        run_child([*pip, "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{ROOT}[serve]"]).check_returncode()
        return sum(file.stat().st_size for file in (environment / "lib").rglob("*") if file.is_file() and not file.is_symlink())
