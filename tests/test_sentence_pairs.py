"""Sentence pairs from a file to the int8 graph: the label is the mood of the second text, whatever the first one says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from tiny_task import BAD_WORDS, GOOD_WORDS, Outcome, tiny_texts

from distill.bundle import Bundle
from distill.classifier import predict
from distill.data import Dataset, Splits, load_splits
from distill.errors import SettingsError
from distill.evaluation.floors import TfidfClassifier
from distill.evaluation.metrics import macro_f1
from distill.models.eager import EagerClassifier
from distill.models.loading import load_bundle
from distill.settings import DataSettings, DistillSettings
from distill.teacher_settings import TeacherSettings
from distill.teachers.answer_store import keys_of
from distill.teachers.recorded import ScoredTable
from distill.training.distillation import fit_student
from distill.training.fine_tuning import fit_teacher
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

COLUMNS = DataSettings(text_column="question", pair_column="answer", validation_share=0.2)


def pair_rows(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Return (first text, second text, label of the second)."""
    texts = tiny_texts(2 * count, seed=seed)
    order = np.random.default_rng(seed).permutation(len(texts))
    halves = zip(order[:count], order[count:], strict=True)
    return [(" ".join(texts[one][0].split()[:6]), *texts[other]) for one, other in halves]


@pytest.fixture(scope="module")
def pairs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("\n".join(["question,answer,label", *map(",".join, pair_rows(400, seed=3))]) + "\n")
    return path


@pytest.fixture(scope="module")
def splits(pairs_csv: Path) -> Splits:
    return load_splits(COLUMNS.model_copy(update={"train": (str(pairs_csv),)}))


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = pair_rows(150, seed=4)
    ids = np.array([("negative", "positive").index(label) for *_, label in rows])
    return Dataset(tuple((first, second) for first, second, _ in rows), ids, ("negative", "positive"), "test")


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = TeacherSettings(epochs=8, learning_rate=2e-3, max_length=48, batch_size=16)
    out = tmp_path_factory.mktemp("pairs") / "teacher"
    return fit_teacher(str(tiny_model), train=splits.train, validation=splits.validation, out=out, settings=settings)


@pytest.fixture(scope="module")
def unexported(teacher: Bundle, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = DistillSettings(
        epochs=6, learning_rate=2e-3, batch_size=16, num_layers=2, intermediate_size=96, augment=1, quantization_aware_epochs=1
    )
    out = tmp_path_factory.mktemp("pairs") / "student"
    return fit_student(teacher, train=splits.train, validation=splits.validation, out=out, settings=settings)


@pytest.fixture(scope="module")
def student(unexported: Bundle, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    copy = tmp_path_factory.mktemp("pairs") / "exported"
    shutil.copytree(unexported.path, copy)
    return export_bundle(Bundle.open(copy), validation=splits.validation, settings=ExportSettings(min_agreement=0.9))


def swapped(data: Dataset) -> list[tuple[str, str]]:
    return [(text[1], text[0]) for text in data.texts if isinstance(text, tuple)]


def test_teacher_and_student_learn_which_text_of_a_pair_decides(teacher: Bundle, unexported: Bundle, test: Dataset) -> None:
    for bundle in (teacher, unexported):
        assert bundle.manifest.pairs == "typed"
        classifier = load_bundle(bundle)
        assert macro_f1(test.label_ids, classifier.predict_logits(test.texts)) > 0.9
        turned = classifier.predict_logits(swapped(test)).argmax(axis=1)
        first = np.array([mood_of(text[0]) for text in test.texts])
        assert np.mean(turned == first) > 0.75  # short texts: a hint of their mood is all there is
    assert macro_f1(test.label_ids, TfidfClassifier(test).predict_logits(test.texts)) > 0.5


def mood_of(text: str) -> int:
    """Return 1 if the text has more good words than bad ones."""
    words = text.split()
    good, bad = (sum(word in known for word in words) for known in (GOOD_WORDS, BAD_WORDS))
    return int(good > bad)


def test_the_graphs_take_token_types_and_answer_like_transformers(student: Bundle, test: Dataset) -> None:
    for precision, file in (("fp32", "model.onnx"), ("int8", "model_int8.onnx")):
        graph = onnx.load(student.path / file)
        assert [given.name for given in graph.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
        logits = OnnxClassifier.open(student, precision=precision).predict_logits(test.texts)
        assert macro_f1(test.label_ids, logits) > 0.9
    by_transformers = np.concatenate([EagerClassifier(student).predict_logits([text]) for text in test.texts])
    graph_logits = OnnxClassifier.open(student, precision="fp32").predict_logits(test.texts)
    assert np.abs(by_transformers - graph_logits).max() < 1e-4


def test_the_portable_writer_takes_token_types(unexported: Bundle, splits: Splits, test: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "portable"
    shutil.copytree(unexported.path, copy)
    settings = ExportSettings(precisions=("fp32",), exporter="portable")
    exported = export_bundle(Bundle.open(copy), validation=splits.validation, settings=settings)
    logits = OnnxClassifier.open(exported).predict_logits(test.texts)
    assert np.abs(logits - load_bundle(unexported).predict_logits(test.texts)).max() < 1e-4


@pytest.mark.parametrize("kind", ["static", "encoder"])
def test_other_students_learn_pairs(kind: str, teacher: Bundle, splits: Splits, test: Dataset, tmp_path: Path) -> None:
    given = {"kind": "static"} if kind == "static" else {"num_layers": 1, "embedding_size": 32, "embedding_window": 3}
    settings = DistillSettings.model_validate({"epochs": 2, "learning_rate": 2e-3, **given})
    made = fit_student(teacher, train=splits.train, validation=splits.validation, out=tmp_path / "out", settings=settings)
    assert made.manifest.pairs == ("untyped" if kind == "static" else "typed")
    exported = export_bundle(made, validation=splits.validation, settings=ExportSettings(precisions=("fp32",)))
    logits = OnnxClassifier.open(exported).predict_logits(test.texts)
    assert np.abs(logits - load_bundle(made).predict_logits(test.texts)).max() < 1e-4


def test_a_model_of_single_texts_refuses_pairs_that_need_token_types(tiny_teacher: Bundle, test: Dataset) -> None:
    with pytest.raises(SettingsError, match="--pair-column"):
        load_bundle(tiny_teacher).predict_logits(test.texts)


def test_the_command_predicts_pairs_of_a_file(potstill: Callable[..., Outcome], student: Bundle, pairs_csv: Path) -> None:
    flags = ("--text-column", "question", "--pair-column", "answer")
    done = potstill("predict", str(student.path), "--input", str(pairs_csv), *flags, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["predictions"]
    rows = [tuple(line.split(",")) for line in pairs_csv.read_text().splitlines()[1:]]
    assert [tuple(each["text"]) for each in found] == [row[:2] for row in rows]
    expected = predict(OnnxClassifier.open(student), [(first, second) for first, second, _ in rows])
    assert [each["label"] for each in found] == [each.label for each in expected]
    assert np.mean([each["label"] == row[2] for each, row in zip(found, rows, strict=True)]) > 0.9


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_of_a_large_file_are_scored_in_parts(
    potstill: Callable[..., Outcome], student: Bundle, pairs_csv: Path, tmp_path: Path, suffix: str
) -> None:
    rows = [tuple(line.split(",")) for line in pairs_csv.read_text().splitlines()[1:]][:90]
    rows[7] = (rows[7][0], " ", "positive")  # no second text
    source, out = tmp_path / f"in.{suffix}", tmp_path / "out"
    table = pa.table(dict(zip(("question", "answer", "label"), zip(*rows, strict=True), strict=True)))
    if suffix == "parquet":
        pq.write_table(table, source)
    else:
        csv.write_csv(table, source)
    flags = ("--text-column", "question", "--pair-column", "answer", "--logits", "--part-rows", "32")
    kept = ("--columns", "question", "--columns", "answer", "--answer-prefix", "found_")
    done = potstill("score", student.path, "--input", source, "--output", out, *flags, *kept)
    assert done.code == 0, done.err
    scored = pq.read_table(out, filters=None)
    good = [(first, second) for first, second, _ in rows if second.strip()]
    assert list(zip(scored["question"].to_pylist(), scored["answer"].to_pylist(), strict=True)) == good
    expected = OnnxClassifier.open(student).predict_logits(good)
    assert np.abs(np.array(scored["found_logits"].to_pylist()) - expected).max() < 1e-5
    (reason,) = pq.read_table(out / "_quarantine")["reason"].to_pylist()
    assert "answer" in reason
    # A student can learn from them: they are found by pair.
    found, logits = ScoredTable.open(out).store().find(keys_of(good))
    assert found.all()
    assert np.abs(logits - expected).max() < 1e-5


def test_a_command_trains_on_a_file_of_pairs(
    potstill: Callable[..., Outcome], tiny_model: Path, pairs_csv: Path, tmp_path: Path
) -> None:
    flags = ("--text-column", "question", "--pair-column", "answer", "--train", pairs_csv, "--epochs", 1, "--json")
    done = potstill("teacher", "--model", tiny_model, *flags, "--max-length", 48, "--out", tmp_path / "teacher")
    assert done.code == 0, done.err
    assert Bundle.open(tmp_path / "teacher").manifest.pairs == "typed"
