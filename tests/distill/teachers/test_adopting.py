"""Fine-tuned Hugging Face classifiers as bundles: the same logits as in transformers, or one reason why not."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hugging_face import save_random, save_trained
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import BundleError, SettingsError, TeacherError
from distill.models.loading import load_bundle, load_pretrained
from distill.opening import open_or_adopt
from distill.progress import SilentReporter
from distill.teachers.adopting import adopt
from distill.teachers.named import classifier_named, labels_of_named

TEXTS = ["a lovely film", "dull plot and a tired actor", "the", "music " * 80]


@pytest.mark.parametrize(
    ("family", "max_length"),
    [("bert", 64), ("distilbert", 64), ("roberta", 63), ("xlm-roberta", 63), ("electra", 64), ("mpnet", 62),
     ("deberta-v2", 64), ("modernbert", 64), ("albert", 64)],
)  # fmt: skip
def test_an_adopted_classifier_has_the_logits_of_transformers(
    family: str, max_length: int, tiny_model: Path, tmp_path: Path
) -> None:
    folder = save_random(tmp_path / "hf", tiny_model, family)
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
    folder = save_random(tmp_path / "hf", tiny_model)
    first = open_or_adopt(folder)
    sealed = (first.path / "manifest.json").stat().st_mtime_ns
    again = open_or_adopt(folder)
    assert again.path == first.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == sealed
    assert open_or_adopt(tiny_teacher.path).path == tiny_teacher.path
    with pytest.raises(SettingsError):
        open_or_adopt(tiny_teacher.path, out=tmp_path / "copy")


def test_labels_without_names_are_matched_to_the_data(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("LABEL_0", "LABEL_1"), flipped=True)
    bundle = adopt(str(folder), out=tmp_path / "bundle", labelled=tiny_splits.validation)
    assert bundle.labels == ("positive", "negative")
    assert json.loads((bundle.path / "config.json").read_text())["id2label"] == {"0": "positive", "1": "negative"}


@pytest.mark.parametrize("flipped", [False, True])
def test_only_right_names_pass_the_gate(flipped: bool, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("negative", "positive"), flipped=flipped)
    data, out = tiny_splits.validation, tmp_path / "bundle"
    if not flipped:
        assert adopt(str(folder), out=out, labelled=data).labels == ("negative", "positive")
        return
    with pytest.raises(TeacherError, match="'negative' -> 'positive'"):
        adopt(str(folder), out=out, labelled=data)
    assert not out.exists()
    # What is only measured may be as bad as it is.
    assert adopt(str(folder), out=out, labelled=data, judged=False).labels == ("negative", "positive")


def test_data_with_the_names_in_another_order_are_refused(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("positive", "negative"), flipped=True)
    with pytest.raises(SettingsError, match="labels"):
        adopt(str(folder), out=tmp_path / "bundle", labelled=tiny_splits.validation, judged=False)
    assert not (tmp_path / "bundle").exists()


def test_labels_without_names_are_not_matched_by_answers_that_ignore_the_text(
    tiny_model: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    folder = save_random(tmp_path / "hf", tiny_model, num_labels=2)
    with pytest.raises(TeacherError, match="macro-F1"):
        adopt(str(folder), out=tmp_path / "bundle", labelled=tiny_splits.validation, judged=False)
    assert not (tmp_path / "bundle").exists()


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_what_labelled_texts_taught_is_kept_apart_in_the_cache(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("LABEL_0", "LABEL_1"))
    pairs = tuple((text, "the end") for text in tiny_splits.validation.texts)
    kinds = (None, tiny_splits.validation, replace(tiny_splits.validation, texts=pairs))
    made = [adopt(str(folder), labelled=data, judged=False) for data in kinds]
    assert [one.labels for one in made] == [("LABEL_0", "LABEL_1"), ("negative", "positive"), ("negative", "positive")]
    assert [one.manifest.pairs for one in made] == [None, None, "untyped"]
    heard = Heard()
    again = [adopt(str(folder), labelled=data, judged=False, reporter=heard) for data in kinds]
    assert [one.path for one in again] == [one.path for one in made]
    assert sum("adopted before" in line for line in heard.lines) == 3
    shutil.copytree(folder, tmp_path / "renamed")
    assert adopt(str(tmp_path / "renamed")).manifest.lineage.base_model == "renamed"
    assert adopt(str(folder)).manifest.lineage.base_model == "hf"


def test_a_damaged_bundle_in_the_cache_is_made_again(tiny_model: Path, tmp_path: Path) -> None:
    folder, heard = save_random(tmp_path / "hf", tiny_model), Heard()
    made = adopt(str(folder))
    weights = made.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert adopt(str(folder), reporter=heard).path == made.path
    assert weights.read_bytes() == whole
    assert any("sha256" in line and "adopted again" in line for line in heard.lines)


def test_what_a_checkpoint_leaves_open_is_said(tiny_model: Path, tmp_path: Path) -> None:
    heard = Heard()
    adopt(str(save_random(tmp_path / "hf", tiny_model)), out=tmp_path / "bundle", reporter=heard)
    assert any("LABEL_0" in line for line in heard.lines)
    assert any("pairs" in line and "--pair-column" in line for line in heard.lines)


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
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


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
        (holding("model_head.pkl"), "pickle"),
        (holding("adapter_config.json"), "LoRA"),
    ],
)
def test_an_unusable_checkpoint_is_refused_with_its_reason_and_leaves_nothing(
    damage: Callable[[Path], None], fact: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = save_random(tmp_path / "hf", tiny_model)
    damage(folder)
    with pytest.raises(BundleError) as caught:
        open_or_adopt(folder, out=tmp_path / "bundle")
    assert fact in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_the_line_that_converts_pickled_weights_converts_them(tiny_model: Path, tmp_path: Path) -> None:
    folder = save_random(tmp_path / "it's mine", tiny_model)
    expected = safetensors.torch.load_file(folder / "model.safetensors")
    pickled(folder)
    with pytest.raises(BundleError) as caught:
        adopt(str(folder), out=tmp_path / "bundle")
    python, flag, code = shlex.split(str(caught.value).partition("made them: ")[2])
    assert (python, flag) == ("python", "-c")
    exec(code, {})  # what `python -c` runs, without a start of the interpreter
    made = safetensors.torch.load_file(adopt(str(folder), out=tmp_path / "bundle").path / "model.safetensors")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize("source", ["no-such-folder", "someone/classifier"])
def test_a_folder_that_is_not_there_is_named(source: str) -> None:
    for work in (adopt, open_or_adopt):
        with pytest.raises(BundleError, match=f"{source} is not a folder") as caught:
            work(source)
        assert ("hub:someone/classifier" in str(caught.value)) == ("/" in source)


@pytest.mark.parametrize(("rows", "fact"), [(20, "vectors for 20 tokens"), (34, None), (37, None), (60, "knows 34")])
def test_a_tokenizer_of_another_vocabulary_is_refused_if_it_is_larger_and_said_if_it_is_smaller(
    rows: int, fact: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    folder, heard = save_random(tmp_path / "hf", tiny_model, vocab_size=rows), Heard()
    if rows < 34:
        with pytest.raises(BundleError, match=str(fact)):
            adopt(str(folder), out=tmp_path / "bundle")
        return
    adopt(str(folder), out=tmp_path / "bundle", reporter=heard)
    assert any("tokenizer knows 34" in line for line in heard.lines) == (fact is not None)


def test_another_languages_tokenizer_of_the_same_size_is_found_by_labelled_texts(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("negative", "positive"))
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    words = [word for word in values["model"]["vocab"] if not word.startswith("[")]
    foreign = {word: f"mot{place}" for place, word in enumerate(words)}
    values["model"]["vocab"] = {foreign.get(word, word): index for word, index in values["model"]["vocab"].items()}
    path.write_text(json.dumps(values))
    with pytest.raises(TeacherError, match="ignore the text"):
        adopt(str(folder), out=tmp_path / "bundle", labelled=tiny_splits.validation)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Return a function that moves a folder into an own hub cache, as someone/classifier, and returns its blobs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def move(folder: Path) -> Path:
        revision, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--someone--classifier"
        snapshot, blobs = repository / "snapshots" / revision, repository / "blobs"
        for made in (snapshot, blobs, repository / "refs"):
            made.mkdir(parents=True)
        (repository / "refs" / "main").write_text(revision)
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()  # the hub names large files by their sha256, small ones by git's sha1
            large = path.suffix in (".safetensors", ".bin")
            blob = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
            shutil.move(path, blobs / blob.hexdigest())
            (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.hexdigest()))
        return blobs

    return move


def test_a_model_of_the_hub_is_found_in_the_local_cache(hub: Callable[[Path], Path], tiny_model: Path, tmp_path: Path) -> None:
    blobs = hub(save_random(tmp_path / "hf", tiny_model))
    assert adopt("hub:someone/classifier", out=tmp_path / "bundle").manifest.lineage.base_model == "someone/classifier"
    with pytest.raises(BundleError, match="cannot be downloaded"):
        adopt("hub:someone/other", out=tmp_path / "none")
    (weights,) = (blob for blob in blobs.iterdir() if len(blob.name) == 64)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=f"does not match its sha256; delete {weights}"):
        adopt("hub:someone/classifier", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["someone/classifier", "hub:someone/classifier"])
def test_a_classifier_of_the_hub_is_adopted_as_a_teacher_and_an_encoder_is_fine_tuned(
    name: str, hub: Callable[[Path], Path], tiny_model: Path, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    hub(save_trained(tmp_path / "hf", tiny_teacher, tiny_teacher.labels))
    assert labels_of_named([name]) == tiny_teacher.labels
    found = classifier_named(name, labelled=tiny_splits.validation, reporter=SilentReporter())
    assert isinstance(found, Bundle)
    assert found.manifest.lineage.base_model == "someone/classifier"
    shutil.rmtree(tmp_path / "hub")
    encoder = Path(shutil.copytree(tiny_model, tmp_path / "encoder"))
    changed("config.json", architectures=["BertModel"])(encoder)
    hub(encoder)
    assert labels_of_named([name]) == ()
    assert classifier_named(name, labelled=tiny_splits.validation, reporter=SilentReporter()) is None
    assert load_pretrained(name, labels=("no", "yes"), max_length=16, seed=0).origin == "someone/classifier"
    with pytest.raises(BundleError, match="hub:someone/other cannot be downloaded"):
        labels_of_named([name.replace("classifier", "other")])


def test_a_model_of_the_hub_with_pickled_weights_only_is_refused_with_the_line_that_converts_them(
    hub: Callable[[Path], Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_random(tmp_path / "hf", tiny_model)
    pickled(folder)
    hub(folder)
    with pytest.raises(BundleError, match=r"hub:someone/classifier has no safetensors") as caught:
        adopt("hub:someone/classifier", out=tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    exec(shlex.split(str(caught.value).partition("made them: ")[2])[2], {})
    assert adopt("classifier", out=tmp_path / "bundle").manifest.max_length == 64
