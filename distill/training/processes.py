"""The processes of one run, through accelerate: their devices, their shares of a batch, and the sums over all of them.

`accelerate launch` or `torchrun` starts several; otherwise a run is one process. Every process holds the whole model
and takes the same steps: gradients are summed over the shares of each batch, so any number of processes ends with the
same weights, up to rounding. A process that fails reports why and ends; the others end when they next wait for it.
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
from accelerate.state import AcceleratorState, GradientState, PartialState
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
"""How long a process waits for another. A dead process is noticed at once; one that runs the teacher may take hours."""

T = TypeVar("T")


@contextmanager
def open_accelerator(
    device: Device | torch.device = "auto",
    *,
    mixed_precision: MixedPrecision = "no",
    track: Sequence[Tracker] = (),
    logs: Path | None = None,
) -> Iterator[Accelerator]:
    """Yield the accelerator of one run; several processes join by the variables that their launcher has set.

    accelerate keeps one state per process and refuses a second precision. Each run gets a state of its own; the
    caller's state, if there is one, is put back afterwards.

    Args:
        device: Where to compute.
        mixed_precision: Dtype to compute in.
        track: Where the figures of each step go.
        logs: Folder for the trackers that write files.

    Raises:
        SettingsError: The device is missing, or does not support the precision.
        MissingExtraError: A tracker is not installed.
    """
    require_trackers(track)
    chosen = device if isinstance(device, torch.device) else chosen_device(device)
    compute = chosen_mixed_precision(mixed_precision, chosen)
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    callers = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        yield Accelerator(
            cpu=chosen.type == "cpu",
            mixed_precision=compute,
            log_with=list(track) or None,
            project_dir=logs,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    finally:
        for state, callers_own in zip(states, callers, strict=True):
            state.clear()
            state.update(callers_own)


@contextmanager
def _talking(accelerator: Accelerator) -> Iterator[None]:
    """Turn the library's error about a dead process into a `ClusterError`."""
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
    """Wait until every process has reached this point.

    Raises:
        ClusterError: A process has ended.
    """
    with _talking(accelerator):
        accelerator.wait_for_everyone()


def require_same_folder(folder: Path, accelerator: Accelerator) -> None:
    """Refuse a folder that the processes do not share, such as one on each machine's own disk.

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
            f"process {seen.index(False)} does not see what process 0 writes to {folder}; all processes need the same folder: "
            "set --out, and POTSTILL_CACHE for the teacher's logits, to folders that the machines share"
        )


def own_share(batch: Indices, accelerator: Accelerator) -> Indices:
    """Return this process's share of a batch; the last processes may get one text less, or none."""
    return np.array_split(batch, accelerator.num_processes)[accelerator.process_index]


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its sum over the processes; a gradient that no process has stays None."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    given = gathered([parameter.grad is not None for parameter in trained], accelerator)
    for parameter, anywhere in zip(trained, np.any(given, axis=0), strict=True):
        if anywhere:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            with _talking(accelerator):
                parameter.grad = accelerator.reduce(own, reduction="sum")


def mean_figures(figures: Mapping[str, float], accelerator: Accelerator, *, share: float) -> dict[str, float]:
    """Return the mean of each figure over the processes, weighted by their shares; the same in all of them.

    Args:
        figures: This process's means over its texts; it may lack figures that others have.
        accelerator: The processes.
        share: This process's texts as a share of the batch.
    """
    given = gathered((share, dict(figures)), accelerator)
    names = dict.fromkeys(name for _, own in given for name in own)
    totals = {name: sum(weight * own[name] for weight, own in given if name in own) for name in names}
    return {name: total / sum(weight for weight, own in given if name in own) for name, total in totals.items()}


def shared_logits(classifier: TorchClassifier, rows: Sequence[np.ndarray], accelerator: Accelerator) -> Logits:
    """Return the logits of all rows; each process computes a share."""
    if accelerator.num_processes == 1:
        return classifier.logits_of_rows(rows)
    own = own_share(np.arange(len(rows)), accelerator)
    return np.concatenate(gathered(classifier.logits_of_rows([rows[index] for index in own]), accelerator))


PROJECT = "potstill"


def logs_of(out: Path | str) -> Path:
    """Return the folder for the logs of a run: beside the bundle's folder, because a bundle holds only its own files."""
    folder = Path(out).resolve()  # "." has no name of its own
    return folder.with_name(f"{folder.name}-logs")


def require_trackers(track: Sequence[Tracker]) -> None:
    """Refuse a tracker whose package is missing: accelerate would silently leave it out.

    Raises:
        MissingExtraError: Names the extra, which has the tracker's name.
    """
    for name in track:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(extra=name, package=name, needed_for=f"--track {name}")


@contextmanager
def tracked(accelerator: Accelerator, *, title: str, settings: TrainingSettings) -> Iterator[None]:
    """Open the trackers the accelerator was made with and close them after the block.

    Inside the block `accelerator.log` writes to them, from the first process only.
    """
    if not accelerator.log_with:
        yield
        return
    plain = {name: value for name, value in settings.model_dump(mode="json").items() if isinstance(value, int | float | str)}
    accelerator.init_trackers(f"{PROJECT}-{title}", config=plain)
    try:
        yield
    finally:
        # Not `end_training`: it also ends the process group, which is needed to seal the bundle.
        for tracker in accelerator.trackers:
            tracker.finish()
