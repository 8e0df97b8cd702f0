"""Adopting: a fine-tuned Hugging Face classifier becomes a teacher's bundle, without training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from distill.bundle import CONFIG, MANIFEST, Bundle, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.data import Dataset
from distill.errors import SettingsError
from distill.manifest import Lineage, Manifest
from distill.models.fine_tuned import HUB, folder_of, load_fine_tuned
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.progress import Reporter, SilentReporter
from distill.storage import cache_dir, require_writable, sha256_of
from distill.teachers.teacher import best_order, require_same_label_names, require_same_task, require_useful_teacher

_UNNAMED = re.compile(r"LABEL_\d+")


def adopt(
    source: str, *, out: Path | str | None = None, labelled: Dataset | None = None, reporter: Reporter | None = None
) -> Bundle:
    """Make a bundle of a fine-tuned classifier that transformers saved.

    Args:
        source: A folder or `hub:ID`.
        out: Folder of the bundle; None is a folder of the cache, named by the digest of the files, where it is found again.
        labelled: Texts by which labels without names (`LABEL_0`) are matched, and the label order is checked.
        reporter: Told what was read.

    Raises:
        BundleError: The source is no complete classifier, or one that potstill does not run; nothing is written.
        TeacherError: It is no better on the labelled texts than answers that ignore the text, or its labels are swapped.
    """
    reporter = reporter or SilentReporter()
    folder = folder_of(source)
    kept = Path(out) if out is not None else cache_dir() / "adopted" / _digest(folder)
    if out is None and labelled is None and (kept / MANIFEST).is_file():
        return Bundle.open(kept)
    name = source.removeprefix(HUB) if source.startswith(HUB) else folder.resolve().name
    classifier = load_fine_tuned(folder, name=name, reporter=reporter)
    if labelled is not None:
        classifier = _named(classifier, labelled, reporter)
    elif unnamed(classifier.labels):
        reporter.say(f"adopt: the labels of {name} have no names ({classifier.labels[0]}, ...); labelled texts would name them")
    require_writable(kept)
    bundle = _sealed(classifier, kept)
    reporter.say(f"adopt: {name} is in {kept}: {len(bundle.labels)} labels, up to {bundle.manifest.max_length} tokens per text")
    return bundle


def unnamed(labels: Sequence[str]) -> bool:
    """Return whether the labels are the names that transformers gives where there are none."""
    return all(_UNNAMED.fullmatch(label) for label in labels)


def labels_to_read(source: str) -> tuple[str, ...]:
    """Return the labels that data for this checkpoint must have; none if they have no names."""
    try:
        named = json.loads((folder_of(source) / CONFIG).read_text(encoding="utf-8")).get("id2label") or {}
        labels = tuple(str(named[str(index)]) for index in range(len(named)))
    except (OSError, ValueError, KeyError, AttributeError):
        return ()  # `adopt` says what is wrong with it
    return () if unnamed(labels) else labels


def _named(classifier: TorchClassifier, labelled: Dataset, reporter: Reporter) -> TorchClassifier:
    """Return the classifier with the data's label names, after judging it on the labelled texts; pairs are read as pairs."""
    require_same_task(classifier.problem_type, labelled.problem_type)
    if len(labelled.labels) != len(classifier.labels):
        raise SettingsError(
            f"the classifier has {len(classifier.labels)} labels, the data {len(labelled.labels)}: {list(labelled.labels)}; "
            "name all of them with --labels"
        )
    if labelled.is_pairs:
        classifier = classifier.reading_pairs()
    logits = classifier.predict_logits(labelled.texts)
    names = labelled.labels
    if unnamed(classifier.labels):
        task = labelled.task
        order = best_order(task.indicator(labelled.label_ids, len(names)), task.chosen_labels(logits), task)
        match = ", ".join(f"{own} = {names[place]}" for own, place in zip(classifier.labels, order, strict=True))
        reporter.say(f"adopt: matched on {len(labelled):,} {labelled.source} texts: {match}")
        names, logits = tuple(names[place] for place in order), logits[:, np.argsort(order)]
    else:  # the data has them in the same order: by position, a name would go to another label
        require_same_label_names(classifier.labels, labelled.labels)
    require_useful_teacher(logits=logits, label_ids=labelled.label_ids, labels=labelled.labels)
    classifier.model.config.id2label = dict(enumerate(names))
    classifier.model.config.label2id = {name: index for index, name in enumerate(names)}
    return replace(classifier, labels=names)


def _sealed(classifier: TorchClassifier, out: Path) -> Bundle:
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
    return Bundle.open(out)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()[:32]
