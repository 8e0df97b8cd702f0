"""The model card: a bundle's `README.md`, written from its manifest alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distill.bundle import CARD, Bundle
from distill.manifest import Lineage, Manifest
from distill.storage import write_atomically

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES_WORDS = "`config.json`, `model.safetensors` and the tokenizer files load with plain `transformers`."
_STATIC_WORDS = (
    "A static student: it has no layers, is none of the models that `transformers` knows, and loads with potstill only."
)


def write_card(
    bundle: Bundle, files: Mapping[str, Path] = MappingProxyType({}), *, dropping: Set[str] = frozenset(), **changes: Any
) -> Bundle:
    """Change a bundle as `Bundle.adding` does, and write the card of the changed bundle in the same step."""
    with bundle.staging() as folder:
        write_atomically(folder / CARD, card_text(bundle.manifest.model_copy(update=changes)))
        return bundle.adding({**files, CARD: folder / CARD}, dropping=dropping, **changes)


def card_text(manifest: Manifest) -> str:
    """Return the card as Markdown."""
    lines = [
        *_front_matter(manifest),
        f"# A {manifest.role} for {', '.join(manifest.labels)}",
        "",
        f"A text classifier ({manifest.problem_type}) with {manifest.num_parameters:,} parameters; it reads "
        f"{manifest.max_length} tokens of a text. Made with potstill {manifest.versions.get('potstill', '')}.",
        "",
        "| figure set | texts | macro-F1 | 95 % interval | accuracy | calibration error |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, quality in manifest.quality.items():
        low, high = quality["macro_f1_interval"]
        lines.append(
            f"| {name}, {quality['split']} | {quality['num_texts']} | {quality['macro_f1']:.4f} | {low:.4f} - {high:.4f} "
            f"| {quality['accuracy']:.4f} | {quality['expected_calibration_error']:.4f} |"
        )
    lines += [
        "",
        f"Base model: {manifest.lineage.base_model}. {_origin_words(manifest.lineage)}",
        "",
        _STATIC_WORDS if manifest.is_static else _FILES_WORDS,
        "",
        "```json",
        json.dumps(manifest.settings, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def _front_matter(manifest: Manifest) -> list[str]:
    """Return the metadata that model hubs read, as YAML; JSON strings are YAML."""
    base = manifest.lineage.base_model
    tags = [
        manifest.role,
        *(["knowledge-distillation"] if manifest.role == "student" else []),
        *(["onnx"] if manifest.precisions else []),
    ]
    return [
        "---",
        "library_name: potstill",
        "pipeline_tag: text-classification",
        # Hubs refuse a base model that is not the name of a repository.
        *([f"base_model: {json.dumps(base)}"] if _REPOSITORY.fullmatch(base) else []),
        f"tags: {json.dumps(tags)}",
        "---",
    ]


def _origin_words(lineage: Lineage) -> str:
    if lineage.train_fingerprint is None:
        return "Adopted from a fine-tuned Hugging Face checkpoint; its training texts are not known."
    return f"Training texts: sha256 {lineage.train_fingerprint[:16]}…, seed {lineage.seed}."
