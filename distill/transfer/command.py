"""What `potstill teacher` and `potstill select` do with what the user named: read it, then call the stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.bundle import Bundle
from distill.data import Dataset, TextSources, load_splits, texts_not_in
from distill.errors import SettingsError
from distill.labels import chosen_labels
from distill.progress import Reporter
from distill.proof import Bootstrap, Estimate
from distill.settings import DataSettings
from distill.training.models import load_bundle
from distill.transfer.fit import Source, fit_carried
from distill.transfer.guards import transfer_words
from distill.transfer.select import Selection, select
from distill.transfer_settings import CarrySettings, OriginSettings, SelectSettings


def make_teacher(
    model: str, origin: OriginSettings, data: DataSettings, settings: CarrySettings, *, out: Path, reporter: Reporter
) -> Bundle:
    """Read the texts and make the teacher.

    Args:
        model: The encoder, where `origin` names no bundle.
        origin: A bundle to go on from, its source task, texts to adapt to.
        data: What the user named.
        settings: How to carry over.
        out: The bundle's folder.
        reporter: Told of what was dropped, and of progress.
    """
    splits = load_splits(data)
    for note in splits.notes:
        reporter.say(note)
    if origin.control and origin.init is None:
        raise SettingsError("control compares with a teacher that does not go on from --init, which is not given")
    held_out = [part for part in (splits.validation, splits.test) if part is not None]
    unlabeled = texts_not_in(TextSources(origin.adapt, data), held_out) if origin.adapt else ()
    made = fit_carried(
        model,
        train=splits.train,
        validation=splits.validation,
        out=out,
        settings=settings,
        init=None if origin.init is None else Bundle.open(origin.init),
        source=None if origin.source is None else _source(origin.source, data),
        adapt_texts=unlabeled,
        reporter=reporter,
    )
    if origin.control and origin.init is not None:
        alone = out.with_name(f"{out.name}-alone")
        settings = settings.model_copy(update={"replay_share": 0.0})
        control = fit_carried(
            model, train=splits.train, validation=splits.validation, out=alone, settings=settings, reporter=reporter
        )
        judge = splits.test or splits.validation
        reporter.say(transfer_words(gain_of(made, control, judge), source=Path(origin.init).name, num_seeds=1))
    return made


def gain_of(made: Bundle, control: Bundle, judge: Dataset) -> Estimate:
    """Return by how much one teacher's macro-F1 is above another's on the same texts, with a paired interval."""
    bootstrap = Bootstrap(judge.label_ids, num_labels=len(judge.labels), num_seeds=1)
    scores = [
        bootstrap.macro_f1(given if judge.label_ids.ndim == 2 else given.argmax(axis=1))
        for given in (
            chosen_labels(load_bundle(one).predict_logits(judge.texts), judge.problem_type).astype(np.int64)
            for one in (made, control)
        )
    ]
    return (scores[0] - scores[1]).estimate()


def rank(candidates: Sequence[str], data: DataSettings, settings: SelectSettings, *, reporter: Reporter) -> Selection:
    """Read the training texts and rank the candidates on them; validation and test texts are not looked at."""
    if len(set(candidates)) != len(candidates):
        raise SettingsError("a candidate is named twice; name each once")
    splits = load_splits(data)
    for note in splits.notes:
        reporter.say(note)
    return select(candidates, splits.train, settings, reporter=reporter)


def _source(name: str, data: DataSettings) -> Source:
    """The source task's texts; a built-in set's own test texts measure it, of a file a fifth."""
    test = name if name.startswith(("builtin:", "hub:")) else None
    share = data.validation_share if test else 0.2
    return Source.of_splits(
        load_splits(
            data.model_copy(
                update={"train": (name,), "validation": None, "test": test, "validation_share": share, "labels": ()}
            )
        )
    )
