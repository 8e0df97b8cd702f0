"""Fine-tuned Hugging Face classifiers as bundles: the same logits as in transformers, or one reason why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import SIZES, SIZES_OF_DISTILBERT
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import BundleError, SettingsError, TeacherError
from distill.models.loading import load_bundle
from distill.opening import open_or_adopt
from distill.teachers.adopting import adopt

TEXTS = ["a lovely film", "dull plot and a tired actor", "the", "music " * 80]


def saved(folder: Path, tiny_model: Path, family: str = "bert", **more: Any) -> Path:
    """Save a random classifier of a family as `save_pretrained` does, with the tiny task's tokenizer."""
    sizes = SIZES_OF_DISTILBERT if family == "distilbert" else SIZES
    values = {"vocab_size": 34, "pad_token_id": 0, "max_position_embeddings": 64, "num_labels": 3, **sizes, **more}
    config = AutoConfig.for_model(family, **values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 5 if parameter.ndim == 2 else parameter.data + torch.randn_like(parameter) / 5
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "max_length"),
    [("bert", 64), ("distilbert", 64), ("roberta", 63), ("xlm-roberta", 63), ("electra", 64), ("mpnet", 62),
     ("deberta-v2", 64), ("modernbert", 64), ("albert", 64)],
)  # fmt: skip
def test_an_adopted_classifier_has_the_logits_of_transformers(
    family: str, max_length: int, tiny_model: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "hf", tiny_model, family)
    bundle = adopt(str(folder), out=tmp_path / "bundle")
    assert bundle.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (bundle.manifest.role, bundle.manifest.max_length) == ("teacher", max_length)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(
        TEXTS, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(load_bundle(bundle).predict_logits(TEXTS), expected, atol=1e-5)


def test_a_checkpoint_is_kept_in_the_cache_and_a_bundle_is_opened(
    tiny_model: Path, tiny_teacher: Bundle, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "hf", tiny_model)
    first = open_or_adopt(folder)
    sealed = (first.path / "manifest.json").stat().st_mtime_ns
    again = open_or_adopt(folder)
    assert again.path == first.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == sealed
    assert open_or_adopt(tiny_teacher.path).path == tiny_teacher.path
    with pytest.raises(SettingsError):
        open_or_adopt(tiny_teacher.path, out=tmp_path / "copy")


def hugging_face_folder(teacher: Bundle, folder: Path, labels: tuple[str, ...]) -> Path:
    """Save a trained teacher as a Hugging Face folder with other label names."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher.path, id2label=dict(enumerate(labels)))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher.path).save_pretrained(folder)
    return folder


def test_labels_without_names_are_matched_to_the_data(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    folder = hugging_face_folder(tiny_teacher, tmp_path / "hf", ("LABEL_0", "LABEL_1"))
    weights = AutoModelForSequenceClassification.from_pretrained(folder)
    weights.classifier.weight.data, weights.classifier.bias.data = (  # LABEL_0 is now positive
        weights.classifier.weight.data.flip(0),
        weights.classifier.bias.data.flip(0),
    )
    weights.save_pretrained(folder)
    bundle = adopt(str(folder), out=tmp_path / "bundle", labelled=tiny_splits.validation)
    assert bundle.labels == ("positive", "negative")
    assert json.loads((bundle.path / "config.json").read_text())["id2label"] == {"0": "positive", "1": "negative"}


def test_swapped_names_are_refused(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    folder = hugging_face_folder(tiny_teacher, tmp_path / "hf", ("positive", "negative"))
    from distill.data.sources import _with_labels

    data = _with_labels(tiny_splits.validation, ("positive", "negative"))
    with pytest.raises(TeacherError):
        adopt(str(folder), out=tmp_path / "bundle", labelled=data)
    assert not (tmp_path / "bundle").exists()


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: str = "{}") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def half_sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (without("model.safetensors"), "model.safetensors"),
        (pickled, "save_pretrained"),
        (truncated, "damaged"),
        (half_sharded, "model-00002-of-00002.safetensors"),
        (without("tokenizer.json"), "tokenizer"),
        (holding("config.json", "{"), "config.json"),
        (changed("config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (changed("config.json", problem_type="regression"), "regression"),
        (changed("config.json", id2label={"0": "a", "1": "a", "2": "b"}), "id2label"),
        (changed("config.json", model_type="no-such-model"), "no-such-model"),
        (holding("modules.json"), "potstill teacher --model"),
        (holding("model_head.pkl"), "pickle"),
        (holding("adapter_config.json"), "LoRA"),
    ],
)
def test_an_unusable_checkpoint_is_refused_with_its_reason_and_leaves_nothing(
    damage: Callable[[Path], None], fact: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "hf", tiny_model)
    damage(folder)
    with pytest.raises(BundleError) as caught:
        open_or_adopt(folder, out=tmp_path / "bundle")
    assert fact in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="vectors for 20 tokens"):
        adopt(str(saved(tmp_path / "hf", tiny_model, vocab_size=20)), out=tmp_path / "bundle")


def test_a_model_of_the_hub_is_found_in_the_local_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "hf", tiny_model)
    revision, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--someone--classifier"
    snapshot = repository / "snapshots" / revision
    for made in (snapshot, repository / "blobs", repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.move(path, repository / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"{number:040x}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert adopt("hub:someone/classifier", out=tmp_path / "bundle").manifest.lineage.base_model == "someone/classifier"
    with pytest.raises(BundleError):
        adopt("hub:someone/other", out=tmp_path / "none")
