"""The scenario `ops`: single ops of ONNX Runtime on one core, and which ways of doing one part take how long.

A graph holds an op once, another holds it many times; what they differ by is the op without the call around it. The
weights of one op stay in the cache here: in a whole graph they have to be fetched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from pydantic import Field

from benchmarks.harness.scenario import Context, Outcome, Result, Scenario, markdown_table, slug_of
from distill.settings import Settings

HIDDEN, INNER, HEADS, WORDS = 384, 1536, 12, 4000
WIDE = 3 * HIDDEN
BLOCK = 32
TEXT, BATCH = 24, 768
"""Tokens of a text and of a batch of 32."""

COPIES = 24

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Way:
    """A way of doing one part of an encoder.

    Attributes:
        part: What is done.
        name: How.
        nodes: In ONNX's textual syntax, a line each: they read `constants` and `given` and write `out#`, where # is the copy.
        given: What the graph is fed.
        constants: Weights.
    """

    part: str
    name: str
    nodes: str
    given: Arrays
    constants: Arrays


class OpsSettings(Settings):
    """How much is timed."""

    rounds: int = Field(15, ge=1, description="number of rounds; every way takes one turn in each")
    call_s: float = Field(0.02, gt=0, description="minimum seconds per turn")


def every_row(settings: OpsSettings, context: Context) -> Outcome:
    """Time every way on one text, and the products on a batch as well."""
    del context
    how = settings.model_dump()
    return Outcome([*run_ops(ways_of(TEXT), tokens=TEXT, **how), *run_ops(_products(BATCH), tokens=BATCH, **how)])


def ways_of(tokens: int) -> list[Way]:
    """Return every way that is timed on so many tokens."""
    return [*_products(tokens), *_norms(tokens), *_activations(tokens), *_bytes(tokens), *_tables(tokens), *_attentions(tokens)]


def run_ops(ways: Sequence[Way], *, tokens: int, rounds: int, call_s: float) -> list[dict[str, Any]]:
    """Time the ways of each part in turns and return a row each.

    Args:
        ways: What is timed.
        tokens: Tokens of the text, for the row.
        rounds: Rounds; in each, every way takes its turn.
        call_s: Seconds of a turn at least.
    """
    sessions = [(_session(way, 1), _session(way, 1 + COPIES)) for way in ways]
    samples: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        order = range(len(ways)) if number % 2 == 0 else reversed(range(len(ways)))
        for place in order:
            one, many = (_seconds(session, ways[place].given, call_s) for session in sessions[place])
            samples[place].append(1e6 * (many - one) / COPIES)
    return [
        {
            "part": way.part,
            "name": way.name,
            "tokens": tokens,
            "us": float(np.median(found)),
            "us_rounds": [round(each, 3) for each in found],
        }
        for way, found in zip(ways, samples, strict=True)
    ]


def ops_figures(result: Result) -> dict[str, float]:
    """Return the figures of the scenario: microseconds by part, way and tokens."""
    return {f"{slug_of(row['part'])}_{slug_of(row['name'])}_{row['tokens']}_us": row["us"] for row in result["rows"]}


def ops_table(result: Result) -> str:
    """Return a line per part and length, its ways from the fastest to the slowest."""
    columns = ("part", "tokens", "microseconds of one core, the fastest first")
    rows, cells = result["rows"], []
    for part, tokens in dict.fromkeys((row["part"], row["tokens"]) for row in rows):
        several = sorted((row for row in rows if (row["part"], row["tokens"]) == (part, tokens)), key=lambda row: row["us"])
        cells.append((part, str(tokens), ", ".join(f"{row['name']} {row['us']:,.0f}" for row in several)))
    sizes = f"Hidden {HIDDEN}, {HEADS} heads, feed-forward {INNER:,}; "
    return f"{markdown_table(columns, cells)}\n\n{sizes}ONNX Runtime {result['environment']['versions']['onnxruntime']}."


def _session(way: Way, copies: int) -> ort.InferenceSession:
    lines = way.nodes.splitlines()
    nodes = [parser.parse_node(line.replace("#", str(number))) for number in range(copies) for line in lines]
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in way.given.items()}
    inputs = [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in way.given.items()]
    outputs = [helper.make_empty_tensor_value_info(f"out{number}") for number in range(copies)]
    constants = [numpy_helper.from_array(value, name) for name, value in way.constants.items()]
    graph = helper.make_graph(nodes, "ops", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else copies become one
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _seconds(session: ort.InferenceSession, given: Arrays, least_s: float) -> float:
    session.run(None, given)
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < least_s:
        started = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _products(tokens: int) -> list[Way]:
    part = f"product {HIDDEN} x {WIDE:,}"
    draw = np.random.default_rng(0)
    floats = {"x": draw.normal(size=(tokens, HIDDEN)).astype(np.float32)}
    unsigned = {"x": draw.integers(0, 256, (tokens, HIDDEN), dtype=np.uint8)}
    signed = {"x": draw.integers(-127, 128, (tokens, HIDDEN), dtype=np.int8)}
    weights = draw.integers(-63, 64, (HIDDEN, WIDE), dtype=np.int8)
    bias, scales = {"bias": np.zeros(WIDE, np.float32)}, {"scales": np.full(WIDE, 0.01, np.float32)}
    scaled: Arrays = {**bias, **scales, "one": np.array(1, np.float32), "zero": np.array(128, np.uint8)}
    shifted: Arrays = {"w": (weights.astype(np.int16) + 128).astype(np.uint8), "weights_zero": np.full(WIDE, 128, np.uint8)}
    nibbles = draw.integers(0, 256, (WIDE, HIDDEN // BLOCK, BLOCK // 2), dtype=np.uint8)
    blocks: Arrays = {"w": nibbles, "s": np.full((WIDE, HIDDEN // BLOCK), 0.01, np.float32)}
    of_bytes = "out# = com.microsoft.MatMulIntegerToFloat (x, w, one, scales, zero, {}, bias)"
    four_bits = f"K = {HIDDEN}, N = {WIDE}, bits = 4, block_size = {BLOCK}, accuracy_level = 4"
    return [
        Way(part, "`MatMulIntegerToFloat` u8 x s8", of_bytes.format('""'), unsigned, {**scaled, "w": weights}),
        Way(part, "u8 x u8", of_bytes.format("weights_zero"), unsigned, {**scaled, **shifted}),
        Way(part, "s8 x s8", of_bytes.format('""'), signed, {**scaled, "zero": np.array(0, np.int8), "w": weights}),
        Way(
            part,
            "`DynamicQuantizeMatMul`",
            'out# = com.microsoft.DynamicQuantizeMatMul (x, w, scales, "", bias)',
            floats,
            {"w": weights, **scales, **bias},
        ),
        Way(part, "fp32", "out# = Gemm (x, w, bias)", floats, {"w": weights.astype(np.float32), **bias}),
        Way(
            part,
            "`MatMulNBits` of 4 bits at int8 accuracy",
            f"out# = com.microsoft.MatMulNBits <{four_bits}> (x, w, s)",
            floats,
            blocks,
        ),
    ]


def _norms(tokens: int) -> list[Way]:
    part = "residual and norm"
    given = _floats(a=(1, tokens, HIDDEN), b=(1, tokens, HIDDEN))
    constants = {"scale": np.ones(HIDDEN, np.float32), "shift": np.zeros(HIDDEN, np.float32)}
    two_ops = """sum# = Add (a, b)
        out# = LayerNormalization <axis = -1> (sum#, scale, shift)"""
    fused = "out# = com.microsoft.SkipLayerNormalization (a, b, scale, shift)"
    return [
        Way(part, "`Add`, `LayerNormalization`", two_ops, given, constants),
        Way(part, "`SkipLayerNormalization`", fused, given, constants),
    ]


def _activations(tokens: int) -> list[Way]:
    part = f"activation of {INNER:,}"
    given, bias = _floats(x=(1, tokens, INNER)), {"bias": np.zeros(INNER, np.float32)}
    return [
        Way(part, "`Gelu`", "out# = Gelu (x)", given, {}),
        Way(part, "`FastGelu`", "out# = com.microsoft.FastGelu (x)", given, {}),
        Way(part, "`QuickGelu`", "out# = com.microsoft.QuickGelu (x)", given, {}),
        Way(part, "`BiasGelu`", "out# = com.microsoft.BiasGelu (x, bias)", given, bias),
        Way(part, "`FastGelu` with its bias", "out# = com.microsoft.FastGelu (x, bias)", given, bias),
    ]


def _bytes(tokens: int) -> list[Way]:
    part, given = "activations to bytes", _floats(x=(tokens, HIDDEN))
    scalar: Arrays = {"scale": np.array(0.1, np.float32), "zero": np.array(128, np.uint8)}
    channels: Arrays = {"scale": np.full(HIDDEN, 0.1, np.float32), "zero": np.full(HIDDEN, 128, np.uint8)}
    scaled = """scaled# = Mul (x, factor)
        out# = QuantizeLinear (scaled#, scale, zero)"""
    return [
        Way(part, "scalar", "out# = QuantizeLinear (x, scale, zero)", given, scalar),
        Way(part, "`Mul` and scalar", scaled, given, {**scalar, "factor": np.full(HIDDEN, 2, np.float32)}),
        Way(part, "per channel", "out# = QuantizeLinear <axis = 1> (x, scale, zero)", given, channels),
    ]


def _tables(tokens: int) -> list[Way]:
    part, draw = "word vectors", np.random.default_rng(0)
    given = {"ids": draw.integers(0, WORDS, (1, tokens), dtype=np.int64)}
    table = draw.integers(-127, 128, (WORDS, HIDDEN), dtype=np.int8)
    bytes_of_table, nibbles = (draw.integers(0, 256, (WORDS, HIDDEN // share), dtype=np.uint8) for share in (1, 2))
    scales = np.full((WORDS, HIDDEN // BLOCK), 0.01, np.float32)
    gathered = f"""bytes# = Gather (table, ids)
        cast# = Cast <to = {TensorProto.FLOAT}> (bytes#)
        scales# = Gather (scales, ids)
        out# = Mul (cast#, scales#)"""
    shape = f"block_size = {BLOCK}, gather_axis = 0, quantize_axis = 1"
    blocks = "out# = com.microsoft.GatherBlockQuantized <bits = {}, {}> (table, ids, scales)"
    return [
        Way(part, "int8 rows by `Gather`, `Cast`, `Mul`", gathered, given, {"table": table, "scales": scales[:, :1]}),
        Way(
            part,
            "`GatherBlockQuantized` 8 bits",
            blocks.format(8, shape),
            given,
            {"table": bytes_of_table, "scales": scales},
        ),
        Way(part, "4 bits", blocks.format(4, shape), given, {"table": nibbles, "scales": scales}),
    ]


def _attentions(tokens: int) -> list[Way]:
    part = "attention of all heads"
    given = _floats(q=(1, tokens, HIDDEN), k=(1, tokens, HIDDEN), v=(1, tokens, HIDDEN))
    heads = np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64)
    plain = """q_heads# = Reshape (q, heads)
        k_heads# = Reshape (k, heads)
        v_heads# = Reshape (v, heads)
        q_turned# = Transpose <perm = [0, 2, 1, 3]> (q_heads#)
        k_turned# = Transpose <perm = [0, 2, 3, 1]> (k_heads#)
        v_turned# = Transpose <perm = [0, 2, 1, 3]> (v_heads#)
        scores# = MatMul (q_turned#, k_turned#)
        shares# = Softmax <axis = -1> (scores#)
        mixed# = MatMul (shares#, v_turned#)
        mixed_turned# = Transpose <perm = [0, 2, 1, 3]> (mixed#)
        out# = Reshape (mixed_turned#, joined)"""
    fused = f"out# = com.microsoft.MultiHeadAttention <num_heads = {HEADS}> (q, k, v)"
    return [
        Way(part, "plain ops", plain, given, {"heads": heads, "joined": np.array([0, 0, HIDDEN], np.int64)}),
        Way(part, "`MultiHeadAttention`", fused, given, {}),
    ]


def _floats(**shapes: tuple[int, ...]) -> Arrays:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


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
