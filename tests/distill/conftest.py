"""Small classifiers with random weights, of several families, made in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier

LABELS = ("negative", "positive")
PLAIN = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
SIZES: dict[str, dict[str, int]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "deberta"), PLAIN),
    "electra": {**PLAIN, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 6, "n_heads": 4, "hidden_dim": 64},
    "albert": {**PLAIN, "embedding_size": 16, "num_hidden_layers": 2},
}

Make = Callable[..., TorchClassifier]


@pytest.fixture
def make_classifier(tiny_model: Path) -> Make:
    """Return a function that makes a classifier of a family, with the tiny task's tokenizer."""

    def make(family: str = "bert", *, seed: int = 0, max_length: int = 32, **changes: Any) -> TorchClassifier:
        classifier = load_pretrained(str(tiny_model), labels=LABELS, max_length=max_length, seed=seed)
        tables = {
            "vocab_size": classifier.tokenizer.vocabulary_size,
            "pad_token_id": classifier.tokenizer.pad_id,
            "max_position_embeddings": 64,
        }
        config = AutoConfig.for_model(
            family,
            id2label=dict(enumerate(LABELS)),
            label2id={name: index for index, name in enumerate(LABELS)},
            **{**SIZES[family], **tables, **changes},
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            classifier.model = AutoModelForSequenceClassification.from_config(config).eval()
            # Fresh biases are all 0 and fresh norms all 1: make each weight tell which one it is, and each text matter.
            for parameter in classifier.model.parameters():
                parameter.data = parameter.data * (10 if parameter.ndim == 2 else 1) + 0.1 * torch.randn_like(parameter)
        return classifier

    return make


@pytest.fixture
def torch_left_alone() -> Iterator[None]:
    """Fail the test when it moves torch's global random state or its number of threads."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@pytest.fixture
def peak_growth_bytes() -> Callable[[Callable[[], object]], int]:
    """Return a function that runs another and says how far the process's memory went above where it was."""
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        pytest.skip("only Linux tells a process its peak memory anew")

    def measured(work: Callable[[], object]) -> int:
        reset.write_text("5")  # the peak starts again at what is held now
        before = _status_bytes("VmRSS")
        work()
        return _status_bytes("VmHWM") - before

    return measured
