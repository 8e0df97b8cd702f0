"""The processes of one run, through accelerate: where each computes, which share of a batch it has, what all sum up to.

Started by `accelerate launch` or `torchrun`; a run that neither started is one process. Every process holds all of the
model and takes the same steps: gradients are summed over the shares of each batch, so that as many processes as you
like end where one would, up to rounding. One that fails says why and ends; the others end when they next wait for it.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import nn

from distill.batching import Indices
from distill.errors import ClusterError, MissingExtraError
from distill.labels import Logits
from distill.models.devices import chosen_device, chosen_mixed_precision
from distill.models.torch_classifier import TorchClassifier
from distill.settings import Device, MixedPrecision, Tracker, TrainingSettings
from distill.storage import writing_to

PATIENCE = timedelta(days=1)
"""How long a process waits for another. One that is gone is noticed at once; one that asks a teacher may take hours."""

T = TypeVar("T")


def open_accelerator(
    device: Device | torch.device = "auto",
    *,
    mixed_precision: MixedPrecision = "no",
    track: Sequence[Tracker] = (),
    logs: Path | None = None,
) -> Accelerator:
    """Return what the processes of one run share; several join by the variables their launcher has set.

    Args:
        device: Where to compute.
        mixed_precision: Numbers to compute in.
        track: Where the figures of each step go.
        logs: Folder for the trackers that write files.

    Raises:
        SettingsError: The device is not there, or does not compute so.
        MissingExtraError: A tracker is not installed.
    """
    require_trackers(track)
    chosen = device if isinstance(device, torch.device) else chosen_device(device)
    # accelerate keeps one state per process of the system and refuses another precision; each run of ours has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision=chosen_mixed_precision(mixed_precision, chosen),
        log_with=list(track) or None,
        project_dir=logs,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


@contextmanager
def _talking(accelerator: Accelerator) -> Iterator[None]:
    """Turn what the library says of a process that is gone into an error of ours."""
    try:
        yield
    except RuntimeError as exc:
        if accelerator.num_processes == 1:
            raise
        raise ClusterError(
            "another process of this run has ended; what is finished is kept, start them all again to go on"
        ) from exc


def gathered(value: T, accelerator: Accelerator) -> list[T]:
    """Return the value of each process, in their order, in all of them.

    Raises:
        ClusterError: A process has ended.
    """
    with _talking(accelerator):
        values: list[T] = gather_object([value])
    return values


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait until every process has come here.

    Raises:
        ClusterError: A process has ended.
    """
    with _talking(accelerator):
        accelerator.wait_for_everyone()


def require_same_folder(folder: Path, accelerator: Accelerator) -> None:
    """Refuse a folder that is not one and the same for all processes, such as one on each machine's own disk.

    Raises:
        ClusterError: A process does not see what the first one writes there.
        StorageError: The folder cannot be written.
    """
    if accelerator.num_processes == 1:
        return
    name = ""
    if accelerator.is_main_process:
        name = f".potstill-{secrets.token_hex(8)}.tmp"
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
    probe = folder / gathered(name, accelerator)[0]
    seen = gathered(probe.exists(), accelerator)
    if accelerator.is_main_process:
        probe.unlink()
    if not all(seen):
        raise ClusterError(
            f"process {seen.index(False)} does not see what process 0 writes to {folder}; all need the same folder: "
            "name one that the machines share with --out, and with POTSTILL_CACHE for the teacher's answers"
        )


def own_share(batch: Indices, accelerator: Accelerator) -> Indices:
    """Return the texts of a batch that fall to this process; the last ones may get one less, or none."""
    return np.array_split(batch, accelerator.num_processes)[accelerator.process_index]


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its sum over the processes; one that no process has stays None."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    given = gathered([parameter.grad is not None for parameter in trained], accelerator)
    for parameter, anywhere in zip(trained, np.any(given, axis=0), strict=True):
        if anywhere:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            with _talking(accelerator):
                parameter.grad = accelerator.reduce(own, reduction="sum")


def mean_figures(figures: Mapping[str, float], accelerator: Accelerator, *, share: float) -> dict[str, float]:
    """Return the mean of each figure over the processes, the same in all of them.

    Args:
        figures: This process's means over its texts; it may lack some that others have.
        accelerator: The processes.
        share: Its texts as a share of the batch.
    """
    given = gathered((share, dict(figures)), accelerator)
    names = dict.fromkeys(name for _, own in given for name in own)
    totals = {name: sum(weight * own[name] for weight, own in given if name in own) for name in names}
    return {name: total / sum(weight for weight, own in given if name in own) for name, total in totals.items()}


def shared_logits(classifier: TorchClassifier, rows: Sequence[np.ndarray], accelerator: Accelerator) -> Logits:
    """Return the logits of all rows, of which each process computes a share."""
    if accelerator.num_processes == 1:
        return classifier.logits_of_rows(rows)
    own = own_share(np.arange(len(rows)), accelerator)
    return np.concatenate(gathered(classifier.logits_of_rows([rows[index] for index in own]), accelerator))


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
