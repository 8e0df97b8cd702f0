"""The bill of materials: valid CycloneDX by the library's own schema, true to the manifest, the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from distill.bundle import Bundle
from distill.manifest import Link
from export.trust.bill_of_materials import ml_bom


def test_it_is_valid_cyclonedx(tiny_student: Bundle, tiny_teacher: Bundle) -> None:
    pytest.importorskip("cyclonedx", reason="the schema comes with the development tools")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for bundle in (tiny_student, tiny_teacher):
        assert validator.validate_str(json.dumps(ml_bom(bundle))) is None
    broken = ml_bom(tiny_student) | {"specVersion": 7}
    assert validator.validate_str(json.dumps(broken)) is not None


def test_it_names_the_teachers_of_an_ensemble_and_the_models_before(tiny_student: Bundle) -> None:
    manifest = tiny_student.manifest
    link = Link(weights_sha256="a" * 64, labels=("x",), train_fingerprint=None, seed=None)
    lineage = manifest.lineage.model_copy(update={"ensemble": ("b" * 64, "a language model"), "chain": (link,)})
    settings = {**manifest.settings, "student": {**manifest.settings["student"], "kind": "static"}}
    changed = manifest.model_copy(update={"lineage": lineage, "settings": settings})
    bom = ml_bom(replace(tiny_student, manifest=changed))
    assert bom["metadata"]["component"]["modelCard"]["modelParameters"]["architectureFamily"] == "static token vectors"
    models = {part["bom-ref"]: part for part in bom["components"] if part["type"] == "machine-learning-model"}
    assert models.keys() == {"base-model", "earlier-model-1", "teacher-1", "teacher-2"}
    assert models["earlier-model-1"]["hashes"][0]["content"] == "a" * 64
    assert models["teacher-1"]["hashes"][0]["content"] == "b" * 64
    assert models["teacher-2"]["description"] == "a language model"


def test_it_names_every_file_and_where_the_model_came_from(tiny_student: Bundle) -> None:
    bom = ml_bom(tiny_student)
    listed = {part["name"]: part["hashes"][0]["content"] for part in bom["components"] if part["type"] == "file"}
    assert listed == {name: entry.sha256 for name, entry in tiny_student.manifest.files.items()}
    (teacher,) = [part for part in bom["components"] if part["bom-ref"] == "teacher"]
    assert teacher["hashes"][0]["content"] == tiny_student.manifest.lineage.teacher_sha256
    references = {part["bom-ref"] for part in bom["components"]}
    assert set(bom["dependencies"][0]["dependsOn"]) <= references
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    (f1,) = [metric for metric in metrics if metric["type"] == "macro-F1" and metric["slice"].startswith("int8")]
    assert float(f1["value"]) == pytest.approx(tiny_student.manifest.quality["int8"]["macro_f1"], abs=5e-5)


def test_the_same_bundle_has_the_same_bill_and_another_one_another(tiny_student: Bundle, tiny_teacher: Bundle) -> None:
    assert ml_bom(tiny_student) == ml_bom(tiny_student)
    assert ml_bom(tiny_student)["serialNumber"] != ml_bom(tiny_teacher)["serialNumber"]


def test_the_command_prints_it(tiny_student: Bundle, potstill: Callable[..., object]) -> None:
    done = potstill("inspect", tiny_student.path, "--sbom")
    assert json.loads(done.out) == ml_bom(tiny_student)
