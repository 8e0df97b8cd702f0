"""All nine families: a random checkpoint, adopted and exported, answers as transformers does, in fp32 and in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face import save_random
from random_models import OF_DEBERTA_V3
from tiny_task import tiny_texts
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.data import Dataset
from distill.teachers.adopting import adopt
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

TEXTS = [text for text, _ in tiny_texts(600)]
PORTABLE = pytest.mark.slow  # torch's exporter takes half a minute
# As released: ALBERT and ELECTRA have smaller token vectors.
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # int8 leaves smaller products alone


def save_decided(folder: Path, tiny_model: Path, family: str, **more: Any) -> np.ndarray:
    """Save a random classifier that gives each of its two labels to half of the texts, and return its logits."""
    save_random(folder, tiny_model, family, num_labels=2, **more)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        logits = model(**inputs).logits
        last = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 2][-1]
        last.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
        model.save_pretrained(folder)
        return np.asarray(model(**inputs).logits)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", WIDE),
        ("distilbert", {"dim": 64, "hidden_dim": 128}),
        ("roberta", WIDE),
        ("xlm-roberta", WIDE),
        ("electra", {**WIDE, "embedding_size": 32}),
        ("mpnet", WIDE),
        pytest.param("deberta-v2", {**WIDE, **OF_DEBERTA_V3}, marks=PORTABLE),
        pytest.param("modernbert", WIDE, marks=PORTABLE),
        pytest.param("albert", {**WIDE, "embedding_size": 32}, marks=PORTABLE),
    ],
)
def test_the_graphs_of_an_adopted_classifier_answer_as_transformers_does(
    family: str, more: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    expected = save_decided(tmp_path / "hf", tiny_model, family, **more)
    bundle = adopt(str(tmp_path / "hf"), out=tmp_path / "bundle")
    margins = np.abs(expected[:, 0] - expected[:, 1])
    sure = np.flatnonzero(margins > np.quantile(margins, 0.5))  # a random classifier has no opinion on the others
    texts = [TEXTS[place] for place in sure]
    validation = Dataset(tuple(texts), expected[sure].argmax(axis=1), bundle.labels, "own answers")
    exported = export_bundle(bundle, validation=validation)
    fp32, int8 = (OnnxClassifier.open(exported.path, precision=one).predict_logits(texts) for one in ("fp32", "int8"))
    np.testing.assert_allclose(fp32, expected[sure], atol=ExportSettings().parity_tolerance)
    assert (int8.argmax(axis=1) == expected[sure].argmax(axis=1)).all()
    moved = np.abs(int8 - fp32).max()
    assert 1e-4 < moved < margins[sure].max() / 4  # it is quantized, and close
