"""Which values a graph's tensors take: channel by channel, over real texts, padding left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import SettingsError
from distill.scales import MAX_CALIBRATION_TEXTS, ChannelRange, calibration_texts
from export.int8.calibration import calibration_split, channel_ranges

TABLE = np.arange(34 * 2, dtype=np.float32).reshape(34, 2) * [1, -1]  # token i has the channels 2 i and -(2 i + 1)


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Return a graph that looks up two channels per token, and gives twice as much."""
    takes = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]) for name in ("input_ids", "attention_mask")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["inner"]),
        helper.make_node("Add", ["inner", "inner"], ["out"]),
    ]
    gives = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "n", 2])]
    held = [numpy_helper.from_array(TABLE.astype(np.float32), "table")]
    built = helper.make_graph(nodes, "test", takes, gives, held)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_ranges_are_the_least_and_most_of_each_channel_over_all_texts(graph: onnx.ModelProto, tiny_teacher: Bundle) -> None:
    tokenizer = tiny_teacher.tokenizer()
    texts = ("dull film", "a", "lovely")
    ids = np.concatenate(tokenizer.encode(texts))
    ranges = channel_ranges(graph, ["inner", "out"], texts=texts, tokenizer=tokenizer)
    # Padding has id 0: were "a" padded to the length of "dull film", the ends would be at 0.
    assert ids.min() == 2
    assert ranges["inner"].low.tolist() == [2 * ids.min(), -(2 * ids.max() + 1)]
    assert ranges["inner"].high.tolist() == [2 * ids.max(), -(2 * ids.min() + 1)]
    np.testing.assert_array_equal(ranges["out"].high, 2 * ranges["inner"].high)


def test_one_word_is_within_what_texts_of_several_are_calibrated_to(graph: onnx.ModelProto, tiny_teacher: Bundle) -> None:
    """A mean over tokens, as a static student takes it, is the more extreme the fewer they are."""
    graph.graph.node[1].CopyFrom(helper.make_node("ReduceMean", ["inner"], ["mean"], axes=[1], keepdims=0))
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["b", 2]))
    graph.opset_import[0].version = 17
    tokenizer = tiny_teacher.tokenizer()
    texts = ("dull film lovely", "lovely film dull")
    means = [TABLE[row].mean(axis=0) for row in tokenizer.encode(("dull", "lovely", *texts))]
    (taken,) = channel_ranges(graph, ["mean"], texts=texts, tokenizer=tokenizer).values()
    np.testing.assert_allclose(taken.low, np.min(means, axis=0), rtol=1e-6)
    np.testing.assert_allclose(taken.high, np.max(means, axis=0), rtol=1e-6)
    assert (taken.high - taken.low > 2 * (means[2] - means[3]).max()).all()  # the texts alone have one mean


def test_texts_without_a_word_have_no_first_word() -> None:
    assert calibration_texts(["dull film", "", "  ", "a"]) == ["dull film", "", "  ", "a", "dull", "a"]


def test_two_ranges_join_to_the_one_that_holds_both() -> None:
    one = ChannelRange(np.float32([0, -1]), np.float32([1, 5]))
    other = ChannelRange(np.float32([-2, 0]), np.float32([0, 9]))
    joined = one.joined(other)
    assert (joined.low.tolist(), joined.high.tolist()) == ([-2, -1], [1, 9])


@pytest.mark.parametrize("count", [MAX_CALIBRATION_TEXTS - 1, 2 * MAX_CALIBRATION_TEXTS - 1, 5000])
def test_at_most_400_texts_are_taken_from_the_first_to_the_last(
    count: int, graph: onnx.ModelProto, tiny_teacher: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = tiny_teacher.tokenizer(), []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: asked.extend(texts) or encode(texts))
    channel_ranges(graph, ["inner"], texts=[f"text {index}" for index in range(count)], tokenizer=tokenizer)
    numbers = [int(text.split()[1]) for text in asked if text != "text"]
    assert asked.count("text") == min(count, 400)  # the first word of each
    assert len(numbers) == len(set(numbers)) == min(count, 400)
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    assert np.diff(numbers).max() <= -(-count // 399)  # evenly: the first 400 of 799 would leave out half


def test_the_given_graph_stays_as_it_is(graph: onnx.ModelProto, tiny_teacher: Bundle) -> None:
    before = graph.SerializeToString()
    channel_ranges(graph, ["inner"], texts=["dull"], tokenizer=tiny_teacher.tokenizer())
    assert graph.SerializeToString() == before


def test_a_graph_without_products_has_no_ranges(graph: onnx.ModelProto, tiny_teacher: Bundle) -> None:
    assert channel_ranges(graph, [], texts=["dull"], tokenizer=tiny_teacher.tokenizer()) == {}


def test_calibrating_with_no_text_is_refused(graph: onnx.ModelProto, tiny_teacher: Bundle) -> None:
    with pytest.raises(SettingsError, match="--validation"):
        channel_ranges(graph, ["inner"], texts=(), tokenizer=tiny_teacher.tokenizer())


def labelled(texts: Sequence[str]) -> Dataset:
    return Dataset(tuple(texts), np.arange(len(texts)) % 2, ("bad", "good"), "test")


@pytest.mark.parametrize("count", [2, 3, 5, 90, 900])
def test_no_text_both_calibrates_and_is_judged(count: int) -> None:
    validation = labelled([f"text {number}" for number in range(count)])
    calibrating, judged = calibration_split(validation)
    assert {*calibrating, *judged.texts} == {*validation.texts}
    assert len(calibrating) + len(judged) == count
    assert calibrating
    assert len(judged) >= 1
    of = dict(zip(validation.texts, validation.label_ids.tolist(), strict=True))
    assert [of[text] for text in judged.texts] == judged.label_ids.tolist()
    if count >= 90:
        assert len(calibrating) / count == pytest.approx(1 / 3, abs=0.1)


def test_a_text_keeps_its_part_when_others_come_and_the_order_changes() -> None:
    texts = [f"text {number}" for number in range(300)]
    few, _ = calibration_split(labelled(texts[:90]))
    many, _ = calibration_split(labelled(texts[::-1]))
    assert {*few} == {*many} & {*texts[:90]}


def test_one_text_cannot_both_calibrate_and_judge() -> None:
    with pytest.raises(SettingsError, match="--validation"):
        calibration_split(labelled(["dull"]))
