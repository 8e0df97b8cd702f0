"""Models of published shapes and of the teacher's, untrained: their speed and size can be measured, their accuracy not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from benchmarks.field.making import LONGEST, FieldBench
from benchmarks.field.study import TEACHER
from benchmarks.harness.candidates import Candidate
from benchmarks.peers import stock
from distill.bundle import WEIGHTS, Bundle
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.teachers.adopting import adopt
from distill.training.finished import whole_bundle
from export.pipeline import export_bundle
from export.settings import ExportSettings

SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "DistilBERT": {"num_hidden_layers": 6, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "TinyBERT-4": {"num_hidden_layers": 4, "hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200},
}
"""Layers and widths by the name of the model (Sanh et al., 2019; Jiao et al., 2020)."""

STOCK: Final = "'s shape, stock int8"


def shape_candidates(bench: FieldBench) -> list[Candidate]:
    """Return a candidate in stock int8 for each shape; their bundles are made in the work folder once."""
    return [
        Candidate(
            f"{name}{STOCK}",
            "peer",
            stock.__name__,
            bundle.path,
            identity={"weights": bundle.manifest.files[WEIGHTS].sha256, "options": {}},
        )
        for name in SHAPES
        if (bundle := _kept_bundle(bench, name, partial(_random_classifier, bench, name)))
    ]


def teacher_shape(bench: FieldBench) -> Bundle:
    """Return the encoder that the teacher is fine-tuned from, with a random head and its fp32 graph."""
    labels = bench.train.labels
    bundle = _kept_bundle(bench, TEACHER, lambda: load_pretrained(bench.study.model, labels=labels, max_length=LONGEST, seed=0))
    if "fp32" in bundle.manifest.precisions:
        return bundle
    only = ExportSettings(precisions=("fp32",))
    return export_bundle(bundle, validation=bench.validation, settings=only, reporter=bench.reporter)


def _kept_bundle(bench: FieldBench, name: str, make: Callable[[], TorchClassifier]) -> Bundle:
    """Return a bundle of the work folder, made of a classifier unless it is there."""
    out = bench.work / "shapes" / name
    if (there := whole_bundle(out)) is not None:
        return there
    checkpoint = out.with_name(f"{out.name}-checkpoint")
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_model_files(make(), checkpoint)
    return adopt(str(checkpoint), out=out, reporter=bench.reporter)


def _random_classifier(bench: FieldBench, name: str) -> TorchClassifier:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    lender, labels = bench.base(), bench.train.labels
    config = BertConfig(
        vocab_size=lender.tokenizer.vocabulary_size,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        pad_token_id=lender.tokenizer.pad_id,
        **SHAPES[name],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(lender, model=BertForSequenceClassification(config).eval())
