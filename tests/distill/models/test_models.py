"""Loading classifiers from every source, and saving them so that other tools can load them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoTokenizer

from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import BundleError, DatasetError, SettingsError
from distill.models.eager import EagerClassifier
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier, require_max_length, write_model_files

Make = Callable[..., TorchClassifier]
LABELS = ("negative", "positive")
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm", "it was cold with awful music", "")


def load(folder: Path, *, max_length: int = 32, labels: tuple[str, ...] = LABELS, seed: int = 0) -> TorchClassifier:
    return load_pretrained(str(folder), labels=labels, max_length=max_length, seed=seed)


def head_of(classifier: TorchClassifier) -> torch.Tensor:
    return classifier.model.classifier.weight.detach()


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model's folder, to be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


def test_a_folder_loads_with_the_encoder_it_holds(tiny_model: Path) -> None:
    classifier = load(tiny_model)
    stored = safetensors.torch.load_file(tiny_model / "model.safetensors")
    ours = classifier.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in stored.items() if name.startswith("bert."))
    assert classifier.labels == LABELS
    assert classifier.origin == "tiny-bert"
    assert classifier.model.config.id2label == {0: "negative", 1: "positive"}


def test_a_new_head_is_drawn_from_the_seed(tiny_model: Path) -> None:
    three = ("a", "b", "c")  # the folder's head has two labels
    one, again, other = (load(tiny_model, labels=three, seed=seed) for seed in (1, 1, 2))
    assert head_of(one).shape == (3, 64)
    assert torch.equal(head_of(one), head_of(again))
    assert not torch.equal(head_of(one), head_of(other))


@pytest.mark.usefixtures("torch_left_alone")
def test_loading_spends_none_of_the_callers_randomness(tiny_model: Path, tiny_teacher: Bundle) -> None:
    load(tiny_model, labels=("a", "b", "c"))
    load_bundle(tiny_teacher)
    EagerClassifier(tiny_teacher, threads=1).predict_logits(TEXTS)


def test_a_bundle_loads_as_what_was_sealed(tiny_teacher: Bundle, tiny_test: Dataset) -> None:
    from_manifest, from_folder = load_bundle(tiny_teacher), load(tiny_teacher.path)
    texts = tiny_test.texts[:20]
    np.testing.assert_array_equal(from_manifest.predict_logits(texts), from_folder.predict_logits(texts))
    assert from_manifest.labels == tiny_teacher.labels
    assert from_manifest.origin == "tiny-bert"
    assert from_manifest.tokenizer.max_length == tiny_teacher.manifest.max_length
    assert not from_manifest.model.training


def test_a_damaged_bundle_is_not_loaded_as_a_folder(copied: Callable[[Bundle], Bundle], tiny_teacher: Bundle) -> None:
    bundle = copied(tiny_teacher)
    weights = bytearray(bundle.weights().read_bytes())
    weights[-1] ^= 1
    bundle.weights().write_bytes(weights)
    with pytest.raises(BundleError, match=r"model\.safetensors has sha256"):
        load(bundle.path)


def test_pickled_weights_are_never_loaded(broken: Path) -> None:
    torch.save(safetensors.torch.load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors.*pickled"):
        load(broken)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _rename_weights(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    renamed = {name.replace("bert.", "other."): tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def _add_a_word(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["unheard"] = 34  # the model has vectors for 0 to 33
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_empty, "cannot load a model from"),
        (lambda folder: (folder / "config.json").write_text("{nope"), "not a valid JSON file"),
        (lambda folder: _change_config(folder, model_type="quux"), "model type `quux`"),
        (_cut_weights, "incomplete metadata"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'), "cannot load a model from"),
        # Each of these, transformers loads without a word, and fills the gap at random.
        (_rename_weights, "weights of the encoder"),
        (lambda folder: _change_config(folder, num_hidden_layers=5), r"16 weights .*bert\.encoder\.layer\.4\."),
        (lambda folder: _change_config(folder, vocab_size=40), r"bert\.embeddings\.word_embeddings\.weight"),
        (_without_tokenizer, "has no tokenizer files"),
        (_add_a_word, "ids up to 34, .* 34 tokens"),
    ],
    ids=[
        "empty folder",
        "config no JSON",
        "unknown architecture",
        "cut weights",
        "odd tokenizer",
        "weights of another model",
        "a layer too few",
        "another vocabulary",
        "no tokenizer",
        "another tokenizer",
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(damage: Callable[[Path], Any], said: str, broken: Path) -> None:
    damage(broken)
    with pytest.raises(BundleError, match=said):
        load(broken)


def test_a_name_that_is_nowhere_is_refused_with_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"/nowhere.*config\.json, model\.safetensors"):
        load(tmp_path / "nowhere")


def test_a_model_without_a_pooler_gets_a_new_one(broken: Path) -> None:
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".pooler." not in name and not name.startswith("classifier")}
    safetensors.torch.save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    assert load(broken).predict_logits(TEXTS).shape == (5, 2)


def test_more_tokens_than_positions_are_refused(tiny_model: Path) -> None:
    assert load(tiny_model, max_length=64).tokenizer.max_length == 64
    with pytest.raises(SettingsError, match=r"65.* 64 .*--max-length"):
        load(tiny_model, max_length=65)


def test_robertas_positions_start_after_the_padding(make_classifier: Make) -> None:
    # Position ids run from pad + 1: of 64 rows, 62 are left when the padding id is 1.
    config = make_classifier("roberta").model.config
    config.pad_token_id = 1
    require_max_length(config, 62)
    with pytest.raises(SettingsError, match=r"63.* 62 tokens"):
        require_max_length(config, 63)


def test_a_text_of_max_length_tokens_is_answered_by_every_family(make_classifier: Make) -> None:
    long = ("film " * 100,)
    assert np.isfinite(make_classifier("bert", max_length=64).predict_logits(long)).all()
    assert np.isfinite(make_classifier("roberta", max_length=63).predict_logits(long)).all()  # padding id 0
    assert np.isfinite(make_classifier("distilbert", max_length=64).predict_logits(long)).all()


def test_logits_keep_the_order_of_the_texts_and_do_not_depend_on_company(make_classifier: Make, tiny_test: Dataset) -> None:
    classifier = make_classifier()
    texts = tiny_test.texts[:50]
    together = classifier.predict_logits(texts)
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 1e-2  # else a wrong order would pass


def test_no_texts_give_no_rows(make_classifier: Make, tiny_teacher: Bundle) -> None:
    assert make_classifier().predict_logits([]).shape == (0, 2)
    assert EagerClassifier(tiny_teacher).predict_logits([]).shape == (0, 2)


def test_what_is_not_text_is_refused(make_classifier: Make) -> None:
    with pytest.raises(DatasetError, match="text 1 is NoneType"):
        make_classifier().predict_logits(["a film", None])  # type: ignore[list-item]


def test_asking_a_model_in_training_leaves_it_in_training_and_without_dropout(make_classifier: Make) -> None:
    classifier = make_classifier(hidden_dropout_prob=0.5)
    calm = classifier.predict_logits(TEXTS)
    classifier.model.train()
    np.testing.assert_array_equal(classifier.predict_logits(TEXTS), calm)
    assert classifier.model.training


def test_the_digest_tells_what_decides_the_logits(make_classifier: Make) -> None:
    classifier = make_classifier()
    before = classifier.digest()
    assert make_classifier().digest() == before
    assert replace(classifier, tokenizer=classifier.tokenizer.with_max_length(8)).digest() != before
    with torch.no_grad():
        classifier.model.classifier.bias[0] += 1e-3
    assert classifier.digest() != before


def test_a_plain_transformers_tokenizer_reads_the_same_ids(make_classifier: Make, tiny_test: Dataset, tmp_path: Path) -> None:
    classifier = make_classifier(max_length=32)
    short = replace(classifier, tokenizer=classifier.tokenizer.with_max_length(9))
    write_model_files(short, tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, *tiny_test.texts[:20], "unheard words , DULL Film"]
    ids = plain(texts, truncation=True)["input_ids"]
    assert ids == [row.tolist() for row in short.tokenizer.encode(texts)]
    assert max(map(len, ids)) == 9 == plain.model_max_length
    assert plain.pad_token_id == short.tokenizer.pad_id
    assert set(plain("dull")) == {"input_ids", "attention_mask"}


def test_no_file_of_a_bundle_names_a_path_of_this_machine(tiny_student: Bundle, tiny_teacher: Bundle, tiny_model: Path) -> None:
    foreign = [str(tiny_model.parent).encode(), str(Path.home()).encode() + b"/", b"site-packages", b"/tmp/"]
    for bundle in (tiny_teacher, tiny_student):
        files = sorted(bundle.path.iterdir())
        assert {file.name for file in files} >= {"manifest.json", "config.json", "README.md", "model.safetensors"}
        for file in files:
            content = file.read_bytes()
            assert not [needle for needle in foreign if needle in content], file.name


def test_the_eager_classifier_answers_as_the_bundle(tiny_unexported: Bundle, tiny_test: Dataset) -> None:
    texts = tiny_test.texts[:20]
    eager = EagerClassifier(tiny_unexported, threads=1)
    assert eager.labels == LABELS
    np.testing.assert_allclose(eager.predict_logits(texts), load_bundle(tiny_unexported).predict_logits(texts), atol=1e-5)


def test_the_builtin_encoder_loads() -> None:
    classifier = load_pretrained("builtin:minilm", labels=LABELS, max_length=128, seed=0)
    assert classifier.origin == "builtin:minilm"
    assert classifier.model.config.num_hidden_layers == 6
    assert classifier.num_parameters() == 22_713_216 + 2 * 384 + 2  # as published, and a new head
    rows = classifier.tokenizer.encode(["a masterpiece of boredom", "word " * 200])
    assert rows[0].tolist() == [101, 1037, 17743, 1997, 29556, 102]
    assert len(rows[1]) == 128
