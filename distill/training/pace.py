"""About how long a training takes, found out in a second or two before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from distill.models.devices import Compute, chosen_mixed_precision, computing_in
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.texts import TextInput

BACKWARD: Final = 2.7
"""Time of a training step on a text as a multiple of that of an answer, as seen of a teacher; of small students it is 2.0."""
TIMED_TEXTS: Final = 128
WORTH_SAYING_S: Final = 20.0


def answer_s(model: TorchClassifier, texts: Sequence[TextInput], compute: Compute | None = None) -> float:
    """Return the seconds that a PyTorch model takes for one of these texts among many.

    Args:
        model: On the device that it will compute on.
        texts: Of these the first are timed.
        compute: The dtype it will compute in; None is the one that trainings on its device choose.
    """
    sample, device = texts[:TIMED_TEXTS], model.model.device
    with computing_in(compute or chosen_mixed_precision("auto", device), device):
        model.predict_logits(sample[:16])
        started = time.perf_counter()
        model.predict_logits(sample)
        return (time.perf_counter() - started) / len(sample)


def say_answers(
    model: TorchClassifier, texts: Sequence[TextInput], *, count: int, compute: Compute | None = None, reporter: Reporter
) -> None:
    """Say about how long the model takes to answer `count` texts such as these."""
    _say(f"logits of {count:,} texts", count * answer_s(model, texts, compute), reporter)


def say_training(
    model: TorchClassifier,
    texts: Sequence[TextInput],
    *,
    title: str,
    views: int,
    compute: Compute | None = None,
    reporter: Reporter,
) -> None:
    """Say about how long it takes to train on `views` texts such as these, counting a text once per epoch."""
    _say(f"{title}: training on {views:,} texts at most", views * BACKWARD * answer_s(model, texts, compute), reporter)


def _say(words: str, seconds: float, reporter: Reporter) -> None:
    if seconds < WORTH_SAYING_S:
        return
    minutes = seconds / 60
    reporter.say(f"{words}: about {minutes:.0f} minutes" if minutes >= 2 else f"{words}: about {seconds:.0f} seconds")
