"""Models of the shapes that papers publish, with random weights: their speed and size can be measured, their accuracy not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.candidates import Candidate
from benchmarks.peers import stock
from distill.bundle import MANIFEST, WEIGHTS, Bundle
from distill.progress import Reporter

SHAPES: Final[Mapping[str, Mapping[str, int]]] = {
    "DistilBERT": {"num_hidden_layers": 6, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "TinyBERT-4": {"num_hidden_layers": 4, "hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200},
}
"""Layers and widths by the name of the model (Sanh et al., 2019; Jiao et al., 2020)."""

STOCK: Final = "'s shape, stock int8"


def shape_candidates(folder: Path, *, base: str, labels: Sequence[str], max_length: int, reporter: Reporter) -> list[Candidate]:
    """Return a candidate in stock int8 for each shape; their bundles are made in the folder once.

    Args:
        folder: Where the bundles are.
        base: The model whose tokenizer they have.
        labels: Label names.
        max_length: Tokens per text.
        reporter: Told of progress.
    """
    bundles = {
        name: _random_bundle(folder / name, shape, base=base, labels=labels, max_length=max_length, reporter=reporter)
        for name, shape in SHAPES.items()
    }
    return [
        Candidate(
            f"{name}{STOCK}",
            "peer",
            stock.__name__,
            bundle.path,
            identity={"weights": bundle.manifest.files[WEIGHTS].sha256, "options": {}},
        )
        for name, bundle in bundles.items()
    ]


def _random_bundle(
    out: Path, shape: Mapping[str, Any], *, base: str, labels: Sequence[str], max_length: int, reporter: Reporter
) -> Bundle:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from distill.models.loading import load_pretrained
    from distill.models.torch_classifier import write_model_files
    from distill.teachers.adopting import adopt

    if (out / MANIFEST).is_file():
        return Bundle.open(out)
    lender = load_pretrained(base, labels=labels, max_length=max_length, seed=0)
    config = BertConfig(
        vocab_size=lender.tokenizer.vocabulary_size,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        pad_token_id=lender.tokenizer.pad_id,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = replace(lender, model=BertForSequenceClassification(config).eval())
    checkpoint = out.with_name(f"{out.name}-checkpoint")
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_model_files(classifier, checkpoint)
    return adopt(str(checkpoint), out=out, reporter=reporter)
