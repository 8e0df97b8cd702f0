"""Sending a run's figures to TensorBoard, MLflow or Weights & Biases, through accelerate; off by default."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from distill.errors import MissingExtraError
from distill.settings import Tracker, TrainingSettings

PROJECT = "potstill"


def logs_of(out: Path | str) -> Path:
    """Return the folder for logs of the run that makes this bundle: beside it, as a bundle keeps to its files."""
    return Path(out).with_name(f"{Path(out).name}-logs")


def require_trackers(track: Sequence[Tracker]) -> None:
    """Refuse a tracker whose package is missing: accelerate would leave it out and say nothing.

    Raises:
        MissingExtraError: Names the extra, which is called as the tracker is.
    """
    for name in track:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(extra=name, package=name, needed_for=f"--track {name}")


@contextmanager
def tracked(accelerator: Accelerator, *, title: str, settings: TrainingSettings) -> Iterator[None]:
    """Open the trackers the accelerator was made with and close them after the block.

    Inside, `accelerator.log` reaches them, from the first process alone.
    """
    if not accelerator.log_with:
        yield
        return
    plain = {name: value for name, value in settings.model_dump(mode="json").items() if isinstance(value, int | float | str)}
    accelerator.init_trackers(f"{PROJECT}-{title}", config=plain)
    try:
        yield
    finally:
        # not `end_training`, which also ends the group of processes: they have a bundle to seal together
        for tracker in accelerator.trackers:
            tracker.finish()
