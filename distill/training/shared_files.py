"""Files that the processes of a run share: the first process writes them, all map them. Teacher logits are among them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from distill.classifier import Classifier
from distill.models.devices import Compute
from distill.progress import Reporter
from distill.storage import writing_to
from distill.teachers.answer_store import soft_targets_dir
from distill.teachers.answers import Answers, share_of, teacher_logits
from distill.tokenization import TextTokenizer
from distill.training.processes import gathered, require_same_folder, wait_for_all

_END = np.dtype("<i8")
_TOKEN = np.dtype("<i4")


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder and remove it afterwards; files that a killed run left in it are removed first."""
    with writing_to(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class MappedTexts(Sequence[str]):
    """Texts in a file."""

    def __init__(self, path: Path) -> None:
        """Map what was written."""
        self._content, self._ends = _map(path, np.dtype(np.uint8))

    @classmethod
    def write(cls, path: Path, texts: Iterable[str]) -> MappedTexts:
        """Write the texts to a new file, one at a time, and map it."""
        _write(path, (text.encode(errors="surrogatepass") for text in texts), item_bytes=1)
        return cls(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return bytes(_piece(self._content, self._ends, index)).decode(errors="surrogatepass")


class MappedRows(Sequence[NDArray[np.int64]]):
    """Rows of token ids in a file."""

    def __init__(self, path: Path) -> None:
        """Map what was written."""
        self._content, self._ends = _map(path, _TOKEN)

    @classmethod
    def write(cls, path: Path, rows: Iterable[NDArray[np.int64]]) -> MappedRows:
        """Write the rows to a new file, one at a time, and map it."""
        _write(path, (row.astype(_TOKEN).tobytes() for row in rows), item_bytes=_TOKEN.itemsize)
        return cls(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self._ends)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.int64]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return _piece(self._content, self._ends, index).astype(np.int64)


def lengths_of(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the number of tokens of each row, shape (rows,), without reading mapped rows."""
    return rows.lengths if isinstance(rows, MappedRows) else np.array([len(row) for row in rows], dtype=np.int64)


def _write(path: Path, pieces: Iterable[bytes], *, item_bytes: int) -> None:
    end = 0
    with writing_to(path), path.open("wb") as content, _ends_path(path).open("wb") as ends:
        ends.write(bytes(_END.itemsize))
        for piece in pieces:
            content.write(piece)
            end += len(piece) // item_bytes
            ends.write(end.to_bytes(_END.itemsize, "little"))


def _map(path: Path, dtype: np.dtype[np.uint8] | np.dtype[np.int32]) -> tuple[NDArray[np.uint8 | np.int32], NDArray[np.int64]]:
    """Return the content and the pieces' ends, in items; as plain arrays, whose slices cost less than a `memmap`'s."""
    ends = np.memmap(_ends_path(path), dtype=_END, mode="r").view(np.ndarray)
    if not ends[-1]:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype), ends
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray), ends


def _ends_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ends")


def _piece(content: NDArray[np.uint8 | np.int32], ends: NDArray[np.int64], index: int) -> NDArray[np.uint8 | np.int32]:
    place = range(len(ends) - 1)[index]  # IndexError beyond the end, as a list's
    return content[ends[place] : ends[place + 1]]


TRANSFER = ".transfer"
"""Folder of these files below that of the bundle."""

_CHUNK_TEXTS = 4096

Item = TypeVar("Item", bound=np.generic)


@dataclass(frozen=True)
class SharedFiles:
    """A folder of files that the first process of a run writes and all processes map.

    Attributes:
        folder: All processes see it.
        accelerator: The processes of the run; None if there is only this one.
    """

    folder: Path
    accelerator: Accelerator | None = None

    def texts(self, name: str, texts: Iterable[str]) -> MappedTexts:
        """Return the texts from a file; only the first process reads `texts`, once and a few at a time."""
        self.made(lambda: MappedTexts.write(self.folder / name, texts))
        return MappedTexts(self.folder / name)

    def rows(self, name: str, texts: Sequence[str], tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of texts from a file."""
        self.made(lambda: MappedRows.write(self.folder / name, _encoded(tokenizer, texts)))
        return MappedRows(self.folder / name)

    def made(self, make: Callable[[], object]) -> None:
        """Call `make` in the first process; all others wait until it has returned."""
        if self.accelerator is None or self.accelerator.is_main_process:
            make()
        if self.accelerator is not None:
            wait_for_all(self.accelerator)

    def array(self, name: str, make: Callable[[], NDArray[Item]]) -> NDArray[Item]:
        """Return an array, which the first process makes, from a file; it must not be empty."""
        path = self.folder / f"{name}.npy"
        with writing_to(path):
            self.made(lambda: np.save(path, make()))
        array: NDArray[Item] = np.load(path, mmap_mode="r").view(np.ndarray)
        return array


@contextmanager
def shared_files(folder: Path, accelerator: Accelerator) -> Iterator[SharedFiles]:
    """Yield an empty folder for all processes and remove it afterwards; files of a killed run are removed first.

    Raises:
        ClusterError: The processes do not see the same folder.
        StorageError: It cannot be written.
    """
    require_same_folder(folder.parent, accelerator)
    with scratch_folder(folder) if accelerator.is_main_process else nullcontext():
        wait_for_all(accelerator)
        yield SharedFiles(folder, accelerator)
        wait_for_all(accelerator)  # before the first process removes what another has yet to map


def logits_together(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    files: SharedFiles,
    name: str,
    compute: Compute = "no",
    reporter: Reporter,
) -> Answers:
    """Return the teacher's logits of each text, from a file. Of several processes, each computes a share of them.

    Args:
        teacher: One classifier or an ensemble; the same in all processes, as are the texts.
        texts: At least one.
        files: Where the file of the logits is saved.
        name: Name of that file.
        compute: The dtype the teacher computes in.
        reporter: Receives progress; of several processes, that of the first one's share.

    Raises:
        ClusterError: Another process has ended, or the processes do not see the same cache.
        TeacherError: The logits are not finite or have the wrong shape.
    """
    path, accelerator = files.folder / name, files.accelerator
    if accelerator is None or accelerator.num_processes == 1:
        return teacher_logits(teacher, texts, compute=compute, into=path, reporter=reporter)
    require_same_folder(soft_targets_dir(), accelerator)
    own = share_of(texts, share=accelerator.process_index, of=accelerator.num_processes)
    num_cached = sum(gathered(teacher_logits(teacher, own, compute=compute, reporter=reporter).num_cached, accelerator))
    files.made(lambda: teacher_logits(teacher, texts, compute=compute, into=path, reporter=reporter))
    logits = np.memmap(path, dtype=np.float32, mode="r", shape=(len(texts), len(teacher.labels))).view(np.ndarray)
    return Answers(logits, num_cached)


def _encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(texts), _CHUNK_TEXTS):
        yield from tokenizer.encode(texts[start : start + _CHUNK_TEXTS])
