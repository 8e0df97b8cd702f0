"""What the processes of a run do together before they train: they share files, and ask the teacher.

A file is written once, by the first process, and mapped by all: however many train on a machine, its pages are in memory
once. Each process asks the teacher for its share of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from distill.classifier import Classifier
from distill.progress import Reporter
from distill.storage import writing_to
from distill.tokenization import TextTokenizer
from distill.training.devices import Compute
from distill.training.mapped import MappedRows, MappedTexts, scratch_folder
from distill.training.processes import gathered, require_same_folder, wait_for_all
from distill.training.soft_targets import SoftTargets, answer_share, soft_targets_dir, teacher_logits

TRANSFER = ".transfer"
"""Folder of these files below that of the bundle."""

_CHUNK_TEXTS = 4096

Item = TypeVar("Item", bound=np.generic)


@dataclass(frozen=True)
class SharedFiles:
    """A folder of files that the first process of a run writes and all map.

    Attributes:
        folder: Seen by all processes.
        accelerator: The processes; None is this one alone.
    """

    folder: Path
    accelerator: Accelerator | None = None

    def texts(self, name: str, texts: Iterable[str]) -> MappedTexts:
        """Return these texts from a file; only the first process reads where they come from, once and one at a time."""
        self.made(lambda: MappedTexts.write(self.folder / name, texts))
        return MappedTexts(self.folder / name)

    def rows(self, name: str, texts: Sequence[str], tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of texts from a file."""
        self.made(lambda: MappedRows.write(self.folder / name, _encoded(tokenizer, texts)))
        return MappedRows(self.folder / name)

    def made(self, make: Callable[[], object]) -> None:
        """Let the first process make something here, and go on in all when it has."""
        if self.accelerator is None or self.accelerator.is_main_process:
            make()
        if self.accelerator is not None:
            wait_for_all(self.accelerator)

    def array(self, name: str, make: Callable[[], NDArray[Item]]) -> NDArray[Item]:
        """Return what the first process has made, from a file, as a plain array; at least one number."""
        path = self.folder / f"{name}.npy"
        with writing_to(path):
            self.made(lambda: np.save(path, make()))
        array: NDArray[Item] = np.load(path, mmap_mode="r").view(np.ndarray)
        return array


@contextmanager
def shared_files(folder: Path, accelerator: Accelerator) -> Iterator[SharedFiles]:
    """Yield an empty folder for all processes, and remove it afterwards; what a killed run left in it is removed first.

    Raises:
        ClusterError: The processes do not see the same folder.
        StorageError: It cannot be written.
    """
    require_same_folder(folder.parent, accelerator)
    with scratch_folder(folder) if accelerator.is_main_process else nullcontext():
        wait_for_all(accelerator)
        yield SharedFiles(folder, accelerator)
        wait_for_all(accelerator)  # before the first removes what another has still to map


def logits_together(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    files: SharedFiles,
    name: str,
    compute: Compute = "no",
    reporter: Reporter,
) -> SoftTargets:
    """Return the teacher's logits of each text, from a file, each process having asked for its share of them.

    Args:
        teacher: One or an ensemble. One whose answers cannot be kept is asked by the first process alone.
        texts: The same in all processes, as is the teacher; at least one.
        files: Where the logits are laid down.
        name: Of their file.
        compute: Numbers the teacher computes in.
        reporter: Told of progress.

    Raises:
        ClusterError: A process has ended, or the cache is not one and the same for all.
        TeacherError: The answers are not finite numbers of the right shape.
    """
    num_cached = _ask_together(teacher, texts, accelerator=files.accelerator, compute=compute, reporter=reporter)
    found: list[SoftTargets] = []
    path = files.folder / name
    files.made(lambda: found.append(teacher_logits(teacher, texts, compute=compute, into=path, reporter=reporter)))
    if num_cached is None:
        return found[0]
    logits = np.memmap(path, dtype=np.float32, mode="r", shape=(len(texts), len(teacher.labels))).view(np.ndarray)
    return SoftTargets(logits, num_cached)


def _ask_together(
    teacher: Classifier, texts: Sequence[str], *, accelerator: Accelerator | None, compute: Compute, reporter: Reporter
) -> int | None:
    """Bring the teacher's answers into the cache, of which each process computes its share; wait until all are there.

    Returns:
        How many of the texts were in the cache before; None where a process is alone, which asks when it needs to.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return None
    require_same_folder(soft_targets_dir(), accelerator)
    share, of = accelerator.process_index, accelerator.num_processes
    num_cached = answer_share(teacher, texts, share=share, of=of, compute=compute, reporter=reporter)
    return sum(gathered(num_cached, accelerator))


def _encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(texts), _CHUNK_TEXTS):
        yield from tokenizer.encode(texts[start : start + _CHUNK_TEXTS])
