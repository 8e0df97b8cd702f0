"""A user's own file through every stage of the README, and what each stage leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from export.runtime.sessions import OnnxClassifier

Run = Callable[..., Outcome]
BATCH_SIZE = 32


@pytest.mark.slow
def test_a_users_file_goes_through_every_stage(potstill: Run, tiny_model: Path, tmp_path: Path) -> None:
    train, test = (
        write_csv(tmp_path / "reviews.csv", tiny_texts(400)),
        write_csv(tmp_path / "test.csv", tiny_texts(200, seed=1)),
    )
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    fast = ("--learning-rate", 2e-3, "--batch-size", 16, "--test", test)

    done = potstill(
        "teacher", "--model", tiny_model, "--train", train, "--out", teacher, "--max-length", 32, "--epochs", 6, *fast
    )
    assert done.code == 0, done.err
    assert re.search(r"epoch 1\b", done.err)
    files = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert all(each in done.out for each in (str(teacher), *files))

    done = potstill("distill", teacher, "--train", train, "--out", student, "--num-layers", 2, "--epochs", 4, "--json", *fast)
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert (made["bundle"], made["role"], made["labels"]) == (str(student), "student", ["negative", "positive"])
    assert made["lineage"]["teacher_sha256"] == Bundle.open(teacher).manifest.files["model.safetensors"].sha256
    assert made["num_parameters"] < Bundle.open(teacher).manifest.num_parameters

    done = potstill("export", student, "--train", train, "--test", test)
    assert done.code == 0, done.err
    assert "fp32" in done.err
    assert "PyTorch" in done.err
    quality = Bundle.open(student).manifest.quality
    assert quality["fp32"]["macro_f1"] - quality["int8"]["macro_f1"] <= 0.005
    assert quality["int8"]["num_texts"] == 24  # of the 40 texts of --train that training never saw; the other 16 calibrate int8
    assert f"{quality['int8']['macro_f1']:.4f}" in done.out

    done = potstill("eval", student, "--teacher", teacher, "--test", test, "--json")
    assert done.code == 0, done.err
    of_teacher, of_student = json.loads(done.out)["rows"]
    assert of_teacher["macro_f1"] > 0.9
    assert of_student["retention"] == pytest.approx(of_student["macro_f1"] / of_teacher["macro_f1"])
    assert of_student["retention"] > 0.97

    quick = ("--rounds", 3, "--texts-per-round", 30, "--settle-s", 0.1, "--throughput-rounds", 3, "--throughput-texts", 64)
    done = potstill("bench", student, "--teacher", teacher, "--test", test, "--json", *quick)
    assert done.code == 0, done.err
    of_teacher, of_student = json.loads(done.out)["rows"]
    assert (of_teacher["runtime"], of_student["runtime"], of_student["precision"]) == ("pytorch", "onnxruntime", "int8")
    assert of_teacher["p50_ratio_teacher"] == 1
    assert of_student["p50_ratio_teacher"] > 1
    assert of_student["size_bytes"] < of_teacher["size_bytes"]
    assert of_student["peak_rss_bytes"] < of_teacher["peak_rss_bytes"]

    done = potstill("predict", student, "a lovely great warm film", "the dull stale awful plot")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["positive", "negative"]

    done = potstill("export", student, "--train", train, "--test", test, "--strip")
    assert done.code == 0, done.err
    done = potstill("inspect", student)
    assert done.code == 0
    assert "model.safetensors" not in done.out.partition("```json")[2]
    assert str(student) in done.out


def test_labels_do_not_depend_on_the_batch(tiny_student: Bundle, tiny_splits: object) -> None:
    texts = [text for text, _ in tiny_texts(200, seed=1)]
    for precision in ("fp32", "int8"):
        classifier = OnnxClassifier.open(tiny_student, precision=precision)
        alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
        together = np.concatenate(
            [classifier.predict_logits(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]
        )
        assert (alone.argmax(axis=1) == together.argmax(axis=1)).all()
        np.testing.assert_allclose(together, alone, atol=1e-4)
