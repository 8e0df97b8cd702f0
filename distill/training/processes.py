"""The processes of one run, through accelerate, and the files they share.

`accelerate launch` or `torchrun` starts several processes; otherwise a run is one process. Every process holds the whole
model and takes the same steps. Gradients are summed over the shares of each batch, so any number of processes ends with the
same weights, up to rounding. The first process writes texts, token ids and teacher logits to files, and all map them. If a
process fails, it reports why and ends; the others end when they next wait for it.
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import InitProcessGroupKwargs, gather_object
from numpy.typing import NDArray
from torch import nn

from distill.batching import Indices
from distill.classifier import Classifier
from distill.data.dataset import LazySequence
from distill.errors import ClusterError, MissingExtraError
from distill.labels import Logits
from distill.models.devices import Compute, chosen_device, chosen_mixed_precision
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.settings import Device, MixedPrecision, Tracker
from distill.storage import writing_to
from distill.teachers.answer_store import soft_targets_dir
from distill.teachers.answers import Answers, share_of, teacher_logits
from distill.texts import TextInput, content_of, of_content
from distill.tokenization import TextTokenizer

PATIENCE = timedelta(days=1)
"""How long a process waits for another. A dead process is noticed at once; one that runs the teacher may take hours."""

TRANSFER = ".transfer"
"""Folder of the shared files, inside the bundle's folder."""

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)


@contextmanager
def open_accelerator(
    device: Device = "auto",
    *,
    mixed_precision: MixedPrecision = "no",
    track: Sequence[Tracker] = (),
    logs: Path | None = None,
) -> Iterator[Accelerator]:
    """Yield the accelerator of one run; several processes join by the variables that their launcher has set.

    accelerate keeps one state per process and refuses a second precision. Each run has its own state; the caller's state,
    if there is one, is restored afterwards.

    Args:
        device: Where to compute.
        mixed_precision: Dtype to compute in.
        track: Where the figures of each step go.
        logs: Folder for the trackers that write files.

    Raises:
        SettingsError: The device is missing, or does not support the precision.
        MissingExtraError: A tracker is not installed.
    """
    for name in track:
        if importlib.util.find_spec(name) is None:  # accelerate would silently leave it out
            raise MissingExtraError(extra=name, package=name, needed_for=f"--track {name}")
    chosen = chosen_device(device)
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
def _communicating(accelerator: Accelerator) -> Iterator[None]:
    """Turn the library's error about a dead process into a `ClusterError`."""
    try:
        yield
    except RuntimeError as exc:
        if accelerator.num_processes == 1:
            raise
        raise ClusterError(
            "another process of this run has ended; finished work is kept, so start all processes again to resume"
        ) from exc


def gathered(value: T, accelerator: Accelerator) -> list[T]:
    """Return to every process the values of all processes, in their order.

    Raises:
        ClusterError: A process has ended.
    """
    with _communicating(accelerator):
        values: list[T] = gather_object([value])
    return values


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait until every process has reached this point.

    Raises:
        ClusterError: A process has ended.
    """
    with _communicating(accelerator):
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
            with _communicating(accelerator):
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


class _Mapped(LazySequence[T]):
    """Items in a file, as bytes, with a second file of where each ends."""

    def __init__(self, path: Path) -> None:
        """Map what was written."""
        # As plain arrays: their slices cost less than those of a memmap.
        self._ends = np.memmap(_ends_path(path), dtype="<i8", mode="r").view(np.ndarray)
        self._content = np.empty(0, dtype=np.uint8)
        if self._ends[-1]:  # an empty file cannot be mapped
            self._content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)

    @classmethod
    def write(cls, path: Path, items: Iterable[T]) -> Self:
        """Write the items to a new file, one at a time, and map it."""
        end = 0
        with writing_to(path), path.open("wb") as content, _ends_path(path).open("wb") as ends:
            ends.write(bytes(8))
            for item in items:
                end += content.write(cls._to_bytes(item))
                ends.write(end.to_bytes(8, "little"))
        return cls(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, place: int) -> T:
        return self._from_bytes(self._content[self._ends[place] : self._ends[place + 1]])

    @staticmethod
    @abstractmethod
    def _to_bytes(item: T) -> bytes:
        """Return an item as bytes."""

    @staticmethod
    @abstractmethod
    def _from_bytes(content: NDArray[np.uint8]) -> T:
        """Return the item of these bytes."""


class MappedTexts(_Mapped[TextInput]):
    """Texts or pairs in a file."""

    @staticmethod
    def _to_bytes(item: TextInput) -> bytes:
        return content_of(item)

    @staticmethod
    def _from_bytes(content: NDArray[np.uint8]) -> TextInput:
        return of_content(bytes(content))


class MappedRows(_Mapped[NDArray[np.int64]]):
    """Rows of token ids in a file, as int32."""

    @staticmethod
    def _to_bytes(item: NDArray[np.int64]) -> bytes:
        return item.astype("<i4").tobytes()

    @staticmethod
    def _from_bytes(content: NDArray[np.uint8]) -> NDArray[np.int64]:
        return content.view("<i4").astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self._ends) // 4


def lengths_of(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the number of tokens of each row, shape (rows,), without reading mapped rows."""
    return rows.lengths if isinstance(rows, MappedRows) else np.array([len(row) for row in rows], dtype=np.int64)


def _ends_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ends")


_CHUNK_TEXTS = 4096


@dataclass(frozen=True)
class SharedFiles:
    """A folder of files that the first process of a run writes and all processes map.

    Attributes:
        folder: A folder that all processes see.
        accelerator: The processes of the run.
    """

    folder: Path
    accelerator: Accelerator

    def texts(self, name: str, texts: Iterable[TextInput]) -> MappedTexts:
        """Return the texts from a file; only the first process reads `texts`, once and a few at a time."""
        self.made(lambda: MappedTexts.write(self.folder / name, texts))
        return MappedTexts(self.folder / name)

    def rows(self, name: str, texts: Sequence[TextInput], tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of texts from a file."""
        chunks = (texts[start : start + _CHUNK_TEXTS] for start in range(0, len(texts), _CHUNK_TEXTS))
        self.made(lambda: MappedRows.write(self.folder / name, (row for chunk in chunks for row in tokenizer.encode(chunk))))
        return MappedRows(self.folder / name)

    def array(self, name: str, make: Callable[[], NDArray[Number]]) -> NDArray[Number]:
        """Return an array, which the first process makes, from a file; it must not be empty."""
        path = self.folder / f"{name}.npy"
        with writing_to(path):
            self.made(lambda: np.save(path, make()))
        array: NDArray[Number] = np.load(path, mmap_mode="r").view(np.ndarray)
        return array

    def made(self, make: Callable[[], object]) -> None:
        """Call `make` in the first process; all others wait until it has returned."""
        if self.accelerator.is_main_process:
            make()
        wait_for_all(self.accelerator)


@contextmanager
def shared_files(folder: Path, accelerator: Accelerator) -> Iterator[SharedFiles]:
    """Yield an empty folder for all processes and remove it afterwards; files of a killed run are removed first.

    Raises:
        ClusterError: The processes do not see the same folder.
        StorageError: The folder cannot be written.
    """
    require_same_folder(folder.parent, accelerator)
    if accelerator.is_main_process:
        with writing_to(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
    try:
        wait_for_all(accelerator)
        yield SharedFiles(folder, accelerator)
        wait_for_all(accelerator)  # before the first process removes a file that another has not mapped yet
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def logits_together(
    teacher: Classifier,
    texts: Sequence[TextInput],
    *,
    files: SharedFiles,
    name: str,
    compute: Compute = "no",
    reporter: Reporter,
) -> Answers:
    """Return the teacher's logits of each text, from a file; each of several processes computes a share of them.

    Args:
        teacher: One classifier or an ensemble; the same in all processes, as are the texts.
        texts: At least one.
        files: Where the logits are saved.
        name: Name of that file.
        compute: The dtype the teacher computes in.
        reporter: Receives progress; of several processes, that of the first one's share.

    Raises:
        ClusterError: Another process has ended, or the processes do not see the same cache.
        TeacherError: The logits are not finite or have the wrong shape.
    """
    path, accelerator = files.folder / name, files.accelerator
    if accelerator.num_processes == 1:
        return teacher_logits(teacher, texts, compute=compute, into=path, reporter=reporter)
    require_same_folder(soft_targets_dir(), accelerator)
    own = share_of(texts, share=accelerator.process_index, of=accelerator.num_processes)
    num_cached = sum(gathered(teacher_logits(teacher, own, compute=compute, reporter=reporter).num_cached, accelerator))
    files.made(lambda: teacher_logits(teacher, texts, compute=compute, into=path, reporter=reporter))
    logits = np.memmap(path, dtype=np.float32, mode="r", shape=(len(texts), len(teacher.labels))).view(np.ndarray)
    return Answers(logits, num_cached)
