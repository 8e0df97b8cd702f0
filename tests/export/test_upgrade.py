"""`potstill inspect --upgrade`: an older bundle is brought to the present schema in place, or refused and left alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_task import Outcome

from distill.bundle import Bundle

Run = Callable[..., Outcome]


def seal(path: Path, values: dict[str, Any]) -> None:
    """Write a manifest with its digest, spelled as the first version did."""

    def spelled(content: dict[str, Any]) -> bytes:
        return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    path.write_bytes(spelled({**values, "sha256": hashlib.sha256(spelled(values)).hexdigest()}))


@pytest.fixture
def first(tiny_student: Bundle, copied: Callable[[Bundle], Bundle]) -> Path:
    """Return a student with a manifest that has the keys, and no others, of the first version of potstill."""
    path = copied(tiny_student).path
    quality = {
        "accuracy": 0.99, "expected_calibration_error": 0.02, "macro_f1": 0.98, "macro_f1_interval": [0.96, 1.0],
        "num_texts": 100, "per_class": {
            "negative": {"f1": 0.98, "precision": 0.98, "recall": 0.98, "support": 50},
            "positive": {"f1": 0.98, "precision": 0.98, "recall": 0.98, "support": 50},
        },
        "split": "validation",
    }  # fmt: skip
    student = {
        "batch_size": 16, "device": "auto", "epochs": 4, "layer_rule": "spread", "layers": [], "learning_rate": 0.002,
        "max_grad_norm": 1.0, "max_length": 32, "num_layers": 2, "patience": 2, "seed": 0, "soft_weight": 0.9,
        "temperature": 2.0, "warmup_share": 0.1, "weight_decay": 0.01,
    }  # fmt: skip
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name in tiny_student.manifest.files
        if (content := (path / name).read_bytes())
    }
    values = {
        "files": files,
        "history": [{"epoch": 1.0, "loss": 0.009, "macro_f1": 1.0, "seconds": 0.18, "texts_per_second": 1649.6}],
        "instruction_set": "x86-64 avx512",
        "labels": ["negative", "positive"],
        "lineage": {
            "base_model": "tiny-bert",
            "seed": 0,
            "teacher_sha256": "1" * 64,
            "train_fingerprint": "2" * 64,
            "validation_fingerprint": "3" * 64,
        },
        "max_length": 32,
        "num_parameters": 38_562,
        "opset": 18,
        "pad_token_id": 0,
        "precisions": ["fp32", "int8"],
        "problem_type": "single_label_classification",
        "quality": {
            "fp32": {**quality, "max_abs_diff": 1e-6},
            "int8": {**quality, "agreement_with_fp32": 1.0},
            "pytorch": quality,
        },
        "role": "student",
        "schema": 1,
        "settings": {"export": {"budget_f1": 0.005, "precisions": ["fp32", "int8"]}, "student": student},
        "versions": {"numpy": "2.4.6", "potstill": "0.1.0", "torch": "2.13.0+cpu"},
    }
    seal(path / "manifest.json", values)
    return path


def test_a_bundle_of_the_first_version_answers_the_same_before_and_after(first: Path, potstill: Run) -> None:
    texts = ("a lovely film", "dull plot")
    before = potstill("predict", first, *texts)
    seen = potstill("inspect", first)
    assert (before.code, seen.code) == (0, 0)
    assert f"`potstill inspect --upgrade {first}` writes 2" in seen.out
    old = json.loads((first / "manifest.json").read_bytes())

    done = potstill("inspect", first, "--upgrade")
    assert done.code == 0
    assert "schema 1 before, 2 now" in done.err
    assert "--upgrade" not in done.out

    new = json.loads((first / "manifest.json").read_bytes())
    assert new["schema"] == 2
    kept = old.keys() - {"schema", "sha256", "files", "lineage"}
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
    assert old["lineage"].items() <= new["lineage"].items()
    assert {name for name, entry in new["files"].items() if entry != old["files"].get(name)} == {"README.md"}
    assert potstill("predict", first, *texts).out == before.out


def test_a_bundle_of_the_present_schema_is_not_touched(first: Path, potstill: Run) -> None:
    assert potstill("inspect", first, "--upgrade", "--json").code == 0
    states = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    done = potstill("inspect", first, "--upgrade", "--json")
    assert (done.code, json.loads(done.out)["schema"]) == (0, 2)
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == states


def test_a_newer_bundle_is_refused_with_both_versions(first: Path, potstill: Run) -> None:
    values = json.loads((first / "manifest.json").read_bytes())
    del values["sha256"]
    seal(first / "manifest.json", {**values, "schema": 3, "of_the_future": True})
    content = (first / "manifest.json").read_bytes()
    done = potstill("inspect", first, "--upgrade")
    assert done.code == 3
    assert "schema 3, this version of potstill reads schemas 1 to 2" in done.err
    assert (first / "manifest.json").read_bytes() == content


@pytest.mark.parametrize("damage", ["model_int8.onnx", "tokenizer.json", "manifest.json"])
def test_a_damaged_bundle_is_refused_and_left_as_it_is(first: Path, damage: str, potstill: Run) -> None:
    content = bytearray((first / damage).read_bytes())
    content[len(content) // 2] ^= 1
    (first / damage).write_bytes(content)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    done = potstill("inspect", first, "--upgrade")
    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_a_signed_bundle_keeps_its_signature(first: Path, potstill: Run) -> None:
    (first / "model.sig").write_text("{}")
    done = potstill("inspect", first, "--upgrade")
    assert (done.code, "model.sig" in done.err) == (3, True)
    assert json.loads((first / "manifest.json").read_bytes())["schema"] == 1
