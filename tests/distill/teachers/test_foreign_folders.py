"""Folders that other tools saved: each is adopted as that tool answers, or refused with what to do instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hugging_face import save_random
from sklearn.linear_model import LogisticRegression
from tiny_task import BAD_WORDS, GOOD_WORDS, Outcome
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from distill.data import Dataset, Splits
from distill.errors import BundleError
from distill.models.loading import load_bundle
from distill.teachers.adopting import adopt

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a Trainer that learnt the tiny task, with a checkpoint in it and its last state in `best`."""
    folder, train = tmp_path_factory.mktemp("trainer"), tiny_splits.train
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    encoded = tokenizer(list(train.single_texts()), truncation=True, max_length=32)["input_ids"]
    rows = [{"input_ids": ids, "labels": int(label)} for ids, label in zip(encoded, train.label_ids, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=4,
        learning_rate=2e-3,
        per_device_train_batch_size=16,
        save_strategy="epoch",
        save_total_limit=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(folder / "best"))
    return folder


def test_what_a_trainer_saved_is_adopted_and_its_labels_are_matched(trained: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    folder, data = trained / "best", tiny_splits.validation
    assert (folder / "training_args.bin").is_file()  # a pickle, which is neither read nor copied
    bundle = adopt(str(folder), out=tmp_path / "bundle", labelled=data)
    assert bundle.labels == ("negative", "positive")
    assert "training_args.bin" not in {path.name for path in bundle.path.iterdir()}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(list(data.texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.numpy()
    answers = load_bundle(bundle).predict_logits(data.texts)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert (answers.argmax(axis=1) == data.label_ids).mean() > 0.9


def test_the_output_folder_of_a_trainer_names_its_checkpoint(trained: Path, potstill: Run, tmp_path: Path) -> None:
    (checkpoint,) = (trained / "run").glob("checkpoint-*")
    done = potstill("adopt", trained / "run", "--out", tmp_path / "bundle")
    assert done.code == 3
    assert str(checkpoint) in done.complaint
    assert potstill("adopt", checkpoint, "--out", tmp_path / "bundle").code == 0


@pytest.fixture(scope="module")
def encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder that sentence-transformers saved."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentence") / "encoder"
    body = Transformer(str(tiny_model))
    SentenceTransformer(modules=[body, Pooling(64)], device="cpu").save(str(folder))
    return folder


def test_an_encoder_of_sentence_transformers_is_refused_with_what_works(
    encoder: Path, potstill: Run, tmp_path: Path, tiny_csv: Path
) -> None:
    done = potstill("distill", encoder, "--train", tiny_csv, "--out", tmp_path / "student")
    assert done.code == 3
    assert f"without a classification head; fine-tune it with `potstill teacher --model {encoder}`" in done.complaint
    flags = ("--epochs", 1, "--max-length", 32, "--batch-size", 16, "--learning-rate", 2e-3, "--train", tiny_csv)
    assert potstill("teacher", "--model", encoder, "--out", tmp_path / "teacher", *flags).code == 0


def test_the_head_of_setfit_is_never_loaded(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "setfit"
    folder.mkdir()
    for path in encoder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    head = LogisticRegression().fit(np.eye(2), [0, 1])
    joblib.dump(head, folder / "model_head.pkl")  # as setfit saves it
    with pytest.raises(BundleError, match="a pickle, which can run any code and is never loaded"):
        adopt(str(folder), out=tmp_path / "bundle")


def test_a_cross_encoder_that_scores_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    saved = save_random(tmp_path / "hf", tiny_model, num_labels=1)
    CrossEncoder(str(saved), device="cpu").save_pretrained(str(tmp_path / "scores"))
    with pytest.raises(BundleError, match="regression model"):
        adopt(str(tmp_path / "scores"), out=tmp_path / "none")


@pytest.mark.parametrize("typed", [False, True])
def test_a_cross_encoder_that_classifies_pairs_is_adopted_and_told_which_text_is_which_as_before(
    typed: bool, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    pairs = [(f"{first} film {first}", f"{second} the end") for first in GOOD_WORDS for second in BAD_WORDS]
    saved = save_random(tmp_path / "hf", tiny_model)
    if typed:
        path = saved / "tokenizer_config.json"
        names = ["input_ids", "token_type_ids", "attention_mask"]
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": names}))
    model = CrossEncoder(str(saved), device="cpu")
    model.save_pretrained(str(tmp_path / "cross"))
    expected = model.predict(pairs, activation_fn=torch.nn.Identity())
    label_names = ("no", "perhaps", "yes")
    config = tmp_path / "cross" / "config.json"  # so that nothing is matched
    config.write_text(json.dumps({**json.loads(config.read_text()), "id2label": dict(enumerate(label_names))}))
    data = Dataset(tuple(pairs), expected.argmax(axis=1), label_names, "pairs")
    bundle = adopt(str(tmp_path / "cross"), out=tmp_path / "bundle", labelled=data, judged=False)
    assert bundle.manifest.pairs == ("typed" if typed else "untyped")
    np.testing.assert_allclose(load_bundle(bundle).predict_logits(pairs), expected, atol=1e-5)
