"""What the tests share: a tiny task, and bundles that the real pipeline made from it in seconds, offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits, load_splits
from distill.settings import DataSettings, DistillSettings, TeacherSettings

GOOD_WORDS = ("lovely", "great", "moving", "funny", "warm", "brilliant", "fresh", "charming")
BAD_WORDS = ("dull", "awful", "boring", "stale", "cold", "clumsy", "tired", "empty")
PLAIN_WORDS = ("film", "plot", "actor", "scene", "the", "a", "it", "was", "with", "music", "story", "end", "and")


def tiny_texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (text, label) pairs that a model can learn in seconds: the label says which words there are more of."""
    generator = np.random.default_rng(seed)
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    while len(rows) < count:
        label = ("negative", "positive")[len(rows) % 2]
        telling, other = (GOOD_WORDS, BAD_WORDS) if label == "positive" else (BAD_WORDS, GOOD_WORDS)
        words = [
            *generator.choice(PLAIN_WORDS, generator.integers(3, 14)),
            *generator.choice(telling, 3),
            generator.choice(other),
        ]
        text = " ".join(generator.permutation(words))
        if text not in seen:
            seen.add(text)
            rows.append((text, label))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]], *, header: str = "text,label") -> Path:
    """Write rows as CSV; texts must not hold commas or quotes."""
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' soft targets and built-in texts in a cache of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV of 400 texts."""
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", tiny_texts(400))


@pytest.fixture(scope="session")
def tiny_splits(tiny_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Return training, validation and test texts of the tiny task."""
    test = write_csv(tmp_path_factory.mktemp("data") / "test.csv", tiny_texts(200, seed=1))
    return load_splits(DataSettings(train=(str(tiny_csv),), test=str(test), validation_share=0.25))


@pytest.fixture(scope="session")
def tiny_test(tiny_splits: Splits) -> Dataset:
    """Return the test texts of the tiny task."""
    assert tiny_splits.test is not None
    return tiny_splits.test


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder with an untrained BERT of 4 layers and 32 dimensions, and a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_model: Path, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a fine-tuned teacher's bundle; do not change it."""
    from distill.training.fit import fit_teacher

    settings = TeacherSettings(epochs=6, learning_rate=2e-3, max_length=32, batch_size=16)
    out = tmp_path_factory.mktemp("bundles") / "teacher"
    return fit_teacher(str(tiny_model), train=tiny_splits.train, validation=tiny_splits.validation, out=out, settings=settings)


@pytest.fixture(scope="session")
def tiny_unexported(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a 2-layer student's bundle without graphs; do not change it."""
    from distill.training.fit import fit_student

    settings = DistillSettings(epochs=4, learning_rate=2e-3, batch_size=16, num_layers=2)
    out = tmp_path_factory.mktemp("bundles") / "unexported"
    return fit_student(tiny_teacher, train=tiny_splits.train, validation=tiny_splits.validation, out=out, settings=settings)


@pytest.fixture(scope="session")
def tiny_student(tiny_unexported: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a student's bundle with fp32 and int8 graphs; do not change it."""
    from export.pipeline import export_bundle

    copy = tmp_path_factory.mktemp("bundles") / "student"
    shutil.copytree(tiny_unexported.path, copy)
    return export_bundle(Bundle.open(copy), validation=tiny_splits.validation)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Bundle], Bundle]:
    """Return a function that copies a bundle, so that a test may damage the copy."""

    def copy(bundle: Bundle) -> Bundle:
        folder = tmp_path / "copied"
        shutil.copytree(bundle.path, folder)
        return Bundle.open(folder)

    return copy
