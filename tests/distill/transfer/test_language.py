"""A vocabulary of its own for another language: the tokenizer, the vectors it begins with, and what is left frozen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data import Dataset
from distill.errors import SettingsError
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.teacher_settings import TeacherSettings
from distill.tokenization import TextTokenizer
from distill.training.fine_tuning import fit_teacher
from distill.training.origin import Origin
from distill.transfer.adapt import SPECIAL, trained_tokenizer, with_new_vocabulary

GOOD, BAD = "不错", "很差"
THINGS = ("酒店", "服务", "书", "质量", "film")


def reviews(count: int, *, seed: int) -> Dataset:
    """Return reviews without spaces: of some things, each good or bad."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(2, size=count)
    texts = tuple("".join([*generator.choice(THINGS, 2), (BAD, GOOD)[label], *generator.choice(THINGS, 1)]) for label in ids)
    return Dataset(texts, ids, ("negative", "positive"), "reviews")


def loaded(folder: Path) -> TorchClassifier:
    return load_pretrained(str(folder), labels=("negative", "positive"), max_length=32, seed=0)


def pieces(content: str, text: str) -> list[str]:
    tokenizer = TextTokenizer.from_json(content, max_length=32, pad_id=0)
    names = {index: token for token, index in tokenizer.vocabulary().items()}
    return [names[index] for index in tokenizer.encode([text])[0].tolist()]


def test_pieces_are_the_strings_that_are_common() -> None:
    texts = [*reviews(200, seed=0).texts, *[f"酒店,{GOOD}"] * 5]
    content = trained_tokenizer(texts, size=100)
    assert list(json.loads(content)["model"]["vocab"])[:5] == list(SPECIAL)
    spelt = pieces(content, f"书{GOOD}")
    assert (spelt[0], spelt[-1]) == ("[CLS]", "[SEP]")
    assert any(GOOD in piece for piece in spelt)  # two characters, one piece
    assert pieces(content, f"酒店,{GOOD}")[1:-1] == ["▁酒店", ",", GOOD]  # punctuation ends a word
    assert "[UNK]" in pieces(content, "锅")  # a character that no text had
    assert content == trained_tokenizer(texts, size=100)


def test_a_token_of_both_vocabularies_keeps_its_vector_and_the_others_look_like_the_old(tiny_model: Path) -> None:
    before = loaded(tiny_model)
    texts = (*reviews(100, seed=0).texts, *["a film"] * 20)
    after = with_new_vocabulary(before, texts, size=100, seed=0)
    old, new = before.tokenizer.vocabulary(), after.tokenizer.vocabulary()
    both = {token: token.removeprefix("▁") for token in new if token.removeprefix("▁") in old}
    assert {*SPECIAL, "film", "▁film"} <= set(both)
    assert GOOD not in old
    vectors = before.input_vectors(), after.input_vectors()
    for token, word in both.items():
        np.testing.assert_array_equal(vectors[1][new[token]], vectors[0][old[word]])
    drawn = np.array([vectors[1][index] for token, index in new.items() if token not in both])
    assert drawn.std() == pytest.approx(vectors[0].std(), rel=0.1)
    assert after.model.config.vocab_size == after.tokenizer.vocabulary_size == len(vectors[1])
    np.testing.assert_array_equal(vectors[1], with_new_vocabulary(before, texts, size=100, seed=0).input_vectors())
    assert not np.array_equal(vectors[1], with_new_vocabulary(before, texts, size=100, seed=1).input_vectors())
    for name, weight in after.model.state_dict().items():
        if "word_embeddings" not in name:
            torch.testing.assert_close(weight, before.model.state_dict()[name], rtol=0, atol=0)


def test_a_tokenizer_without_berts_special_tokens_is_refused(tiny_model: Path) -> None:
    classifier = loaded(tiny_model)
    content = classifier.tokenizer.to_json().replace("[MASK]", "<mask>")
    classifier.tokenizer = TextTokenizer.from_json(content, max_length=32, pad_id=0)
    with pytest.raises(SettingsError, match=r"\[MASK\].*--new-vocabulary"):
        with_new_vocabulary(classifier, ["一"], size=100, seed=0)
    with pytest.raises(SettingsError, match="--new-vocabulary"):
        trained_tokenizer([], size=100)


def test_another_language_is_learnt_over_frozen_layers_and_the_bundle_speaks_it(tiny_model: Path, tmp_path: Path) -> None:
    train, validation, test = (reviews(count, seed=seed) for seed, count in enumerate((400, 40, 100)))
    settings = TeacherSettings(
        new_vocabulary=100, freeze_body=True, epochs=8, learning_rate=5e-3, max_length=32, batch_size=16, patience=8
    )
    bundle = fit_teacher(
        str(tiny_model),
        train=train,
        validation=validation,
        out=tmp_path / "chinese",
        settings=settings,
        origin=Origin(adapt_texts=reviews(64, seed=9).texts),
    )
    made, before = load_bundle(bundle), loaded(tiny_model)
    old, new = before.model.state_dict(), made.model.state_dict()
    changed = {name for name in new if new[name].shape != old[name].shape or not torch.equal(new[name], old[name])}
    assert not [name for name in changed if ".layer." in name]
    assert "bert.embeddings.word_embeddings.weight" in changed
    assert bundle.tokenizer().vocabulary_size == made.model.config.vocab_size
    assert (made.predict_logits(test.texts).argmax(axis=1) == test.label_ids).mean() > 0.9
    # The next link of the chain learns with all its weights, in the language that it now has.
    whole = fit_teacher(
        train=train,
        validation=validation,
        out=tmp_path / "whole",
        settings=TeacherSettings(epochs=1, learning_rate=1e-3, max_length=32),
        origin=Origin(bundle),
    )
    assert load_bundle(whole).tokenizer.vocabulary() == made.tokenizer.vocabulary()
    assert any(
        not torch.equal(weight, new[name])
        for name, weight in load_bundle(whole).model.state_dict().items()
        if ".layer." in name
    )


def test_settings_that_leave_nothing_to_learn_a_language_with_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"features.*new_vocabulary"):
        TeacherSettings(transfer="features", new_vocabulary=1000)
    with pytest.raises(SettingsError, match=r"freeze_body.*gradual_unfreezing"):
        TeacherSettings(freeze_body=True, gradual_unfreezing=True)
