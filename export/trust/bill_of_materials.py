"""A bundle's bill of materials: CycloneDX 1.6 with a model card, written from the manifest alone.

It lists the model, its ancestors, data and libraries, its metrics, and the SHA-256 of every file. It contains no time and no
random number, so that the same bundle always has the same bill.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from distill.bundle import MANIFEST, Bundle
from distill.storage import sha256_of

# Names of quality figures in the manifest -> their names in the bill.
_METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "expected_calibration_error": "expected calibration error"}


def ml_bom(bundle: Bundle) -> dict[str, Any]:
    """Return the bill of materials as JSON values, valid under the CycloneDX 1.6 schema."""
    manifest = bundle.manifest
    digest = sha256_of(bundle.path / MANIFEST)
    made_with = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
        }
        for name, version in sorted(manifest.versions.items())
    ]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
            "properties": [{"name": "potstill:size_bytes", "value": str(entry.size_bytes)}],
        }
        for name, entry in sorted(manifest.files.items())
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {"component": _model(bundle, digest)},
        "components": [*_ancestors(bundle), *files, *made_with],
        "dependencies": [{"ref": "model", "dependsOn": sorted(part["bom-ref"] for part in _ancestors(bundle))}],
    }


def _model(bundle: Bundle, digest: str) -> dict[str, Any]:
    manifest = bundle.manifest
    settings = [
        {"name": f"potstill:{stage}:{name}", "value": str(value)}
        for stage, values in sorted(manifest.settings.items())
        for name, value in sorted(values.items())
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": f"{manifest.role} for {', '.join(manifest.labels)}",
        "version": digest[:12],
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "properties": [
            {"name": "potstill:num_parameters", "value": str(manifest.num_parameters)},
            {"name": "potstill:precisions", "value": ", ".join(manifest.precisions)},
            {"name": "potstill:instruction_set", "value": str(manifest.instruction_set)},
            {"name": "potstill:seed", "value": str(manifest.lineage.seed)},
            *settings,
        ],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "text classification",
                "architectureFamily": "static token vectors" if manifest.is_static else "transformer",
                "modelArchitecture": manifest.lineage.base_model,
                "datasets": [{"ref": part["bom-ref"]} for part in _datasets(bundle)],
                "inputs": [{"format": f"text, {manifest.max_length} tokens are read"}],
                "outputs": [{"format": f"{manifest.problem_type}: {', '.join(manifest.labels)}"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(bundle)},
        },
    }


def _metrics(bundle: Bundle) -> list[dict[str, Any]]:
    return [
        _metric(figures, key, form)
        for form, figures in sorted(bundle.manifest.quality.items())
        for key in _METRICS
        if key in figures
    ]


def _metric(figures: Mapping[str, Any], key: str, form: str) -> dict[str, Any]:
    low, high = figures.get(f"{key}_interval") or (None, None)
    interval = {} if low is None else {"confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"}}
    return {
        "type": _METRICS[key],
        "value": f"{figures[key]:.4f}",
        "slice": f"{form}, {figures.get('split', 'validation')}",
        **interval,
    }


def _ancestors(bundle: Bundle) -> list[dict[str, Any]]:
    lineage = bundle.manifest.lineage
    models: list[dict[str, Any]] = [{"bom-ref": "base-model", "name": lineage.base_model}]
    earlier = {f"earlier-model-{number}": link.weights_sha256 for number, link in enumerate(lineage.chain, start=1)}
    teachers = {f"teacher-{number}": name for number, name in enumerate(lineage.ensemble, start=1)}
    if lineage.teacher_sha256 and not teachers:
        teachers = {"teacher": lineage.teacher_sha256}
    models += [
        {"bom-ref": ref, "name": ref.replace("-", " "), **_identity(name)} for ref, name in {**earlier, **teachers}.items()
    ]
    return [*({"type": "machine-learning-model", **model} for model in models), *_datasets(bundle)]


def _identity(name: str) -> dict[str, Any]:
    """Return a model's digest, or the name of one that has none."""
    is_digest = len(name) == 64 and not name.strip("0123456789abcdef")
    return {"hashes": [{"alg": "SHA-256", "content": name}]} if is_digest else {"description": name}


def _datasets(bundle: Bundle) -> list[dict[str, Any]]:
    lineage = bundle.manifest.lineage
    known = {
        "training texts": lineage.train_fingerprint,
        "validation texts": lineage.validation_fingerprint,
        "unlabelled texts": lineage.unlabeled_fingerprint,
    }
    return [
        {"type": "data", "bom-ref": name.replace(" ", "-"), "name": name, "version": fingerprint}
        for name, fingerprint in known.items()
        if fingerprint
    ]
