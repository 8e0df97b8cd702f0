"""What the report says of a language model as teacher: what labels cost, and what human labels alone bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from distill.asking.teaching import open_answers
from distill.bundle import Bundle
from distill.evaluation.scores import metric_words
from distill.models.loading import load_bundle
from export.fitting.reporting.result import FormResult, HumanLabels, Labelling, Score, UnsureAnswers
from export.fitting.scores import Scorer
from export.settings import FitSettings

MANY: Final = 1_000_000
_MS_OF_HOUR: Final = 3_600_000


def labelling(source: str | None, forms: Sequence[FormResult], settings: FitSettings) -> tuple[Labelling, ...]:
    """Return what it took to ask once, and what a million more texts take: by the model, and by the student.

    Args:
        source: `answers:FOLDER`; None: no language model teaches, and there is nothing to say.
        forms: The forms; the time of the chosen one counts.
        settings: The prices.
    """
    if source is None:
        return ()
    answered = open_answers(source)
    student_ms = next((form.measured_ms for form in forms if form.status == "winner"), None)

    def asking(way: str, num_texts: int) -> Labelling:
        of_input, of_output = (round(each * num_texts / len(answered)) for each in answered.tokens)
        cost = (of_input * settings.price_input + of_output * settings.price_output) / 1e6
        priced = settings.price_input + settings.price_output > 0
        return Labelling(way, num_texts, of_input, of_output, cost=cost if priced else None)

    ways = [asking("answers of the model, asked once", len(answered)), asking("answers of the model to more texts", MANY)]
    if student_ms is not None:
        hours = student_ms * MANY / _MS_OF_HOUR
        cost = hours * settings.price_hour if settings.price_hour else None
        ways.append(Labelling("the student on one thread, one text at a time", MANY, hours=hours, cost=cost))
    return tuple(ways)


def human_labels(controls: Mapping[int, Bundle], scorer: Scorer) -> tuple[HumanLabels, ...]:
    """Return the scores of students that learnt from human labels alone, by the number of these."""
    return tuple(
        HumanLabels(count, scorer.score(load_bundle(bundle).predict_logits(scorer.data.texts)))
        for count, bundle in sorted(controls.items())
    )


def in_words(found: tuple[HumanLabels, ...], student: Score | None) -> str:
    """Return from how many human labels on these alone are at least as good as the student."""
    if not found or student is None:
        return ""
    enough = next((each for each in found if each.score.value >= student.value), None)
    if enough is None:
        return f"The student is better than one taught by all {found[-1].count:,} human labels alone."
    return f"From about {enough.count:,} human labels on, these alone teach as well as the answers."


def unsure_words(found: UnsureAnswers, metric: str) -> str:
    """Return what becomes of the answers that the teacher is unsure of, and why."""
    verdict = {
        "keep": "Unsure answers count like the others",
        "weigh": "Each answer is weighed by its certainty",
        "leave_out": "The least certain fifth of the answers of each label is left out",
    }[found.way]
    if found.given:
        return f"{verdict}, as --unsure asks."
    if not found.tried:
        return f"{verdict}: the teacher is equally sure of all."
    ways = {"keep": "all answers alike", "weigh": "weighed answers", "leave_out": "a fifth left out"}
    keep, *others = found.tried
    scores = " and ".join(
        f"{each.score.value:.4f} with {ways[each.way]} ({each.gain:+.4f}, standard error {each.standard_error:.4f})"
        for each in others
    )
    return (
        f"{verdict}: after a short training a {found.recipe} student reached {metric_words(metric)} {keep.score.value:.4f} "
        f"with {ways['keep']}, {scores} on the validation texts"
        f"{', whose labels are answers of the language model too' if found.by_answers else ''}."
    )
