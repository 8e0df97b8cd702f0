"""Graphs that were made to attack whoever opens them: each is in a sealed bundle whose digests are right, and is refused."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from random_models import OF_DEBERTA_V3, random_classifier

from distill.bundle import Bundle
from distill.errors import BundleError
from distill.models.families import FAMILIES
from distill.models.loading import load_bundle
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings
from distill.students.static_student import build_static
from export.graph.fused import write_fused_graph
from export.graph.portable import LogitsOnly, write_portable_graph
from export.runtime import graph_limits
from export.runtime.graph_limits import MICROSOFT, OPS, require_runnable
from export.runtime.sessions import OnnxClassifier

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def fp32(tiny_student: Bundle) -> onnx.ModelProto:
    """Return the fp32 graph of the student; each test has its own."""
    return onnx.load_from_string(tiny_student.read_graph("fp32"))


def refusal_of(graph: onnx.ModelProto | bytes) -> str:
    with pytest.raises(BundleError) as caught:
        require_runnable(graph if isinstance(graph, bytes) else graph.SerializeToString())
    return str(caught.value)


def planted(bundle: Bundle, graph: bytes) -> Bundle:
    """Replace the fp32 graph of a bundle, with right digests, as whoever makes a bundle can."""
    with bundle.staging() as staged:
        (staged / "model.onnx").write_bytes(graph)
        return bundle.adding({"model.onnx": staged / "model.onnx"})


def first_weights(graph: onnx.ModelProto) -> TensorProto:
    return max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def put_first(graph: onnx.ModelProto, node: onnx.NodeProto) -> None:
    graph.graph.node.insert(0, node)


# What our writers write


def test_the_graphs_of_the_student_are_accepted(tiny_student: Bundle) -> None:
    for precision in ("fp32", "int8"):
        require_runnable(tiny_student.read_graph(precision))


def test_the_graph_of_a_static_student_is_accepted(tiny_teacher: Bundle) -> None:
    assert ("", "ReduceMax") in ops_of(static_graph(tiny_teacher))


def static_graph(teacher: Bundle) -> onnx.ModelProto:
    return write_portable_graph(build_static(load_bundle(teacher), DistillSettings(kind="static"), seed=0))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it exports some twenty architectures
@pytest.mark.filterwarnings("ignore")  # of the older exporter
def test_the_list_has_every_op_that_our_writers_write_and_no_other(
    tiny_model: Path, tiny_teacher: Bundle, tiny_student: Bundle
) -> None:
    written = {(MICROSOFT, "DynamicQuantizeMatMul"), (MICROSOFT, "GatherBlockQuantized")}  # run by the tests of int8
    written |= ops_of(onnx.load_from_string(tiny_student.read_graph("int8")))
    written |= ops_of(static_graph(tiny_teacher))
    others = ("convbert", "deberta", "deberta-v2", "esm", "eurobert", "fnet", "modernbert", "nystromformer", "roformer")
    for family in (*FAMILIES, *others):
        classifier = random_classifier(family, tiny_model)
        written |= ops_of(write_portable_graph(classifier))
        if family in FAMILIES and "fused graph" in FAMILIES[family].supports and family != "mobilebert":
            written |= ops_of(write_fused_graph(classifier))
    written |= ops_of(write_fused_graph(random_classifier("bert", tiny_model, hidden_act="gelu_new")))
    written |= ops_of(write_portable_graph(random_classifier("deberta-v2", tiny_model, **OF_DEBERTA_V3)))
    for family in ("bert", "albert"):
        written |= ops_of(graph_of_the_older_exporter(random_classifier(family, tiny_model)))
    assert written == {(domain, op) for domain, ops in OPS.items() for op in ops}


def graph_of_the_older_exporter(classifier: TorchClassifier) -> onnx.ModelProto:
    """Return what Optimum writes: it uses torch's older exporter."""
    content = io.BytesIO()
    batch = classifier.tokenizer.pad(classifier.tokenizer.encode(("a film", "the film was lovely and dull"))).inputs()
    torch.onnx.export(
        LogitsOnly(classifier.model).eval(),
        tuple(map(torch.from_numpy, batch.values())),
        content,
        dynamo=False,
        opset_version=18,
        input_names=list(batch),
        dynamic_axes={name: {0: "batch", 1: "length"} for name in batch},
    )
    return onnx.load_from_string(content.getvalue())


def ops_of(graph: onnx.ModelProto) -> set[tuple[str, str]]:
    require_runnable(graph.SerializeToString())
    return {(node.domain, node.op_type) for node in graph.graph.node}


def test_it_reads_a_graph_as_the_onnx_package_does(fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(graph_limits, "_checked_node", lambda node: seen.append(bytes(node["op"][-1]).decode()) or [])
    require_runnable(fp32.SerializeToString())
    assert seen == [node.op_type for node in fp32.graph.node]


# Files beside it


def test_weights_in_another_file_are_refused_before_the_file_is_read(
    fp32: onnx.ModelProto, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], tmp_path: Path
) -> None:
    weights, secret = first_weights(fp32), tmp_path / "secret.bin"
    secret.write_bytes(weights.raw_data)
    onnx.external_data_helper.set_external_data(weights, location=str(secret), length=len(weights.raw_data))
    weights.ClearField("raw_data")
    bundle = planted(copied(tiny_student), fp32.SerializeToString())
    with pytest.raises(BundleError, match="is not a graph that potstill runs: its tensor has the ONNX field 13"):
        OnnxClassifier.open(bundle.path, precision="fp32")
    weights.ClearField("external_data")  # the mark alone
    assert "is in another file" in refusal_of(fp32)


def test_a_custom_op_is_refused(fp32: onnx.ModelProto) -> None:
    put_first(fp32, helper.make_node("Anything", ["input_ids"], ["unused"], domain="custom"))
    assert "domain 'custom'" in refusal_of(fp32)
    del fp32.graph.node[0]
    fp32.opset_import.append(helper.make_opsetid("custom", 1))
    assert "domain 'custom'" in refusal_of(fp32)


@pytest.mark.parametrize(
    ("op", "domain"),
    [("EPContext", MICROSOFT), ("NonZero", ""), ("RandomNormal", ""), ("StringSplit", ""), ("MatMulIntegerToFloat", "ai.onnx")],
)
def test_an_op_that_our_writers_do_not_write_is_refused(op: str, domain: str, fp32: onnx.ModelProto) -> None:
    put_first(fp32, helper.make_node(op, ["input_ids"], ["unused"], domain=domain))
    assert f"it has the op {domain}{':' if domain else ''}{op}, which" in refusal_of(fp32)


def test_an_op_that_is_sent_twice_is_the_one_that_protobuf_takes(fp32: onnx.ModelProto) -> None:
    twice = b"".join(helper.make_node(op, [], ["unused"]).SerializeToString() for op in ("Add", "Loop"))
    assert onnx.NodeProto.FromString(twice).op_type == "Loop"
    body = fp32.graph.SerializeToString() + b"\x0a" + varint(len(twice)) + twice  # field 1: a node
    fp32.ClearField("graph")
    assert "the op Loop" in refusal_of(fp32.SerializeToString() + b"\x3a" + varint(len(body)) + body)  # field 7: the graph


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


# Code inside


def test_branches_and_loops_are_refused(fp32: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "body", [], [])
    put_first(fp32, helper.make_node("If", ["input_ids"], ["unused"], then_branch=body, else_branch=body))
    assert "its attribute has the ONNX field 6" in refusal_of(fp32)
    fp32.graph.node[0].op_type = "Add"  # an op of the list does not make a subgraph acceptable
    assert "its attribute has the ONNX field 6" in refusal_of(fp32)


def test_a_function_that_replaces_an_op_is_refused(fp32: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17)]
    fp32.functions.append(
        helper.make_function("", "Softmax", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], opset_imports=opsets)
    )
    assert "its model has the ONNX field 25" in refusal_of(fp32)


def test_session_options_in_the_metadata_are_refused(fp32: onnx.ModelProto) -> None:
    helper.set_model_props(fp32, {"ort_config": '{"session_options": {"enable_profiling": true}}'})
    assert "session options" in refusal_of(fp32)


def test_two_graphs_in_one_file_are_refused(fp32: onnx.ModelProto) -> None:
    body = fp32.graph.SerializeToString()
    assert "it has 2 graphs" in refusal_of(fp32.SerializeToString() + b"\x3a" + varint(len(body)) + body)


def test_the_other_format_of_onnx_runtime_is_refused(fp32: onnx.ModelProto, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(fp32.SerializeToString(), options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "model.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    refusal_of(content)


def test_a_graph_that_bears_the_mark_of_the_other_format_is_read_as_what_was_checked(
    fp32: onnx.ModelProto, tiny_student: Bundle
) -> None:
    fp32.producer_name = "ORTM"
    content = fp32.SerializeToString()
    assert content[4:8] == b"ORTM"
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail):  # without the setting, it is read as the other format
        ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    theirs = OnnxClassifier.open(tiny_student, precision="fp32").predict_logits(["a film"])
    np.testing.assert_array_equal(OnnxClassifier.of_graph(content, tiny_student).predict_logits(["a film"]), theirs)


# Sizes


def huge_tensor(graph: onnx.ModelProto) -> None:
    first_weights(graph).dims[:] = [2**15, 2**15]


def overflowing_tensor(graph: onnx.ModelProto) -> None:
    first_weights(graph).dims[:] = [2**32, 2**32]


def negative_tensor(graph: onnx.ModelProto) -> None:
    first_weights(graph).dims[:] = [-(2**20), -(2**20)]


def huge_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


def huge_value(graph: onnx.ModelProto) -> None:
    graph.graph.value_info.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2**20, 2**20]))


def huge_expansion(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "sizes"))
    put_first(graph, helper.make_node("Expand", ["input_ids", "sizes"], ["unused"]))


def huge_repetition(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "sizes"))
    put_first(graph, helper.make_node("Tile", ["input_ids", "sizes"], ["unused"]))


def huge_constant(graph: onnx.ModelProto) -> None:
    put_first(graph, helper.make_node("ConstantOfShape", ["sizes"], ["unused"]))
    graph.graph.node.append(helper.make_node("Constant", [], ["sizes"], value_ints=[2**20, 2**20]))


def huge_padding(graph: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("", TensorProto.INT64, [4], [0, 2**40, 0, 0])
    put_first(graph, helper.make_node("Constant", [], ["sizes"], value=tensor))
    graph.graph.node.append(helper.make_node("Pad", ["input_ids", "sizes"], ["unused"]))


def huge_range(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(helper.make_tensor("end", TensorProto.INT64, [], [2**40]))
    put_first(graph, helper.make_node("Range", ["", "end", ""], ["unused"]))


def huge_window(graph: onnx.ModelProto) -> None:
    put_first(graph, helper.make_node("Conv", ["input_ids", "input_ids"], ["unused"], pads=[2**30, 2**30]))


@pytest.mark.parametrize(
    "change",
    [
        huge_tensor,
        overflowing_tensor,
        negative_tensor,
        huge_input,
        huge_value,
        huge_expansion,
        huge_repetition,
        huge_constant,
        huge_padding,
        huge_range,
        huge_window,
    ],
)
def test_a_size_beyond_all_reason_is_refused(change: Change, fp32: onnx.ModelProto) -> None:
    change(fp32)
    assert any(said in refusal_of(fp32) for said in ("has the sizes", "declares", "an attribute of Conv has 1,073,741,824"))


def test_too_many_nodes_are_refused(fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_limits, "MAX_NODES", len(fp32.graph.node) - 1)
    assert f"it has {len(fp32.graph.node)} nodes" in refusal_of(fp32)


@pytest.mark.parametrize("part", ["sparse_initializer", "training_info", "string_data"])
def test_parts_that_no_classifier_needs_are_refused(part: str, fp32: onnx.ModelProto) -> None:
    if part == "sparse_initializer":
        fp32.graph.sparse_initializer.add()
    elif part == "training_info":
        fp32.training_info.add()
    else:
        fp32.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"a"]))
    assert "which no graph of `potstill export` has" in refusal_of(fp32)


def test_no_damage_ends_in_anything_but_a_refusal(tiny_student: Bundle) -> None:
    draw = random.Random(0)
    whole = tiny_student.read_graph("fp32")
    for _ in range(2_000):
        content = bytearray(whole[: draw.randrange(len(whole)) if draw.random() < 0.3 else len(whole)])
        for _ in range(draw.randrange(1, 4)):
            if content:  # half of the changes near the ends, where the structure is
                place = draw.randrange(min(len(content), 300)) * draw.choice((1, -1))
                content[place] = draw.randrange(256)
        try:
            require_runnable(bytes(content))
        except BundleError:
            continue


# The library behind it

CRASHED_OLDER_RELEASES = """
import numpy as np, onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

def value(name, kind=TensorProto.FLOAT, shape=(1,)):
    return helper.make_tensor_value_info(name, kind, shape)

def load(node, taken, initializers):
    graph = helper.make_graph([node], "planted", taken, [value(node.output[0])], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    try:
        ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as exc:
        print("refused", type(exc).__name__)

# a body input of a loop that is an initializer too
scalar, number = value("condition", TensorProto.BOOL, ()), value("trip", TensorProto.INT64, ())
steps = [helper.make_node("Identity", ["condition"], ["go"]), helper.make_node("Add", ["sum", "sum"], ["next"])]
held = [numpy_helper.from_array(np.array(1), "trip"), numpy_helper.from_array(np.ones(1, np.float32), "sum")]
gives = [value("go", TensorProto.BOOL, ()), value("next")]
body = helper.make_graph(steps, "body", [number, scalar, value("sum")], gives, held)
load(helper.make_node("Loop", ["n", "", "x"], ["y"], body=body), [value("n", TensorProto.INT64, ()), value("x")], [])

# a scalar where a vector is read
tables = {"words": (8, 8), "positions": (8, 8), "gamma": (8,), "beta": ()}
weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in tables.items()]
inputs = ["ids", "", "words", "positions", "", "gamma", "beta"]
load(
    helper.make_node("EmbedLayerNormalization", inputs, ["y", "mask"], domain="com.microsoft"),
    [value("ids", TensorProto.INT32, (1, 4))],
    weights,
)
"""


def test_the_oldest_accepted_release_survives_graphs_that_crash_the_ones_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHED_OLDER_RELEASES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["refused", "InvalidGraph", "refused", "Fail"]), done.stderr[-500:]
