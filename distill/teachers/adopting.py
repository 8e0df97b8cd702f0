"""Adopting: a fine-tuned Hugging Face classifier becomes a teacher's bundle, without training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from distill.bundle import MANIFEST, Bundle, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.data import Dataset, limited
from distill.errors import BundleError, SettingsError
from distill.manifest import SCHEMA, Lineage, Manifest
from distill.models.fine_tuned import READ_FROM_HUB, config_of, folder_of, load_fine_tuned
from distill.models.loading import HUB
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.progress import Reporter, SilentReporter
from distill.storage import cache_dir, require_writable, sha256_of
from distill.teachers.teacher import (
    MAX_LABELS_NAMED,
    best_order,
    require_same_label_names,
    require_same_task,
    require_useful_teacher,
)
from distill.tokenization import TYPE_INPUT, Pairs

_UNNAMED = re.compile(r"LABEL_\d+")

MAX_JUDGED = 1_000
"""Labelled texts that are read; their order is clear after far fewer, and a large teacher needs minutes for a whole set."""


class Learnt(NamedTuple):
    """What a bundle has from labelled texts rather than from its checkpoint."""

    labels: tuple[str, ...] | None
    pairs: Pairs | None


NOTHING = Learnt(None, None)


def adopt(
    source: str,
    *,
    out: Path | str | None = None,
    labelled: Dataset | None = None,
    judged: bool = True,
    reporter: Reporter | None = None,
) -> Bundle:
    """Make a bundle of a fine-tuned classifier that transformers saved.

    Args:
        source: A folder or `hub:ID`.
        out: Folder of the bundle; None is a folder of the cache, where an equal bundle is found again.
        labelled: Texts by which labels without names (`LABEL_0`) are matched; they are pairs if the classifier reads pairs.
        judged: Refuse a classifier that is useless on these texts, or whose label names are swapped.
        reporter: Told what was read.

    Raises:
        BundleError: The source is no complete classifier, or one that potstill does not run; nothing is written.
        TeacherError: It is no better on the labelled texts than answers that ignore the text, or its labels are swapped.
    """
    reporter = reporter or SilentReporter()
    folder = folder_of(source)
    name = source.removeprefix(HUB) if source.startswith(HUB) else folder.resolve().name
    if out is not None:
        return _sealed(_read(folder, name, labelled, judged, reporter)[0], Path(out), reporter)
    cache = _Cache(folder, name, reporter)
    if labelled is None and (found := cache.find(NOTHING)):
        return found
    classifier, learnt = _read(folder, name, labelled, judged, reporter)
    place = cache.place(learnt)
    require_writable(place)
    with FileLock(place.with_suffix(".lock")):  # the processes of one run all adopt the same checkpoint
        return cache.find(learnt) or _sealed(classifier, place, reporter)


def _read(
    folder: Path, name: str, labelled: Dataset | None, judged: bool, reporter: Reporter
) -> tuple[TorchClassifier, Learnt]:
    read = load_fine_tuned(folder, name=name, reporter=reporter)
    if labelled is None:
        _say_what_is_unknown(read, reporter)
        return read, NOTHING
    named = _named(read, limited(labelled, MAX_JUDGED, seed=0), judged, reporter)
    return named, Learnt(None if named.labels == read.labels else named.labels, named.tokenizer.pairs)


class _Cache:
    """Where adopted bundles are kept: one for each checkpoint, name, and whatever labelled texts taught."""

    def __init__(self, folder: Path, name: str, reporter: Reporter) -> None:
        files = sorted(path for path in folder.iterdir() if any(path.match(pattern) for pattern in READ_FROM_HUB))
        self._known = [SCHEMA, name, {path.name: sha256_of(path) for path in files}]
        self._name, self._reporter = name, reporter

    def place(self, learnt: Learnt) -> Path:
        """Return the folder of the bundle with these labels and pairs."""
        key = json.dumps([*self._known, *learnt])
        return cache_dir() / "adopted" / hashlib.sha256(key.encode()).hexdigest()[:32]

    def find(self, learnt: Learnt) -> Bundle | None:
        """Return the whole bundle that is there, or None."""
        place = self.place(learnt)
        if not (place / MANIFEST).is_file():
            return None
        try:
            bundle = Bundle.open(place)
        except BundleError as exc:
            self._reporter.say(f"adopt: {exc}; it is adopted again")
            return None
        self._reporter.say(f"adopt: {self._name} was adopted before, into {place}: {_words(bundle)}")
        return bundle


def _words(bundle: Bundle) -> str:
    labels, known = bundle.labels, bundle.manifest
    named = ", ".join(labels[:MAX_LABELS_NAMED]) + (", ..." if len(labels) > MAX_LABELS_NAMED else "")
    return f"{len(labels)} labels ({named}), {'pairs' if known.pairs else 'single texts'} of up to {known.max_length} tokens"


def _say_what_is_unknown(classifier: TorchClassifier, reporter: Reporter) -> None:
    name, labels = classifier.origin, classifier.labels
    if unnamed(labels):
        reporter.say(f"adopt: the labels of {name} have no names ({labels[0]}, ...); labelled texts would name them")
    reporter.say(
        f"adopt: nothing in {name} says whether it was trained on sentence pairs, so it reads single texts; if it was, adopt "
        "it with labelled pairs (--validation FILE --pair-column NAME)"
    )


def unnamed(labels: Sequence[str]) -> bool:
    """Return whether the labels are the names that transformers gives where there are none."""
    return all(_UNNAMED.fullmatch(label) for label in labels)


def labels_to_read(source: str) -> tuple[str, ...]:
    """Return the labels that data for this checkpoint must have; none if they have no names."""
    try:
        named = config_of(source).get("id2label") or {}
        labels = tuple(str(named[str(index)]) for index in range(len(named)))
    except (OSError, ValueError, KeyError, AttributeError):
        return ()  # `adopt` says what is wrong with it
    return () if unnamed(labels) else labels


def _named(classifier: TorchClassifier, labelled: Dataset, judged: bool, reporter: Reporter) -> TorchClassifier:
    """Return the classifier with the data's label names, matched by its answers if it has none; pairs are read as pairs."""
    require_same_task(classifier.problem_type, labelled.problem_type)
    if len(labelled.labels) != len(classifier.labels):
        raise SettingsError(
            f"the classifier has {len(classifier.labels)} labels, the data {len(labelled.labels)}: {list(labelled.labels)}; "
            "name all of them with --labels"
        )
    if labelled.is_pairs:
        classifier = classifier.reading_pairs(typed=TYPE_INPUT in classifier.tokenizer_config["model_input_names"])
    label_ids, names, task = labelled.label_ids, labelled.labels, labelled.task
    if not unnamed(classifier.labels):  # data with the names in another order would be read by position
        require_same_label_names(classifier.labels, names)
        if judged:
            require_useful_teacher(logits=classifier.predict_logits(labelled.texts), label_ids=label_ids, labels=names)
        return classifier
    logits = classifier.predict_logits(labelled.texts)
    order = best_order(task.indicator(label_ids, len(names)), task.chosen_labels(logits), task)
    require_useful_teacher(logits=logits[:, np.argsort(order)], label_ids=label_ids, labels=names)
    match = ", ".join(f"{own} = {names[place]}" for own, place in zip(classifier.labels, order, strict=True))
    reporter.say(f"adopt: matched on {len(labelled):,} {labelled.source} texts: {match}")
    names = tuple(names[place] for place in order)
    classifier.model.config.id2label = dict(enumerate(names))
    classifier.model.config.label2id = {name: index for index, name in enumerate(names)}
    return replace(classifier, labels=names)


def _sealed(classifier: TorchClassifier, out: Path, reporter: Reporter) -> Bundle:
    require_writable(out)
    manifest = Manifest(
        role="teacher",
        labels=classifier.labels,
        problem_type=classifier.problem_type,
        max_length=classifier.tokenizer.max_length,
        pad_token_id=classifier.tokenizer.pad_id,
        pairs=classifier.tokenizer.pairs,
        num_parameters=classifier.num_parameters(),
        lineage=Lineage(base_model=classifier.origin),
        versions={name: version(name) for name in ("potstill", "torch", "transformers", "tokenizers", "numpy")},
    )
    with new_bundle_folder(out) as staged:
        write_model_files(classifier, staged)
        write_card(seal_new_bundle(out, staged, manifest))
    bundle = Bundle.open(out)
    reporter.say(f"adopt: {classifier.origin} is in {out}: {_words(bundle)}")
    return bundle
