"""The scenario `ops`: single ops of ONNX Runtime on one core, and which ways of doing one part take how long.

A graph holds an op once, another holds it many times; what they differ by is the op without the call around it. The
weights of one op stay in the cache here: in a whole graph they have to be fetched.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from pydantic import Field

from benchmarks.harness.peer import session_options
from benchmarks.harness.scenario import Context, Outcome, Result, Scenario, markdown_table, slug_of
from distill.settings import Settings

HIDDEN, INNER, HEADS, WORDS = 384, 1536, 12, 4000
WIDE = 3 * HIDDEN
BLOCK = 32
TEXT, BATCH = 24, 768
"""Tokens of a text and of a batch of 32."""

COPIES = 24

Arrays = dict[str, NDArray[Any]]
Parts = Mapping[str, Mapping[str, str]]
"""Part -> name of a way -> its nodes in ONNX's textual syntax, a line each."""


_TO_FLOAT = "out# = com.microsoft.MatMulIntegerToFloat"
_FOUR_BITS = f"K = {HIDDEN}, N = {WIDE}, bits = 4, block_size = {BLOCK}, accuracy_level = 4"
_BY_BLOCK = f"block_size = {BLOCK}, gather_axis = 0, quantize_axis = 1"
PRODUCT = f"product {HIDDEN} x {WIDE:,}"
PARTS: Final[Parts] = {
    PRODUCT: {
        "`MatMulIntegerToFloat` u8 x s8": f'{_TO_FLOAT} (unsigned, w_s8, one, scales, zero_u8, "", bias)',
        "u8 x u8": f"{_TO_FLOAT} (unsigned, w_u8, one, scales, zero_u8, w_zero, bias)",
        "s8 x s8": f'{_TO_FLOAT} (signed, w_s8, one, scales, zero_s8, "", bias)',
        "`DynamicQuantizeMatMul`": 'out# = com.microsoft.DynamicQuantizeMatMul (x, w_s8, scales, "", bias)',
        "fp32": "out# = Gemm (x, w, bias)",
        "`MatMulNBits` of 4 bits at int8 accuracy": f"out# = com.microsoft.MatMulNBits <{_FOUR_BITS}> (x, w_nibbles, w_scales)",
    },
    "residual and norm": {
        "`Add`, `LayerNormalization`": """sum# = Add (q, k)
            out# = LayerNormalization <axis = -1> (sum#, norm_scale, norm_shift)""",
        "`SkipLayerNormalization`": "out# = com.microsoft.SkipLayerNormalization (q, k, norm_scale, norm_shift)",
    },
    f"activation of {INNER:,}": {
        "`Gelu`": "out# = Gelu (inner)",
        "`FastGelu`": "out# = com.microsoft.FastGelu (inner)",
        "`QuickGelu`": "out# = com.microsoft.QuickGelu (inner)",
        "`BiasGelu`": "out# = com.microsoft.BiasGelu (inner, inner_bias)",
        "`FastGelu` with its bias": "out# = com.microsoft.FastGelu (inner, inner_bias)",
    },
    "activations to bytes": {
        "scalar": "out# = QuantizeLinear (x, step, zero_u8)",
        "`Mul` and scalar": """scaled# = Mul (x, factors)
            out# = QuantizeLinear (scaled#, step, zero_u8)""",
        "per channel": "out# = QuantizeLinear <axis = 1> (x, steps, zeros)",
    },
    "word vectors": {
        "int8 rows by `Gather`, `Cast`, `Mul`": f"""bytes# = Gather (table_s8, ids)
            cast# = Cast <to = {TensorProto.FLOAT}> (bytes#)
            scales# = Gather (row_scales, ids)
            out# = Mul (cast#, scales#)""",
        "`GatherBlockQuantized` 8 bits": "out# = com.microsoft.GatherBlockQuantized "
        f"<bits = 8, {_BY_BLOCK}> (table_u8, ids, table_scales)",
        "4 bits": f"out# = com.microsoft.GatherBlockQuantized <bits = 4, {_BY_BLOCK}> (table_nibbles, ids, table_scales)",
    },
    "attention of all heads": {
        "plain ops": """q_heads# = Reshape (q, heads)
            k_heads# = Reshape (k, heads)
            v_heads# = Reshape (v, heads)
            q_turned# = Transpose <perm = [0, 2, 1, 3]> (q_heads#)
            k_turned# = Transpose <perm = [0, 2, 3, 1]> (k_heads#)
            v_turned# = Transpose <perm = [0, 2, 1, 3]> (v_heads#)
            scores# = MatMul (q_turned#, k_turned#)
            shares# = Softmax <axis = -1> (scores#)
            mixed# = MatMul (shares#, v_turned#)
            mixed_turned# = Transpose <perm = [0, 2, 1, 3]> (mixed#)
            out# = Reshape (mixed_turned#, joined)""",
        "`MultiHeadAttention`": f"out# = com.microsoft.MultiHeadAttention <num_heads = {HEADS}> (q, k, v)",
    },
}
"""The ways of doing each part of an encoder; nodes read `inputs` and `constants` and write `out#`, where # is the copy."""


def inputs(tokens: int) -> Arrays:
    """Return what graphs are fed, by name: each array as so many tokens have it."""
    draw = np.random.default_rng(0)
    hidden = {name: draw.normal(size=(1, tokens, HIDDEN)).astype(np.float32) for name in ("q", "k", "v")}
    return {
        **hidden,
        "x": hidden["q"][0],
        "inner": draw.normal(size=(1, tokens, INNER)).astype(np.float32),
        "unsigned": draw.integers(0, 256, (tokens, HIDDEN), dtype=np.uint8),
        "signed": draw.integers(-127, 128, (tokens, HIDDEN), dtype=np.int8),
        "ids": draw.integers(0, WORDS, (1, tokens), dtype=np.int64),
    }


@cache
def constants() -> Arrays:
    """Return the weights that graphs hold, by name."""
    draw = np.random.default_rng(0)
    weights = draw.integers(-63, 64, (HIDDEN, WIDE), dtype=np.int8)
    table_scales = np.full((WORDS, HIDDEN // BLOCK), 0.01, np.float32)
    return {
        "w": weights.astype(np.float32),
        "w_s8": weights,
        "w_u8": (weights.astype(np.int16) + 128).astype(np.uint8),
        "w_zero": np.full(WIDE, 128, np.uint8),
        "w_nibbles": draw.integers(0, 256, (WIDE, HIDDEN // BLOCK, BLOCK // 2), dtype=np.uint8),
        "w_scales": np.full((WIDE, HIDDEN // BLOCK), 0.01, np.float32),
        "one": np.array(1, np.float32),
        "scales": np.full(WIDE, 0.01, np.float32),
        "bias": np.zeros(WIDE, np.float32),
        "zero_u8": np.array(128, np.uint8),
        "zero_s8": np.array(0, np.int8),
        "norm_scale": np.ones(HIDDEN, np.float32),
        "norm_shift": np.zeros(HIDDEN, np.float32),
        "inner_bias": np.zeros(INNER, np.float32),
        "step": np.array(0.1, np.float32),
        "factors": np.full(HIDDEN, 2, np.float32),
        "steps": np.full(HIDDEN, 0.1, np.float32),
        "zeros": np.full(HIDDEN, 128, np.uint8),
        "table_s8": draw.integers(-127, 128, (WORDS, HIDDEN), dtype=np.int8),
        "table_u8": draw.integers(0, 256, (WORDS, HIDDEN), dtype=np.uint8),
        "table_nibbles": draw.integers(0, 256, (WORDS, HIDDEN // 2), dtype=np.uint8),
        "row_scales": table_scales[:, :1],
        "table_scales": table_scales,
        "heads": np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64),
        "joined": np.array([0, 0, HIDDEN], np.int64),
    }


class OpsSettings(Settings):
    """How much is timed."""

    rounds: int = Field(15, ge=1, description="number of rounds; every way takes one turn in each")
    call_s: float = Field(0.02, gt=0, description="minimum seconds per turn")


def every_row(settings: OpsSettings, _: Context) -> Outcome:
    """Time every way on one text, and the products on a batch as well."""
    how, products = settings.model_dump(), {PRODUCT: PARTS[PRODUCT]}
    return Outcome([*run_ops(PARTS, tokens=TEXT, **how), *run_ops(products, tokens=BATCH, **how)])


def run_ops(parts: Parts, *, tokens: int, rounds: int, call_s: float) -> list[dict[str, Any]]:
    """Time the ways of each part in turns and return a row each.

    Args:
        parts: What is timed.
        tokens: Tokens of the text.
        rounds: Rounds; in each, every way takes its turn.
        call_s: Seconds of a turn at least.
    """
    given = inputs(tokens)
    ways = {(part, name): nodes for part, several in parts.items() for name, nodes in several.items()}
    sessions = {way: (session_of(nodes, given, 1), session_of(nodes, given, 1 + COPIES)) for way, nodes in ways.items()}
    samples: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            one, many = (seconds_of(session, given, call_s) for session in sessions[way])
            samples[way].append(1e6 * (many - one) / COPIES)
    return [
        {
            "part": part,
            "name": name,
            "tokens": tokens,
            "us": float(np.median(found)),
            "us_rounds": [round(each, 3) for each in found],
        }
        for (part, name), found in samples.items()
    ]


def ops_figures(result: Result) -> dict[str, float]:
    """Return the figures of the scenario: microseconds by part, way and tokens."""
    return {f"{slug_of(row['part'])}_{slug_of(row['name'])}_{row['tokens']}_us": row["us"] for row in result["rows"]}


def ops_table(result: Result) -> str:
    """Return a line per part and length, its ways from the fastest to the slowest."""
    ways: dict[tuple[str, str], list[str]] = {(row["part"], str(row["tokens"])): [] for row in result["rows"]}
    for row in sorted(result["rows"], key=lambda row: row["us"]):
        ways[row["part"], str(row["tokens"])].append(f"{row['name']} {row['us']:,.0f}")
    cells = [(*place, ", ".join(several)) for place, several in ways.items()]
    return (
        f"{markdown_table(('part', 'tokens', 'microseconds of one core, the fastest first'), cells)}\n\n"
        f"Hidden {HIDDEN}, {HEADS} heads, feed-forward {INNER:,}; "
        f"ONNX Runtime {result['environment']['versions']['onnxruntime']}."
    )


def session_of(nodes: str, given: Arrays, copies: int) -> ort.InferenceSession:
    """Return a graph that does a way so many times over, on one core."""
    parsed = [parser.parse_node(line.replace("#", str(copy))) for copy in range(copies) for line in nodes.splitlines()]
    read = {name for node in parsed for name in node.input}
    fed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
        if name in read
    ]
    held = [numpy_helper.from_array(value, name) for name, value in constants().items() if name in read]
    said = [helper.make_empty_tensor_value_info(f"out{number}") for number in range(copies)]
    model = helper.make_model(
        helper.make_graph(parsed, "ops", inputs=fed, outputs=said, initializer=held),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else copies become one
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seconds_of(session: ort.InferenceSession, given: Arrays, least_s: float) -> float:
    """Return the median of the runs that take so many seconds together, after one that warms up."""
    given = {each.name: given[each.name] for each in session.get_inputs()}
    session.run(None, given)
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < least_s:
        started = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


SCENARIO = Scenario(
    name="ops",
    summary="Time ONNX Runtime operators on one core: for each part of an encoder, the ways to compute it take turns.",
    settings=OpsSettings,
    run=every_row,
    figures=ops_figures,
    table=ops_table,
    decided_by=("benchmarks/scenarios/ops.py",),
    minutes=2,
    quick={"rounds": 2, "call_s": 0.002},
)
