"""Other tools read a bundle or its other layouts and give the same answers; each tool is run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset
from distill.labels import task_of
from export.layouts import write_layout
from export.runtime.sessions import OnnxClassifier

ROOT = Path(__file__).parents[2]
other_side = pytest.mark.other_side

READ_BY_OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
folder, name, *texts = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=name)
tokenizer = AutoTokenizer.from_pretrained(folder)
logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")).logits
print(json.dumps({"logits": logits.tolist(), "labels": [model.config.id2label[i] for i in range(logits.shape[1])]}))
"""

EXPORTED_BY_OPTIMUM = """
import sys
from distill.cli.main import main
folder, validation = sys.argv[1:]
main(["export", folder, "--validation", validation, "--exporter", "optimum", "--json"])
"""

TRITON_CONFIG = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""

READ_BY_TRANSFORMERS_JS = """
import { env, pipeline } from "@huggingface/transformers";
const [folder, dtype, ...texts] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = folder + "/";
const classify = await pipeline("text-classification", "model", { dtype });
const answers = await classify(texts, { top_k: null });
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def texts(tiny_test: Dataset) -> tuple[str, ...]:
    return tiny_test.texts[:12]


def expected_logits(bundle: Bundle, precision: Any, texts: tuple[str, ...]) -> np.ndarray:
    logits = OnnxClassifier.open(bundle, precision=precision, threads=1).predict_logits(texts)
    assert np.ptp(logits, axis=0).min() > 0.1  # else a wrong order would pass
    return logits


@other_side
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_optimum_reads_a_bundle(
    precision: str, tiny_student: Bundle, texts: tuple[str, ...], in_optimum: Callable[..., Any]
) -> None:
    answer = in_optimum(READ_BY_OPTIMUM, tiny_student.path, tiny_student.graph(precision).name, *texts)
    assert tuple(answer["labels"]) == tiny_student.labels
    np.testing.assert_allclose(answer["logits"], expected_logits(tiny_student, precision, texts), atol=1e-4)


@other_side
def test_optimum_reads_its_layout(
    tiny_student: Bundle, texts: tuple[str, ...], tmp_path: Path, in_optimum: Callable[..., Any]
) -> None:
    write_layout(tiny_student, "optimum", tmp_path / "layout")
    answer = in_optimum(READ_BY_OPTIMUM, tmp_path / "layout", "model_quantized.onnx", *texts)
    np.testing.assert_allclose(answer["logits"], expected_logits(tiny_student, "int8", texts), atol=1e-4)


@other_side
def test_optimum_as_the_writer_gives_our_labels(
    tiny_unexported: Bundle,
    tiny_student: Bundle,
    tiny_csv: Path,
    texts: tuple[str, ...],
    copied: Callable[[Bundle], Bundle],
    in_optimum: Callable[..., Any],
) -> None:
    path = copied(tiny_unexported).path
    made = in_optimum(EXPORTED_BY_OPTIMUM, path, tiny_csv)
    assert made["labels"] == list(tiny_student.labels)
    assert made["settings"]["export"]["exporter"] == "optimum"
    assert made["precisions"] == ["fp32", "int8"]
    theirs = OnnxClassifier.open(path, precision="fp32", threads=1).predict_logits(texts)
    np.testing.assert_allclose(theirs, expected_logits(tiny_student, "fp32", texts), atol=1e-4)
    int8 = OnnxClassifier.open(path, precision="int8", threads=1).predict_logits(texts)
    np.testing.assert_array_equal(int8.argmax(axis=1), theirs.argmax(axis=1))


@other_side
@pytest.mark.parametrize(("dtype", "precision"), [("fp32", "fp32"), ("q8", "int8")])
def test_transformers_js_reads_its_layout_from_disk(
    dtype: str, precision: str, tiny_student: Bundle, texts: tuple[str, ...], tmp_path: Path, in_node: Callable[..., Any]
) -> None:
    write_layout(tiny_student, "transformers.js", tmp_path / "model")
    answers = in_node(READ_BY_TRANSFORMERS_JS, tmp_path, dtype, *texts)
    scores = [{answer["label"]: answer["score"] for answer in answers_of_text} for answers_of_text in answers]
    ours = task_of(tiny_student.manifest.problem_type).probabilities(expected_logits(tiny_student, precision, texts))
    theirs = [[row[label] for label in tiny_student.labels] for row in scores]
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


@other_side
def test_triton_can_read_the_config(tiny_student: Bundle, tmp_path: Path, in_optimum: Callable[..., Any]) -> None:
    write_layout(tiny_student, "triton", tmp_path / "repository")
    config = in_optimum(TRITON_CONFIG, tmp_path / "repository" / "student" / "config.pbtxt")
    assert config["name"] == "student"
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 64
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [
        ("input_ids", "TYPE_INT64", ["-1"]),
        ("attention_mask", "TYPE_INT64", ["-1"]),
    ]
    (output,) = config["output"]
    assert output == {"name": "logits", "data_type": "TYPE_FP32", "dims": ["2"], "label_filename": "labels.txt"}


def test_transformers_reads_a_bundle(tiny_student: Bundle, texts: tuple[str, ...]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_student.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_student.path)
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt")
    assert [model.config.id2label[index] for index in range(2)] == list(tiny_student.labels)
    logits = model(**inputs).logits.detach().numpy()
    np.testing.assert_allclose(logits, expected_logits(tiny_student, "fp32", texts), atol=1e-4)


def test_ten_lines_of_the_readme_answer_without_potstill(tiny_student: Bundle, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy" / "export.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime as ort" in block]
    assert len(example.splitlines()) <= 10
    assert "potstill" not in example.replace("student", "")
    (tmp_path / "student").symlink_to(tiny_student.path)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    text = "a masterpiece of boredom"
    (row,) = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits([text])
    label, score = done.stdout.split()
    assert label == tiny_student.labels[int(row.argmax())]
    assert float(score) == pytest.approx(float(task_of("single_label_classification").probabilities(row[None]).max()), abs=1e-3)
