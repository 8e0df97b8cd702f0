"""Answering from a graph: order, company, threads, and everything that is refused instead of answered wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_task import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS
from tokenizers import Tokenizer

from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import BundleError, DatasetError, SettingsError
from distill.labels import Logits, task_of
from distill.storage import write_atomically
from distill.teachers.teacher import open_teacher
from distill.tokenization import TextTokenizer
from export.runtime import sessions as runtime
from export.runtime.sessions import OnnxClassifier

ROOT = Path(__file__).parents[3]
LABELS = ("negative", "positive")


def classifier_of(
    graph: bytes | Any, bundle: Bundle, *, labels: tuple[str, ...] = LABELS, tokenizer: TextTokenizer | None = None
) -> OnnxClassifier:
    return OnnxClassifier(
        graph,
        tokenizer=tokenizer or bundle.tokenizer(),
        labels=labels,
        problem_type="single_label_classification",
        threads=1,
    )


@pytest.fixture(scope="module")
def fp32(tiny_student: Bundle) -> OnnxClassifier:
    """Return the student's fp32 graph."""
    return OnnxClassifier.open(tiny_student, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def int8(tiny_student: Bundle) -> OnnxClassifier:
    """Return the student's int8 graph."""
    return OnnxClassifier.open(tiny_student, precision="int8", threads=1)


def test_logits_keep_the_order_of_the_texts_and_do_not_depend_on_company(fp32: OnnxClassifier, tiny_test: Dataset) -> None:
    texts = tiny_test.texts[:150]  # more than one batch, of many lengths
    together = fp32.predict_logits(texts)
    alone = np.concatenate([fp32.predict_logits([text]) for text in texts])
    assert together.dtype == np.float32
    assert together.shape == (150, 2)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    turned = fp32.predict_logits(texts[::-1])
    np.testing.assert_allclose(turned, together[::-1], atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 0.1  # else a wrong order would pass


def test_the_digest_is_that_of_the_graph_whether_in_a_file_or_in_memory(fp32: OnnxClassifier, tiny_student: Bundle) -> None:
    content = OnnxClassifier.of_graph(tiny_student.graph("fp32").read_bytes(), tiny_student, threads=1)
    assert content.digest() == fp32.digest() != OnnxClassifier.open(tiny_student, precision="int8").digest()
    assert open_teacher((fp32, tiny_student), device="cpu").names[0] == fp32.digest()


def test_the_file_of_a_graph_is_not_kept_beside_its_weights(tiny_student: Bundle) -> None:
    content = tiny_student.read_graph("int8")
    before = sys.getrefcount(content)
    classifier = OnnxClassifier.of_graph(lambda: content, tiny_student, threads=1)
    assert sys.getrefcount(content) == before
    assert len(classifier.predict_logits(["great"])) == 1


def test_no_texts_give_no_rows(fp32: OnnxClassifier) -> None:
    logits = fp32.predict_logits([])
    assert logits.shape == (0, 2)
    assert logits.dtype == np.float32


def test_an_empty_text_has_an_answer(fp32: OnnxClassifier) -> None:
    assert np.isfinite(fp32.predict_logits([""])).all()


def test_what_lies_beyond_max_length_has_no_say(fp32: OnnxClassifier) -> None:
    # 32 tokens, 2 of them mark the ends.
    long, longer = " ".join(["lovely"] * 30), " ".join(["lovely"] * 30 + ["dull"] * 40)
    np.testing.assert_array_equal(fp32.predict_logits([long]), fp32.predict_logits([longer]))


def test_one_session_answers_several_threads_at_once(fp32: OnnxClassifier, tiny_test: Dataset) -> None:
    portions = [tiny_test.texts[start : start + 10] for start in range(0, 200, 10)]
    expected = [fp32.predict_logits(portion) for portion in portions]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for got, wanted in zip(pool.map(fp32.predict_logits, portions), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("half \ud83d of a pair", "text 1 has a lone surrogate at character 5"),
        (None, "text 1 is NoneType"),
        (3, "text 1 is int"),
        (b"bytes", "text 1 is bytes"),
    ],
    ids=["lone surrogate", "None", "number", "bytes"],
)
def test_what_is_not_text_is_refused_by_its_place(text: Any, said: str, fp32: OnnxClassifier) -> None:
    with pytest.raises(DatasetError, match=said):
        fp32.predict_logits(["a film", text, "dull"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_graph_is_refused(share: float, tiny_student: Bundle) -> None:
    content = tiny_student.graph("fp32").read_bytes()
    with pytest.raises(BundleError, match="is not a graph that potstill runs"):
        classifier_of(content[: int(len(content) * share)], tiny_student)


def test_a_file_that_is_no_graph_is_refused(tiny_student: Bundle) -> None:
    with pytest.raises(BundleError, match="is not a graph that potstill runs"):
        classifier_of(tiny_student.read("config.json"), tiny_student)


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_a_graph_with_one_bit_flipped_or_one_byte_less_is_not_opened(
    name: str, tiny_student: Bundle, copied: Callable[[Bundle], Bundle]
) -> None:
    path = copied(tiny_student).path
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} has sha256"):
        OnnxClassifier.open(path)
    (path / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} has [\d,]+ bytes, the manifest says"):
        OnnxClassifier.open(path, verify=False)


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 1), (float("nan"), 40)])
def test_a_logit_that_is_no_number_is_not_given_as_an_answer(value: float, count: int, tiny_student: Bundle) -> None:
    graph = onnx.load(tiny_student.graph("fp32"))
    (norm,) = [tensor for tensor in graph.graph.initializer if tensor.name == "embedding.beta"]
    bias = numpy_helper.to_array(norm).copy()
    bias[0] = value
    norm.CopyFrom(numpy_helper.from_array(bias, norm.name))
    with pytest.raises(BundleError, match="a logit that is not a number"):
        classifier_of(graph.SerializeToString(), tiny_student).predict_logits(["a film"] * count)


@pytest.mark.parametrize("labels", [("only",), ("a", "b", "c")])
def test_a_graph_for_another_number_of_labels_is_refused(labels: tuple[str, ...], tiny_student: Bundle) -> None:
    with pytest.raises(BundleError, match=f" 2 logits.* {len(labels)} labels"):
        classifier_of(tiny_student.read_graph("fp32"), tiny_student, labels=labels)


def test_a_graph_that_takes_something_else_is_refused(tiny_student: Bundle) -> None:
    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Neg", ["pixels"], ["logits"])], "other", [value], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BundleError, match=r"\['pixels'\].*\['input_ids', 'attention_mask'\]"):
        classifier_of(model.SerializeToString(), tiny_student)


def test_ids_that_the_graph_has_no_vector_for_are_refused(tiny_student: Bundle, tmp_path: Any) -> None:
    content = json.loads(tiny_student.tokenizer().to_json())
    content["model"]["vocab"]["unheard"] = 99
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    foreign = TextTokenizer.from_file(tmp_path / "tokenizer.json", max_length=32, pad_id=0)
    with pytest.raises(BundleError, match="tokenizer"):
        classifier_of(tiny_student.read_graph("fp32"), tiny_student, tokenizer=foreign).predict_logits(["unheard"])


def test_int8_is_taken_where_there_is_one(tiny_student: Bundle, tiny_test: Dataset, fp32: OnnxClassifier) -> None:
    texts = tiny_test.texts[:20]
    default = OnnxClassifier.open(tiny_student.path, threads=1).predict_logits(texts)
    int8 = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(texts)
    np.testing.assert_array_equal(default, int8)
    assert np.abs(int8 - fp32.predict_logits(texts)).max() > 1e-4


def test_a_bundle_without_the_graph_asked_for_says_how_to_make_it(
    tiny_unexported: Bundle, tiny_student: Bundle, copied: Callable[[Bundle], Bundle]
) -> None:
    with pytest.raises(BundleError, match="has no ONNX graph; run `potstill export"):
        OnnxClassifier.open(tiny_unexported)
    with pytest.raises(BundleError, match=r"has no model\.onnx; run `potstill export"):
        OnnxClassifier.open(tiny_unexported, precision="fp32")
    without_int8 = copied(tiny_student).adding({}, dropping=frozenset({"model_int8.onnx"}))
    with pytest.raises(BundleError, match=r"has no model_int8\.onnx"):
        OnnxClassifier.open(without_int8, precision="int8")


def test_labels_and_problem_type_are_the_bundles(tiny_student: Bundle, fp32: OnnxClassifier) -> None:
    assert fp32.labels == tiny_student.manifest.labels == LABELS
    assert fp32.problem_type == "single_label_classification"


@pytest.mark.parametrize(("asked", "used"), [(None, 3), (2, 2)])
def test_threads_are_those_asked_for_or_those_this_process_may_use(
    asked: int | None, used: int, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "available_cpus", lambda: 3)
    seen: list[tuple[int, int]] = []
    session = ort.InferenceSession

    def noting(graph: Any, options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return session(graph, options, **more)

    monkeypatch.setattr(runtime.ort, "InferenceSession", noting)
    OnnxClassifier.open(tiny_student, threads=asked)
    assert seen == [(used, 1)]


def test_int8_of_an_unknown_target_warns_where_it_can_saturate(
    tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"instruction_set": "avx512_vnni", "target": None}
    proven = replace(tiny_student, manifest=tiny_student.manifest.model_copy(update=changes))
    for here, warned in (("avx2", True), ("avx_vnni", False)):
        caplog.clear()
        monkeypatch.setattr("export.runtime.sessions.instruction_set", lambda here=here: here)
        OnnxClassifier.open(proven, precision="int8")
        assert ("can saturate" in caplog.text) is warned
        caplog.clear()
        OnnxClassifier.open(proven, precision="fp32")
        assert caplog.text == ""


def test_int8_for_vnni_is_refused_where_it_can_saturate_and_portable_int8_is_not(
    tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wide = replace(tiny_student, manifest=tiny_student.manifest.model_copy(update={"target": "vnni"}))
    monkeypatch.setattr("export.runtime.sessions.instruction_set", lambda: "avx512_vnni")
    OnnxClassifier.open(wide, precision="int8")
    monkeypatch.setattr("export.runtime.sessions.instruction_set", lambda: "avx2")
    with pytest.raises(BundleError, match=r"VNNI.*avx2.*--target portable"):
        OnnxClassifier.open(wide, precision="int8")
    OnnxClassifier.open(wide, precision="fp32")
    OnnxClassifier.open(tiny_student, precision="int8")
    assert caplog.text == ""


def test_many_texts_on_several_threads_get_the_answers_of_one(tiny_student: Bundle, tiny_test: Dataset) -> None:
    texts = tiny_test.texts[:150]
    one = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(texts)
    several = OnnxClassifier.open(tiny_student, precision="int8", threads=3).predict_logits(texts)
    np.testing.assert_array_equal(several, one)
    assert np.ptp(one, axis=0).min() > 0.1  # else a wrong order would pass


def test_callers_at_once_share_the_session_for_many_texts(
    tiny_student: Bundle, tiny_test: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    session = ort.InferenceSession

    def noting(graph: Any, options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
        made.append(options.intra_op_num_threads)
        return session(graph, options, **more)

    monkeypatch.setattr(runtime.ort, "InferenceSession", noting)
    classifier = OnnxClassifier.open(tiny_student, threads=2)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(classifier.predict_logits, [tiny_test.texts[:100]] * 12))
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
    assert made == [2, 1]


def test_a_batch_that_fails_on_another_thread_fails_the_call(tiny_student: Bundle, tiny_test: Dataset) -> None:
    class Wrong(TextTokenizer):
        def encode(self, texts: Any) -> Any:
            return [*super().encode(texts[:-1]), np.array([99_999])]

    content = tiny_student.tokenizer().to_json()
    wrong = Wrong(Tokenizer.from_str(content), max_length=32, pad_id=0)
    classifier = OnnxClassifier(
        tiny_student.read_graph("fp32"),
        tokenizer=wrong,
        labels=LABELS,
        problem_type="single_label_classification",
        threads=2,
    )
    with pytest.raises(BundleError, match="the graph cannot answer"):
        classifier.predict_logits(tiny_test.texts[:100])


def test_a_graph_replaced_after_it_was_opened_is_not_mixed_with_it(
    tiny_student: Bundle, copied: Callable[[Bundle], Bundle], tiny_test: Dataset
) -> None:
    copy = copied(tiny_student)
    classifier = OnnxClassifier.open(copy, precision="fp32", threads=2)
    write_atomically(copy.graph("fp32"), tiny_student.graph("int8").read_bytes())
    classifier.predict_logits(tiny_test.texts[:3])
    with pytest.raises(BundleError, match=r"model\.onnx has [\d,]+ bytes, the manifest says"):
        classifier.predict_logits(tiny_test.texts[:100])


def test_no_threads_is_an_error(tiny_student: Bundle) -> None:
    with pytest.raises(SettingsError, match="threads must be at least 1, got 0"):
        OnnxClassifier.open(tiny_student, threads=0)


MANY_TEXTS = """
import random, re, sys
from pathlib import Path
from export.runtime.sessions import OnnxClassifier

def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

classifier = OnnxClassifier.open(sys.argv[1], threads=2)
words = "the film was lovely and dull with music".split()
draw = random.Random(0)

def answer(count):
    classifier.predict_logits([" ".join(draw.choices(words, k=draw.randrange(40))) for _ in range(count)])

answer(10_000)
before = resident_mb()
for _ in range(9):
    answer(10_000)
print(resident_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the kernel's word on memory")
def test_memory_stays_flat_over_100_000_texts_of_every_length(tiny_student: Bundle) -> None:
    command = [sys.executable, "-c", MANY_TEXTS, str(tiny_student.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12  # MB; a list of 10,000 texts and its ids are 6


WORDS = st.lists(st.sampled_from([*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS, "unheard"]), max_size=40).map(" ".join)


@settings(max_examples=60)
@given(data=st.data())
def test_no_text_and_no_split_into_batches_changes_an_answer(data: st.DataObject, int8: OnnxClassifier) -> None:
    texts = data.draw(st.lists(WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=2, max_size=40))
    cut = data.draw(st.integers(1, len(texts) - 1))
    order = data.draw(st.permutations(range(len(texts))))
    alone = int8.predict_logits(texts[:1]), int8.predict_logits(texts[-1:])
    together = int8.predict_logits(texts)
    parts = np.concatenate([int8.predict_logits(texts[:cut]), int8.predict_logits(texts[cut:])])
    mixed = np.empty_like(together)
    mixed[list(order)] = int8.predict_logits([texts[place] for place in order])
    for others in (parts, mixed):
        require_same_answers(others, together)
    require_same_answers(np.concatenate(alone), together[[0, -1]])


def require_same_answers(first: Logits, second: Logits) -> None:
    shares = [task_of("single_label_classification").probabilities(logits) for logits in (first, second)]
    assert np.abs(shares[0] - shares[1]).max() <= 1e-4
    decided = np.abs(np.diff(shares[1], axis=1))[:, 0] > 2e-4
    np.testing.assert_array_equal(first.argmax(axis=1)[decided], second.argmax(axis=1)[decided])
