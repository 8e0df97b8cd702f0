"""What becomes of the answers that a teacher is unsure of: one cheap student is taught every way, and validation texts choose.

out/tried/unsure/weigh/static-seed-0/    the fastest student after a quarter of its training, in one of the ways
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from distill.asking.teaching import is_answers
from distill.evaluation.intervals import Figure
from distill.models.loading import load_bundle
from distill.recipes import Stage
from distill.settings import UNSURE_WAYS, Unsure
from distill.teachers.answers import teacher_logits
from distill.training.by_recipe import Learning, train_once_each
from distill.training.certainty import certainty
from export.fitting.choose import standard_error, way_of_unsure
from export.fitting.job import Job
from export.fitting.plan import Plan
from export.fitting.reporting.answers import unsure_words
from export.fitting.reporting.result import Score, TriedWay, UnsureAnswers
from export.fitting.scores import Scorer
from export.fitting.training import is_possible, without_assistant
from export.fitting.weighing import recipes_of

UNSURE: Final = "unsure"


def unsure_answers(job: Job, plan: Plan, learning: Learning, *, folder: Path) -> UnsureAnswers | None:
    """Return what becomes of unsure answers, and report it; None if nothing was asked for.

    Args:
        job: The run.
        plan: Its forms; the fastest that can be trained is taught.
        learning: Teacher and texts.
        folder: Where students are kept.
    """
    if job.unsure == "keep" and job.settings.unsure is None:
        return None
    if job.unsure != "choose":
        found = UnsureAnswers(job.unsure, given=True)
    else:
        name = next((name for name in recipes_of(plan.within) if is_possible(plan.candidates, name, learning)), None)
        if name is None:
            return None  # the trainings say that no student can be made
        found = tried_ways(without_assistant(plan.candidates.in_part[name]), learning, job.validation, folder=folder)
    job.reporter.say(unsure_words(found, job.settings.metric))
    return found


def tried_ways(stage: Stage, learning: Learning, scorer: Scorer, *, folder: Path) -> UnsureAnswers:
    """Teach a student every way, unless that was done before, and choose on the validation texts.

    Args:
        stage: The student.
        learning: Teacher and texts.
        scorer: Scores on the validation texts, which are all kept and weigh alike.
        folder: Where students are kept.
    """
    by_answers = is_answers(scorer.data.source)
    logits = teacher_logits(learning.teacher.asked, learning.splits.train.texts, reporter=learning.reporter).logits
    if not np.ptp(certainty(logits)):
        return UnsureAnswers("keep", by_answers=by_answers)
    figures: dict[Unsure, Figure] = {}
    for way in UNSURE_WAYS:
        own = replace(stage, settings=stage.settings.model_copy(update={"unsure": way}))
        made = train_once_each((own,), folder=folder / UNSURE / way, learning=learning)
        figures[way] = scorer.figure(load_bundle(made).predict_logits(scorer.data.texts))
    tried = tuple(_tried(way, figure, figures["keep"]) for way, figure in figures.items())
    return UnsureAnswers(way_of_unsure(figures), tried=tried, recipe=stage.name, by_answers=by_answers)


def _tried(way: Unsure, figure: Figure, of_keep: Figure) -> TriedWay:
    gain = figure - of_keep
    return TriedWay(way, Score.of(figure.estimate()), round(gain.value, 6), round(standard_error(gain), 6))
