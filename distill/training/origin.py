"""What a teacher is made from, besides a pretrained model, and what of it is forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset, Splits
from distill.data.dataset import stratified_rows
from distill.manifest import Link
from distill.models.devices import on_device
from distill.models.loading import load_bundle
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.teacher_settings import TeacherSettings
from distill.texts import TextInput
from distill.training.sealing import quality_of
from distill.transfer.features import encoder_of


@dataclass(frozen=True)
class SourceTask:
    """Labelled texts of the task that a model was trained on before.

    Attributes:
        train: Texts it was trained on, for replay and to detect leaks.
        test: Texts it was not trained on, to measure forgetting.
    """

    train: Dataset
    test: Dataset

    @classmethod
    def of_splits(cls, splits: Splits) -> SourceTask:
        """Return the training and test texts of the splits; the validation texts where there are no test texts."""
        return cls(splits.train, splits.test or splits.validation)


@dataclass(frozen=True)
class Origin:
    """What a teacher starts from, besides a pretrained model.

    Attributes:
        init: A bundle to start from instead: its encoder is kept, and its head if the label names are the same.
        source: The task that `init` was trained on, for replay, to measure forgetting, and to detect leaked texts.
        adapt_texts: Unlabelled texts of the target domain that the encoder is adapted to first; read once.
    """

    init: Bundle | None = None
    source: SourceTask | None = None
    adapt_texts: Iterable[TextInput] = ()


def chain_of(init: Bundle) -> tuple[Link, ...]:
    """Return the links up to and including this bundle, the oldest first."""
    lineage, weights = init.manifest.lineage, init.manifest.files[WEIGHTS]
    link = Link(
        weights_sha256=weights.sha256, labels=init.labels, train_fingerprint=lineage.train_fingerprint, seed=lineage.seed
    )
    return (*lineage.chain, link)


def with_replay(train: Dataset, source: SourceTask, settings: TeacherSettings, reporter: Reporter) -> Dataset:
    """Return the training texts with the share of the source's texts that the settings ask for."""
    if not settings.replay_share:
        return train
    count = min(len(source.train), round(settings.replay_share * len(train)))
    rows = stratified_rows(source.train.label_ids, count=count, seed=settings.seed)
    again = source.train.take(rows)
    reporter.say(f"replay: {count} texts of {again.source} are added to the training texts")
    return Dataset(
        texts=(*train.texts, *again.texts),
        label_ids=np.concatenate([train.label_ids, again.label_ids]),
        labels=train.labels,
        source=f"{train.source} + {again.source}",
        notes=train.notes,
    )


def forgetting(
    trained: TorchClassifier, origin: Origin, settings: TeacherSettings, reporter: Reporter
) -> dict[str, dict[str, Any]]:
    """Return the quality on the source task before and after; the old head is put on the new encoder."""
    source, init = origin.source, origin.init
    if source is None or init is None:
        return {}
    before = load_bundle(init)
    on_device(before.model, trained.model.device)
    logits = {"source_before": before.predict_logits(source.test.texts)}
    if before.labels == trained.labels:
        logits["source_after"] = trained.predict_logits(source.test.texts)
    elif settings.transfer == "parameters":
        encoder_of(before.model).load_state_dict(encoder_of(trained.model).state_dict())
        logits["source_after"] = before.predict_logits(source.test.texts)
    quality = {name: quality_of(before, source.test, found, split="source test") for name, found in logits.items()}
    scores = [f"{found['macro_f1']:.4f}" for found in quality.values()]
    if len(scores) == 2:
        texts = f"{len(source.test)} texts of {source.test.source}"
        reporter.say(f"source task: macro-F1 {scores[0]} before, {scores[1]} after, on {texts}")
    return quality
