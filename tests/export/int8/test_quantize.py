"""int8 graphs: how activations and weights become bytes, what stays in fp32, and that a text's answer is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distill.machine import INT8_WITHOUT_SATURATION, instruction_set
from distill.scales import (
    INT8_LIMIT,
    SEVEN_BIT_LIMIT,
    ChannelRange,
    input_scales,
    quantize_blocks,
    quantize_columns,
    quantize_rows,
)
from export.graph.optimized import optimized_ops
from export.int8.embeddings import quantize_tables
from export.int8.linear import MIN_WEIGHTS, linear_inputs
from export.int8.quantize import Quantization, quantize
from export.settings import EmbeddingPrecision

Array = NDArray[np.float32]

IS_EXACT = instruction_set() in INT8_WITHOUT_SATURATION
HERE = Quantization(weight_limit=INT8_LIMIT if IS_EXACT else SEVEN_BIT_LIMIT)
"""Weights of as many bits as this processor multiplies without saturation."""


def graph_of(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], *, takes: onnx.ValueInfoProto, gives: Sequence[str | int]
) -> onnx.ModelProto:
    """Return a graph with one input and the output `out`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [takes],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, gives)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(graph: onnx.ModelProto, values: NDArray[np.generic]) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer: Array = session.run(None, {session.get_inputs()[0].name: values})[0]
    return answer


def tensors(graph: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def ops(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def random_matrix(rows: int = 20, width: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def lookup(table: Array, **attributes: int) -> onnx.ModelProto:
    takes = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "length"])
    nodes = [helper.make_node("Gather", ["table", "ids"], ["out"], **attributes)]
    return graph_of(nodes, {"table": table}, takes=takes, gives=["texts", "length", "n"])


def product(weights: Array, bias: Array | None = None) -> onnx.ModelProto:
    """Return x @ weights, plus a bias where there is one."""
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["texts", weights.shape[0]])
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["out" if bias is None else "product"])]
    held = {"weights": weights}
    if bias is not None:
        nodes.append(helper.make_node("Add", ["product", "bias"], ["out"]))
        held["bias"] = bias
    return graph_of(nodes, held, takes=takes, gives=["texts", weights.shape[1]])


def ranges_of(low: Sequence[float] | Array, high: Sequence[float] | Array) -> dict[str, ChannelRange]:
    return {"x": ChannelRange(np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32))}


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products of any size be quantized, so that sums can be done by hand."""
    monkeypatch.setattr("export.int8.linear.MIN_WEIGHTS", 1)


def test_each_row_has_the_scale_of_its_own_largest_number() -> None:
    table = np.array([[-2, 0.5, 1.2], [1000, 250, -600]], dtype=np.float32)
    values, scales = quantize_rows(table)
    # 127 steps up to 2: 0.5 is 31.75 of them and 1.2 is 76.2; up to 1000: 250 is 31.75 and -600 is -76.2.
    assert values.tolist() == [[-127, 32, 76], [127, 32, -76]]
    assert values.dtype == np.int8
    assert scales == pytest.approx(np.array([[2 / 127], [1000 / 127]]))
    assert scales.dtype == np.float32


def test_each_column_has_the_scale_of_its_own_largest_number() -> None:
    values, scales = quantize_columns(np.array([[-2, 1000], [0.5, 250], [1.2, -600]], dtype=np.float32))
    assert values.tolist() == [[-127, 127], [32, 32], [76, -76]]
    assert scales == pytest.approx(np.array([2 / 127, 1000 / 127]))


def test_one_huge_row_costs_the_others_no_precision() -> None:
    table = random_matrix(50, 16)
    table[7] *= 10_000
    values, scales = quantize_rows(table)
    error = np.abs(values * scales - table)
    assert (error <= np.abs(table).max(axis=1, keepdims=True) / 127 / 2 * 1.001).all()
    # One scale for the whole table would be hundreds, and round every other row to nothing.
    assert error[np.arange(50) != 7].max() < 0.02


@pytest.mark.parametrize("filling", [0.0, 1e-44])
def test_a_row_of_nothing_stays_nothing(filling: float) -> None:
    table = np.array([[filling, filling], [1, -1]], dtype=np.float32)
    values, scales = quantize_rows(table)
    assert values.tolist() == [[0, 0], [127, -127]]
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


def test_a_lookup_answers_as_before_to_half_a_step_of_each_row() -> None:
    table = random_matrix()
    table[3] *= 1000
    graph = quantize_tables(lookup(table))
    ids = np.array([[0, 3, 19], [3, 3, 5]])
    bound = np.abs(table).max(axis=1) / 127 / 2 * 1.001
    assert (np.abs(run(graph, ids) - table[ids]) <= bound[ids][..., None]).all()
    assert tensors(graph)["table_int8"].dtype == np.int8
    assert "table" not in tensors(graph)


def test_two_lookups_in_one_table_share_one_int8_table() -> None:
    table = random_matrix()
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["first"]),
        helper.make_node("Neg", ["first"], ["between"]),
        helper.make_node("Gather", ["table", "ids"], ["second"], axis=0),
        helper.make_node("Sub", ["between", "second"], ["out"]),
    ]
    takes = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "length"])
    graph = quantize_tables(graph_of(nodes, {"table": table}, takes=takes, gives=["texts", "length", 8]))
    onnx.checker.check_model(graph)
    assert sorted(tensors(graph)) == ["table_int8", "table_scales"]
    ids = np.array([[1, 2, 3]])
    np.testing.assert_allclose(run(graph, ids), -2 * table[ids], atol=float(np.abs(table).max()) / 127)


def test_a_table_that_is_sliced_is_stored_in_int8_and_whole_again_when_loaded() -> None:
    table = random_matrix()
    bounds = {name: np.array([value], dtype=np.int64) for name, value in (("start", 2), ("axis", 0))}
    takes = helper.make_tensor_value_info("end", TensorProto.INT64, [1])
    nodes = [helper.make_node("Slice", ["table", "start", "end", "axis"], ["out"])]
    graph = graph_of(nodes, {"table": table, **bounds}, takes=takes, gives=["rows", 8])
    quantize_tables(graph)
    onnx.checker.check_model(graph)
    assert tensors(graph)["table_int8"].dtype == np.int8
    assert "table" not in tensors(graph)
    bound = np.abs(table[2:7]).max(axis=1, keepdims=True) / 127 / 2 * 1.001
    assert (np.abs(run(graph, np.array([7])) - table[2:7]) <= bound).all()
    assert optimized_ops(graph) == {"Slice": 1}


def test_a_table_with_another_use_is_not_touched() -> None:
    # As where a head is tied to the word vectors.
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Transpose", ["table"], ["turned"]),
        helper.make_node("MatMul", ["vectors", "turned"], ["out"]),
    ]
    takes = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "length"])
    graph = graph_of(nodes, {"table": random_matrix()}, takes=takes, gives=["texts", "length", 20])
    before = graph.SerializeToString()
    assert quantize_tables(graph).SerializeToString() == before


@pytest.mark.parametrize(
    ("table", "attributes"),
    [
        (random_matrix(), {"axis": 1}),
        (random_matrix().astype(np.int64), {}),
        (random_matrix()[0], {}),
        (random_matrix()[:1], {}),
    ],
    ids=["columns", "whole numbers", "one dimension", "one row"],
)
def test_what_is_no_table_of_rows_is_not_touched(table: Array, attributes: dict[str, int]) -> None:
    graph = lookup(table, **attributes)
    before = graph.SerializeToString()
    assert quantize_tables(graph).SerializeToString() == before


def test_steps_share_the_range_between_activations_and_weights() -> None:
    # Ranges 1 and 100 with weights of 1. Divided by range ** 0.8, 1 and 39.81, they are 1 and 2.512: the wide channel
    # takes all 127 steps, and the narrow one 127 / 2.512 = 50.6, not the 1.27 that one scale for both would leave it.
    scales = input_scales(ranges_of([-1, -100], [1, 100])["x"], [np.ones((2, 3), dtype=np.float32)])
    assert scales.step == pytest.approx(np.array([1 / 50.56, 100 / 127]), rel=1e-3)
    assert scales.zero_point == 127  # the middle of 254 steps


def test_with_all_of_a_range_in_the_weights_every_channel_takes_all_steps() -> None:
    # alpha 1: the factors are the ranges themselves, 1 and 100
    scales = input_scales(ranges_of([-1, -100], [1, 100])["x"], [np.ones((2, 3), dtype=np.float32)], migration=1.0)
    assert scales.step == pytest.approx(np.array([1 / 127, 100 / 127]), rel=1e-3)


def test_a_channel_that_meets_large_weights_gets_smaller_steps() -> None:
    # Equal ranges of 1. Divided by 1 / weight ** 0.2, for weights 32 and 1, they are 2 and 1: steps of 1/127 and 2/127.
    scales = input_scales(ranges_of([-1, -1], [1, 1])["x"], [np.array([[32, -1], [1, 0.5]], dtype=np.float32)])
    assert scales.step == pytest.approx(np.array([1 / 127, 2 / 127]))


def test_the_largest_weight_of_every_product_that_reads_the_input_counts() -> None:
    small, large = np.ones((2, 1), dtype=np.float32), np.array([[32], [1]], dtype=np.float32)
    scales = input_scales(ranges_of([-1, -1], [1, 1])["x"], [small, large])
    assert scales.step == pytest.approx(np.array([1 / 127, 2 / 127]))


def test_a_channel_that_never_moved_has_a_step_all_the_same() -> None:
    scales = input_scales(ranges_of([0, -1], [0, 1])["x"], [np.ones((2, 2), dtype=np.float32)])
    assert (scales.step > 0).all()
    still = input_scales(ranges_of([0, 0], [0, 0])["x"], [np.zeros((2, 2), dtype=np.float32)])
    assert np.isfinite(still.step).all()
    assert (still.step > 0).all()


@pytest.mark.usefixtures("any_size")
def test_a_product_is_rounded_to_steps_and_saturates_at_the_range() -> None:
    # One channel of range 12.7: steps of 0.1, and a byte has one more above the middle. The weights take up the step.
    graph = quantize(product(np.array([[2, -1]], dtype=np.float32)), ranges_of([-12.7], [12.7]))
    given = np.array([[0], [0.3], [0.34], [0.36], [-0.3], [12.7], [100]], dtype=np.float32)
    steps = np.array([0, 3, 3, 4, -3, 127, 128])
    np.testing.assert_allclose(run(graph, given), np.stack([0.2 * steps, -0.1 * steps], axis=1), atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_a_range_that_lies_to_one_side_has_its_zero_there() -> None:
    # 0 to 25.4: steps of 0.1 again, because 0 is the lowest byte; in the middle they would be of 0.2.
    graph = quantize(product(np.array([[2]], dtype=np.float32), np.array([5], dtype=np.float32)), ranges_of([0], [25.4]))
    given = np.array([[-3], [0], [0.1], [12.7], [25.4], [40]], dtype=np.float32)
    np.testing.assert_allclose(run(graph, given)[:, 0], [5, 5, 5.2, 5 + 25.4, 5 + 50.8, 5 + 51], atol=1e-4)


def test_all_channels_share_a_zero_point_that_leaves_room_for_the_lowest() -> None:
    # Behind a GELU: from -0.17 to 1 and to 100. Divided by reach ** 0.8, 1 and 39.81, they lie from -0.17 to 2.512: a step
    # is 2.682 / 254 = 0.01056 times that, and 0.17 is 16.1 of them.
    scales = input_scales(ranges_of([-0.17, -0.17], [1, 100])["x"], [np.ones((2, 3), dtype=np.float32)])
    assert scales.zero_point == 16
    assert scales.step == pytest.approx(np.array([0.01056, 0.4204]), rel=1e-3)


def test_an_answer_is_close_even_where_channels_differ_a_hundredfold() -> None:
    weights, x = random_matrix(64, 96), random_matrix(200, 64, seed=1)
    x[:, 5] *= 100
    exact = x @ weights
    graph = quantize(product(weights), ranges_of(x.min(axis=0), x.max(axis=0)))
    small = np.abs(x[:, 5]) < 30  # texts in which the wide channel does not drown all the others
    error = np.abs(run(graph, x) - exact)
    # One step for all channels, 3.5, would alone err by about 3.5 / sqrt(12) * sqrt(64) = 8.
    assert error[small].mean() < 1
    assert np.abs(exact).mean() > 20


def test_a_texts_answer_does_not_depend_on_its_batch_mates() -> None:
    weights, x = random_matrix(64, 96), random_matrix(33, 64, seed=1)
    x[7] *= 50  # under a scale for the whole batch, this text would take the others' precision
    graph = quantize(product(weights), ranges_of(np.full(64, -3), np.full(64, 3)))
    together = run(graph, x)
    alone = np.concatenate([run(graph, x[index : index + 1]) for index in range(33)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.usefixtures("any_size")
def test_products_that_read_one_input_share_its_bytes() -> None:
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["texts", 8])
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("MatMul", ["x", "second"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["out"]),
    ]
    weights = {"first": random_matrix(8, 4), "second": random_matrix(8, 4, seed=1)}
    graph = graph_of(nodes, weights, takes=takes, gives=["texts", 4])
    assert linear_inputs(graph) == ["x"]
    x = random_matrix(50, 8, seed=2)
    quantized = quantize(graph, ranges_of(x.min(axis=0), x.max(axis=0)), HERE)
    assert ops(quantized).count("QuantizeLinear") == 1
    assert ops(quantized).count("MatMulIntegerToFloat") == 2
    np.testing.assert_allclose(run(quantized, x), run(graph, x), atol=0.2)


@pytest.mark.usefixtures("any_size")
def test_a_bias_becomes_part_of_its_product() -> None:
    weights, bias, x = random_matrix(8, 4), random_matrix(1, 4, seed=3)[0] * 10, random_matrix(50, 8, seed=2)
    graph = product(weights, bias)
    quantized = quantize(graph, ranges_of(x.min(axis=0), x.max(axis=0)), HERE)
    assert ops(quantized) == ["Mul", "QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(quantized, x), x @ weights + bias, atol=0.2)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("second", ["bias of another shape", "another value", "a second reader"])
def test_an_addition_that_is_no_bias_stays(second: str) -> None:
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])
    added = {"bias of another shape": "column", "another value": "x", "a second reader": "bias"}[second]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["p"]), helper.make_node("Add", ["p", added], ["sum"])]
    nodes += [helper.make_node("Mul", ["sum", "p" if second == "a second reader" else "sum"], ["out"])]
    held = {"weights": random_matrix(4, 4), "column": random_matrix(3, 1), "bias": random_matrix(1, 4)[0]}
    graph = graph_of(nodes, held, takes=takes, gives=[3, 4])
    x = random_matrix(3, 4, seed=2)
    quantized = quantize(graph, ranges_of(np.full(4, -3), np.full(4, 3)), HERE)
    assert ops(quantized) == ["Mul", "QuantizeLinear", "MatMulIntegerToFloat", "Add", "Mul"]
    np.testing.assert_allclose(run(quantized, x), run(graph, x), atol=1)


def gemm(**attributes: float) -> onnx.ModelProto:
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["texts", 8])
    nodes = [helper.make_node("Gemm", ["x", "weights", "bias"], ["out"], **attributes)]
    weights = random_matrix(4, 8) if attributes.get("transB") else random_matrix(8, 4)
    return graph_of(nodes, {"weights": weights, "bias": random_matrix(1, 4)[0]}, takes=takes, gives=["texts", 4])


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("attributes", [{}, {"transB": 1}], ids=str)
def test_a_gemm_is_a_product_with_its_bias(attributes: dict[str, float]) -> None:
    graph, x = gemm(**attributes), random_matrix(50, 8, seed=2)
    quantized = quantize(graph, ranges_of(x.min(axis=0), x.max(axis=0)), HERE)
    assert ops(quantized)[-1] == "MatMulIntegerToFloat"
    np.testing.assert_allclose(run(quantized, x), run(graph, x), atol=0.2)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}], ids=str)
def test_a_gemm_with_factors_stays(attributes: dict[str, float]) -> None:
    assert linear_inputs(gemm(**attributes)) == []


def test_small_products_stay_in_fp32() -> None:
    # 64 * 64 weights are the least.
    assert MIN_WEIGHTS == 64 * 64
    assert linear_inputs(product(random_matrix(64, 63))) == []
    assert linear_inputs(product(random_matrix(64, 64))) == ["x"]


def test_a_product_of_two_values_stays_in_fp32() -> None:
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [80, 80])
    graph = graph_of([helper.make_node("MatMul", ["x", "x"], ["out"])], {}, takes=takes, gives=[80, 80])
    assert linear_inputs(graph) == []


def test_the_given_graph_stays_as_it_is() -> None:
    graph = product(random_matrix(64, 64))
    before = graph.SerializeToString()
    quantized = quantize(graph, ranges_of(np.full(64, -1), np.full(64, 1)))
    assert graph.SerializeToString() == before
    assert "weights" not in tensors(quantized)


def test_the_file_holds_one_byte_a_weight() -> None:
    takes = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "length"])
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "weights"], ["out"])]
    weights = {"table": random_matrix(1000, 64), "weights": random_matrix(64, 256)}
    graph = graph_of(nodes, weights, takes=takes, gives=["texts", "length", 256])
    quantized = quantize(graph, ranges_of(np.full(64, -3), np.full(64, 3)))
    onnx.checker.check_model(quantized)
    # A scale for each row of the table; a scale and a bias for each output, a factor for each input.
    expected = 1000 * 64 + 1000 * 4 + 64 * 256 + 256 * (4 + 4) + 64 * 4
    assert 0 <= len(quantized.SerializeToString()) - expected < 2000


def attention_graph(*, through_transpose: bool) -> onnx.ModelProto:
    """Return values = x @ w + b of 2 heads, mixed by constant shares over 3 tokens, times the output's weights."""
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["values"]),
        helper.make_node("Reshape", ["values", "by_head"], ["split"]),
        helper.make_node("Transpose", ["split"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["shares", "turned"], ["mixed"]),
    ]
    if through_transpose:
        nodes.append(helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]))
    nodes.append(helper.make_node("Reshape", ["back" if through_transpose else "mixed", "flat"], ["mix"]))
    nodes.append(helper.make_node("MatMul", ["mix", "out_w"], ["out"]))
    tokens = 3 if through_transpose else 1
    shares = np.random.default_rng(5).dirichlet(np.ones(3), (1, 2, tokens)).astype(np.float32)
    held = {"w": random_matrix(64, 64), "b": random_matrix(1, 64, seed=3)[0], "shares": shares}
    held |= {"out_w": random_matrix(64, 64, seed=4), "by_head": np.array([0, 0, 2, 32]), "flat": np.array([0, tokens, 64])}
    held["b"][7] *= 100  # a channel of its own range
    return graph_of(nodes, held, takes=takes, gives=[1, tokens, 64])


@pytest.mark.parametrize("through_transpose", [True, False], ids=["all tokens", "one token"])
def test_the_steps_of_mixed_values_are_taken_up_by_the_weights_that_make_them(through_transpose: bool) -> None:
    graph, x = attention_graph(through_transpose=through_transpose), random_matrix(3, 64, seed=2)[None]
    mix = helper.make_tensor_value_info("mix", TensorProto.FLOAT, None)
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    opened.graph.output.insert(0, mix)
    mixed = run(opened, x).reshape(-1, 64)
    ranges = {**ranges_of(x[0].min(axis=0), x[0].max(axis=0)), "mix": ChannelRange(mixed.min(axis=0), mixed.max(axis=0))}
    quantized = quantize(graph, ranges, HERE)
    assert ops(quantized).count("Mul") == 1  # for x; none before the second QuantizeLinear
    assert ops(quantized).count("QuantizeLinear") == 2
    exact = run(graph, x)
    assert np.abs(run(quantized, x) - exact).max() < 0.02 * (INT8_LIMIT / HERE.weight_limit) * np.abs(exact).max()


def test_values_with_a_second_reader_keep_their_size() -> None:
    graph = attention_graph(through_transpose=True)
    (last,) = [node for node in graph.graph.node if "out" in node.output]
    last.output[0] = "projected"
    graph.graph.node.append(helper.make_node("Add", ["projected", "values"], ["out"]))
    ranges = {name: next(iter(ranges_of(np.full(64, -100), np.full(64, 100)).values())) for name in ("x", "mix")}
    assert ops(quantize(graph, ranges)).count("Mul") == 2


def saturating_products(x: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return x @ weights as processors without VNNI compute it (`vpmaddubsw`): sums of two products clipped to 16 bits."""
    terms = x.astype(np.int64)[:, :, None] * weights.astype(np.int64)[None]
    pairs = terms[:, 0::2] + terms[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


@pytest.mark.parametrize(("limit", "saturates"), [(SEVEN_BIT_LIMIT, False), (INT8_LIMIT, True)])
def test_seven_bit_weights_never_saturate_16_bits(limit: int, saturates: bool) -> None:
    weights = random_matrix(64, 64)
    weights[:, :8] = np.abs(weights[:, :8]).max()  # columns of the largest weight only, of either sign
    weights[:, 4:8] *= -1
    quantized = quantize(product(weights), ranges_of(np.full(64, -3), np.full(64, 3)), Quantization(weight_limit=limit))
    held = tensors(quantized)["out_weights_int8"]
    assert np.abs(held.astype(int)).max() == limit
    x = np.vstack([np.full(64, 255), np.random.default_rng(0).integers(0, 256, (50, 64))]).astype(np.uint8)
    exact = x.astype(np.int64) @ held.astype(np.int64)
    assert (saturating_products(x, held) != exact).any() == saturates


@pytest.mark.skipif(not IS_EXACT, reason="8-bit weights saturate on this processor")
def test_seven_bits_cost_little() -> None:
    weights, x = random_matrix(64, 96), random_matrix(200, 64, seed=1)
    ranges = ranges_of(x.min(axis=0), x.max(axis=0))
    errors = [
        np.abs(run(quantize(product(weights), ranges, Quantization(weight_limit=limit)), x) - x @ weights).mean()
        for limit in (INT8_LIMIT, SEVEN_BIT_LIMIT)
    ]
    assert errors[0] < errors[1] < 2 * errors[0]


def test_dynamic_scales_need_no_calibration_and_let_batch_mates_have_a_say() -> None:
    weights, x = random_matrix(64, 96), random_matrix(33, 64, seed=1)
    x[7] *= 50
    graph = quantize(product(weights), {}, replace(HERE, activations="dynamic"))
    assert ops(graph) == ["DynamicQuantizeMatMul"]
    together, alone = run(graph, x)[0], run(graph, x[:1])[0]
    np.testing.assert_allclose(alone, x[0] @ weights, atol=0.5)
    assert np.abs(together - alone).max() > 1  # text 7 has taken the others' precision


@pytest.mark.usefixtures("any_size")
def test_a_product_that_is_kept_stays_fp32() -> None:
    graph = product(random_matrix(8, 4))
    assert ops(quantize(graph, {}, Quantization(keep=frozenset({"out"})))) == ["MatMul"]


def test_a_block_of_four_bits_is_scaled_by_its_largest_number() -> None:
    # The largest by size is -16: steps of 2, and it is 8 of them below 0. The next block's is 7: steps of -0.875, so that 7
    # is 8 below; its -7 would be 8 above and is clipped to 7, -6.125.
    values, scales = quantize_blocks(np.array([[-16, 3, 14, 0, 7, -7, 0.9, 0]], dtype=np.float32), block_size=4)
    assert scales.tolist() == [[2, -0.875]]
    nibbles = [0, 10, 15, 8, 0, 15, 7, 8]  # 8 is 0; 1.5 steps round to 2, 0.9 is -1.03 steps of -0.875
    assert values.tolist() == [[low | high << 4 for low, high in zip(nibbles[0::2], nibbles[1::2], strict=True)]]


@pytest.mark.parametrize(("precision", "steps"), [("int4", 8), ("int8", 2 * 127)])
def test_a_lookup_answers_to_half_a_step_in_four_bits_too(precision: EmbeddingPrecision, steps: int) -> None:
    table = random_matrix(20, 64)
    table[3] *= 1000
    graph = quantize_tables(lookup(table), precision)
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    ids = np.array([[0, 3, 19], [3, 3, 5]])
    error = np.abs(run(graph, ids) - table[ids])
    # clipping to 7 steps above costs up to a whole one in 4 bits
    bound = np.abs(table).max(axis=1) / steps * 1.001
    assert (error <= bound[ids][..., None]).all()
    assert np.median(error) > 0


def test_four_bit_values_are_rounded_to_the_scale_that_is_stored() -> None:
    # Half precision has steps of 2/1024 between 2 and 4: 2.001 is stored as 2.001953125, and 7 of those are 14.013671875.
    values, scales = quantize_blocks(np.array([[-16.008, 15.0]], dtype=np.float32), block_size=2)
    assert scales.dtype == np.float16
    assert scales.tolist() == [[2.001953125]]
    assert values.tolist() == [[0 | 15 << 4]]  # 15 is 7.49 stored steps


def test_numbers_too_small_or_too_large_for_a_scale_of_sixteen_bits_stay_finite() -> None:
    values, scales = quantize_blocks(np.array([[1e-9, 0], [-1e6, 1e6]], dtype=np.float32), block_size=2)
    assert scales.tolist() == [[1], [65504]]
    assert values.tolist() == [[8 | 8 << 4], [0 | 15 << 4]]


def test_a_table_of_four_bits_takes_four_and_a_half_bits_a_number() -> None:
    held = tensors(quantize_tables(lookup(random_matrix(100, 64)), "int4"))
    assert sum(values.nbytes for values in held.values()) == 100 * 64 * 4.5 / 8


def test_a_width_that_no_block_divides_stays_int8() -> None:
    assert sorted(tensors(quantize_tables(lookup(random_matrix(20, 8)), "int4"))) == ["table_int8", "table_scales"]


def test_tables_may_stay_fp32() -> None:
    graph = lookup(random_matrix())
    before = graph.SerializeToString()
    assert quantize_tables(graph, "fp32").SerializeToString() == before
