"""The bill of materials: valid CycloneDX by the library's own schema, true to the manifest, the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from distill.bundle import Bundle
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
