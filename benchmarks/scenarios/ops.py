"""The scenario `ops`: single ops of ONNX Runtime on one core, and which ways of doing one part take how long.

A graph holds an op once, another holds it many times; what they differ by is the op without the call around it. The
weights of one op stay in the cache here: in a whole graph they have to be fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from pydantic import Field

from benchmarks.harness.scenario import Context, Outcome, Result, Scenario, markdown_table, slug_of
from distill.settings import Settings

HIDDEN, INNER, HEADS, WORDS = 384, 1536, 12, 4000
WIDE = 3 * HIDDEN
BLOCK = 32
TEXT, BATCH = 24, 768
"""Tokens of a text and of a batch of 32."""

COPIES = 24
MICROSOFT = "com.microsoft"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Way:
    """A way of doing one part of an encoder.

    Attributes:
        part: What is done.
        name: How.
        nodes: Nodes that read `constants` and `given` and write an output of the name given.
        given: What the graph is fed.
        constants: Weights.
    """

    part: str
    name: str
    nodes: Callable[[str], list[NodeProto]]
    given: Arrays
    constants: Arrays


class OpsSettings(Settings):
    """How much is timed."""

    rounds: int = Field(15, ge=1, description="rounds; in each, every way takes its turn")
    call_s: float = Field(0.02, gt=0, description="seconds of a turn at least")


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
        {"part": way.part, "name": way.name, "tokens": tokens, "us": float(np.median(found)), "us_rounds": _rounded(found)}
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
    nodes = [node for number in range(copies) for node in way.nodes(f"out_{number}")]
    inputs = [helper.make_tensor_value_info(name, _type(value), value.shape) for name, value in way.given.items()]
    outputs = [helper.make_empty_tensor_value_info(f"out_{number}") for number in range(copies)]
    constants = [numpy_helper.from_array(value, name) for name, value in way.constants.items()]
    graph = helper.make_graph(nodes, "ops", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
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
    scales = {"one": np.array(1, np.float32), "scales": np.full(WIDE, 0.01, np.float32), "bias": np.zeros(WIDE, np.float32)}
    u_zero, s_zero = {"zero": np.array(128, np.uint8)}, {"zero": np.array(0, np.int8)}
    u_weights = (weights.astype(np.int16) + 128).astype(np.uint8)
    u_weights_zero = {"weights_zero": np.full(WIDE, 128, np.uint8)}
    nibbles = draw.integers(0, 256, (WIDE, HIDDEN // BLOCK, BLOCK // 2), dtype=np.uint8)
    block_scales = np.full((WIDE, HIDDEN // BLOCK), 0.01, np.float32)

    def of_bytes(weights_zero: str) -> Callable[[str], list[NodeProto]]:
        return lambda out: [_ms("MatMulIntegerToFloat", ["x", "w", "one", "scales", "zero", weights_zero, "bias"], out)]

    return [
        Way(part, "`MatMulIntegerToFloat` u8 x s8", of_bytes(""), unsigned, {**scales, **u_zero, "w": weights}),
        Way(part, "u8 x u8", of_bytes("weights_zero"), unsigned, {**scales, **u_zero, **u_weights_zero, "w": u_weights}),
        Way(part, "s8 x s8", of_bytes(""), signed, {**scales, **s_zero, "w": weights}),
        Way(
            part,
            "`DynamicQuantizeMatMul`",
            lambda out: [_ms("DynamicQuantizeMatMul", ["x", "w", "scales", "", "bias"], out)],
            floats,
            {"w": weights, "scales": scales["scales"], "bias": scales["bias"]},
        ),
        Way(
            part,
            "fp32",
            lambda out: [helper.make_node("Gemm", ["x", "w", "bias"], [out])],
            floats,
            {"w": weights.astype(np.float32), "bias": scales["bias"]},
        ),
        Way(
            part,
            "`MatMulNBits` of 4 bits at int8 accuracy",
            lambda out: [
                _ms("MatMulNBits", ["x", "w", "s"], out, K=HIDDEN, N=WIDE, bits=4, block_size=BLOCK, accuracy_level=4)
            ],
            floats,
            {"w": nibbles, "s": block_scales},
        ),
    ]


def _norms(tokens: int) -> list[Way]:
    part = "residual and norm"
    given = _floats(a=(1, tokens, HIDDEN), b=(1, tokens, HIDDEN))
    constants = {"scale": np.ones(HIDDEN, np.float32), "shift": np.zeros(HIDDEN, np.float32)}

    def two_ops(out: str) -> list[NodeProto]:
        return [
            helper.make_node("Add", ["a", "b"], [f"{out}_sum"]),
            helper.make_node("LayerNormalization", [f"{out}_sum", "scale", "shift"], [out], axis=-1),
        ]

    fused = "SkipLayerNormalization"
    return [
        Way(part, "`Add`, `LayerNormalization`", two_ops, given, constants),
        Way(part, f"`{fused}`", lambda out: [_ms(fused, ["a", "b", "scale", "shift"], out)], given, constants),
    ]


def _activations(tokens: int) -> list[Way]:
    part = f"activation of {INNER:,}"
    given, bias = _floats(x=(1, tokens, INNER)), {"bias": np.zeros(INNER, np.float32)}
    return [
        Way(part, "`Gelu`", lambda out: [helper.make_node("Gelu", ["x"], [out])], given, {}),
        Way(part, "`FastGelu`", lambda out: [_ms("FastGelu", ["x"], out)], given, {}),
        Way(part, "`QuickGelu`", lambda out: [_ms("QuickGelu", ["x"], out)], given, {}),
        Way(part, "`BiasGelu`", lambda out: [_ms("BiasGelu", ["x", "bias"], out)], given, bias),
        Way(part, "`FastGelu` with its bias", lambda out: [_ms("FastGelu", ["x", "bias"], out)], given, bias),
    ]


def _bytes(tokens: int) -> list[Way]:
    part = "activations to bytes"
    given = _floats(x=(tokens, HIDDEN))
    scalar: Arrays = {"scale": np.array(0.1, np.float32), "zero": np.array(128, np.uint8)}
    channels: Arrays = {"scale": np.full(HIDDEN, 0.1, np.float32), "zero": np.full(HIDDEN, 128, np.uint8)}
    names = ["x", "scale", "zero"]

    def scaled(out: str) -> list[NodeProto]:
        return [
            helper.make_node("Mul", ["x", "factor"], [f"{out}_scaled"]),
            helper.make_node("QuantizeLinear", [f"{out}_scaled", "scale", "zero"], [out]),
        ]

    return [
        Way(part, "scalar", lambda out: [helper.make_node("QuantizeLinear", names, [out])], given, scalar),
        Way(part, "`Mul` and scalar", scaled, given, {**scalar, "factor": np.full(HIDDEN, 2, np.float32)}),
        Way(part, "per channel", lambda out: [helper.make_node("QuantizeLinear", names, [out], axis=1)], given, channels),
    ]


def _tables(tokens: int) -> list[Way]:
    part = "word vectors"
    draw = np.random.default_rng(0)
    given = {"ids": draw.integers(0, WORDS, (1, tokens), dtype=np.int64)}
    table = draw.integers(-127, 128, (WORDS, HIDDEN), dtype=np.int8)
    bytes_of_table, nibbles = (draw.integers(0, 256, (WORDS, HIDDEN // share), dtype=np.uint8) for share in (1, 2))
    scales = np.full((WORDS, HIDDEN // BLOCK), 0.01, np.float32)

    def gathered(out: str) -> list[NodeProto]:
        return [
            helper.make_node("Gather", ["table", "ids"], [f"{out}_bytes"]),
            helper.make_node("Cast", [f"{out}_bytes"], [f"{out}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["scales", "ids"], [f"{out}_scales"]),
            helper.make_node("Mul", [f"{out}_cast", f"{out}_scales"], [out]),
        ]

    def blocks(bits: int) -> Callable[[str], list[NodeProto]]:
        shape = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return lambda out: [_ms("GatherBlockQuantized", ["table", "ids", "scales"], out, **shape)]

    return [
        Way(part, "int8 rows by `Gather`, `Cast`, `Mul`", gathered, given, {"table": table, "scales": scales[:, :1]}),
        Way(part, "`GatherBlockQuantized` 8 bits", blocks(8), given, {"table": bytes_of_table, "scales": scales}),
        Way(part, "4 bits", blocks(4), given, {"table": nibbles, "scales": scales}),
    ]


def _attentions(tokens: int) -> list[Way]:
    part = "attention of all heads"
    given = _floats(q=(1, tokens, HIDDEN), k=(1, tokens, HIDDEN), v=(1, tokens, HIDDEN))
    constants = {
        "heads": np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64),
        "joined": np.array([0, 0, HIDDEN], np.int64),
    }

    def plain(out: str) -> list[NodeProto]:
        nodes = []
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{out}_{name}_heads"]))
            nodes.append(helper.make_node("Transpose", [f"{out}_{name}_heads"], [f"{out}_{name}"], perm=order))
        return [
            *nodes,
            helper.make_node("MatMul", [f"{out}_q", f"{out}_k"], [f"{out}_scores"]),
            helper.make_node("Softmax", [f"{out}_scores"], [f"{out}_shares"], axis=-1),
            helper.make_node("MatMul", [f"{out}_shares", f"{out}_v"], [f"{out}_mixed"]),
            helper.make_node("Transpose", [f"{out}_mixed"], [f"{out}_turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"{out}_turned", "joined"], [out]),
        ]

    fused = "MultiHeadAttention"
    return [
        Way(part, "plain ops", plain, given, constants),
        Way(part, f"`{fused}`", lambda out: [_ms(fused, ["q", "k", "v"], out, num_heads=HEADS)], given, {}),
    ]


def _ms(op: str, inputs: list[str], out: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [out], domain=MICROSOFT, **attributes)


def _floats(**shapes: tuple[int, ...]) -> Arrays:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _type(value: NDArray[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def _rounded(samples: Sequence[float]) -> list[float]:
    return [round(sample, 3) for sample in samples]


SCENARIO = Scenario(
    name="ops",
    summary="Time single ops of ONNX Runtime on one core: the ways of doing each part of an encoder, in turns.",
    settings=OpsSettings,
    run=every_row,
    figures=ops_figures,
    table=ops_table,
    decided_by=("benchmarks/scenarios/ops.py",),
    minutes=2,
    quick={"rounds": 2, "call_s": 0.002},
)
