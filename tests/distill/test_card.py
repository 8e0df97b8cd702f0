"""The model card says what the manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distill.bundle import Bundle, new_bundle_folder, seal_new_bundle
from distill.card import card_text, write_card
from distill.manifest import Lineage, Manifest

QUALITY = {
    "split": "validation",
    "num_texts": 857,
    "macro_f1": 0.85432,
    "macro_f1_interval": [0.83, 0.871],
    "accuracy": 0.86,
    "expected_calibration_error": 0.041,
}


def make_bundle(folder: Path, quality: dict[str, dict[str, object]]) -> Bundle:
    manifest = Manifest(
        role="student",
        labels=("negative", "positive"),
        problem_type="single_label_classification",
        max_length=64,
        pad_token_id=0,
        num_parameters=1_234_567,
        lineage=Lineage(base_model="builtin:minilm", train_fingerprint="c" * 64, validation_fingerprint="d" * 64, seed=7),
        settings={"distill": {"temperature": 2.5}},
        quality=quality,
        versions={"potstill": "0.1.0"},
    )
    with new_bundle_folder(folder) as staged:
        (staged / "config.json").write_text("{}")
        return seal_new_bundle(folder, staged, manifest)


def test_the_card_tells_what_the_manifest_knows(tmp_path: Path) -> None:
    text = card_text(make_bundle(tmp_path, {"int8": QUALITY}).manifest)
    assert "\n---\n# A student for negative, positive\n" in text
    assert "with 1,234,567 parameters; it reads 64 tokens of a text. Made with potstill 0.1.0." in text
    assert "| int8, validation | 857 | 0.8543 | 0.8300 - 0.8710 | 0.8600 | 0.0410 |" in text
    assert f"Base model: builtin:minilm. Training texts: sha256 {'c' * 16}…, seed 7." in text
    assert '"temperature": 2.5' in text


def metadata_of(manifest: Manifest) -> Any:
    start, metadata, _ = card_text(manifest).split("---\n", 2)
    assert start == ""
    return yaml.safe_load(metadata)


def test_hubs_can_read_what_it_is(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path, {}).manifest
    assert metadata_of(manifest) == {
        "library_name": "potstill",
        "pipeline_tag": "text-classification",
        "tags": ["student", "knowledge-distillation"],
    }
    named = manifest.model_copy(update={"lineage": Lineage(base_model="google/bert-base"), "precisions": ("int8",)})
    assert metadata_of(named)["base_model"] == "google/bert-base"
    assert metadata_of(named)["tags"][-1] == "onnx"


def test_every_row_of_the_table_has_the_cells_of_its_head(tmp_path: Path) -> None:
    lines = card_text(make_bundle(tmp_path, {"pytorch": QUALITY, "fp32": QUALITY}).manifest).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_the_card_is_listed_and_can_be_renewed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, {})
    for _ in range(2):
        bundle = write_card(bundle)
        assert Bundle.open(tmp_path) == bundle
        assert bundle.file("README.md").read_text() == card_text(bundle.manifest)
