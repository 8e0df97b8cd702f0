"""The teacher's logits of a set, small enough to commit: keyed by a digest of each text, in half precision, compressed.

With this file and the set's texts, anyone trains the students without the teacher. The file is an `.npz` of NumPy.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError
from distill.labels import Logits, ProblemType
from distill.storage import sha256_of, write_atomically
from distill.teachers.answer_store import keys_of
from distill.texts import TextInput, joined

MAX_BYTES = 8_000_000
SUFFIX = "-logits.npz"


class PublishedLogits:
    """A teacher that knows the logits of certain texts, from a file."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            DatasetError: There is none, or it is not one that `write_logits` wrote.
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                self.labels = tuple(str(label) for label in file["labels"])
                self._keys: NDArray[np.uint64] = file["keys"]
                self._logits: NDArray[np.float16] = file["logits"]
                self.teacher = str(file["teacher"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            raise DatasetError(f"{path} has no teacher logits ({exc}); run the scenario with a teacher to make it") from exc
        if self._logits.shape != (len(self._keys), len(self.labels)):
            raise DatasetError(f"{path} has {len(self._keys)} keys, and logits of shape {self._logits.shape}; make it again")
        self._digest = sha256_of(path)

    def knows(self, texts: Sequence[TextInput]) -> NDArray[np.bool_]:
        """Return whose logits are known, shape (texts,)."""
        return self._found(texts)[0]

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the logits, shape (texts, labels), float32.

        Raises:
            DatasetError: A text is not known.
        """
        known, places = self._found(texts)
        if not known.all():
            raise DatasetError(
                f"there are no published logits of the text {joined(texts[int(np.argmin(known))])[:60]!r}; the texts are "
                "others than those that the teacher answered"
            )
        return self._logits[places].astype(np.float32)

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return self._digest

    def _found(self, texts: Sequence[TextInput]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        keys = _short_keys(texts)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[places] == keys, places


def write_logits(
    path: Path,
    parts: Mapping[str, tuple[Sequence[TextInput], Logits]],
    *,
    labels: Sequence[str],
    teacher: str,
    max_bytes: int = MAX_BYTES,
) -> dict[str, int]:
    """Write the logits of as many parts as fit, in their order, and return the number of texts of each.

    Args:
        path: The file.
        parts: Texts and logits by name, the most important first; a part that does not fit has 0 texts.
        labels: Label names, in the order of the logits.
        teacher: The sha256 of the teacher's weights.
        max_bytes: Size of the file at most.

    Raises:
        DatasetError: Not even the first part fits, or two texts have one key.
    """
    texts: list[TextInput] = []
    rows: list[NDArray[np.float16]] = []
    counts = dict.fromkeys(parts, 0)
    written: bytes | None = None
    for name, (more, logits) in parts.items():
        content = _packed([*texts, *more], [*rows, logits.astype(np.float16)], labels, teacher)
        if len(content) > max_bytes:
            continue
        texts, rows, written = [*texts, *more], [*rows, logits.astype(np.float16)], content
        counts[name] = len(more)
    if written is None:
        raise DatasetError(f"{path}: the logits of {next(iter(parts))} alone take more than {max_bytes:,} bytes")
    write_atomically(path, written)
    return counts


def _packed(texts: Sequence[TextInput], rows: Sequence[NDArray[np.float16]], labels: Sequence[str], teacher: str) -> bytes:
    keys, first = np.unique(_short_keys(texts), return_index=True)
    if len(keys) != len(set(texts)):
        raise DatasetError("two texts have the same key of 64 bits; write longer keys")
    file = io.BytesIO()
    np.savez_compressed(
        file, keys=keys, logits=np.concatenate(rows)[first], labels=np.array(list(labels)), teacher=np.array(teacher)
    )
    return file.getvalue()


def _short_keys(texts: Sequence[TextInput]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each text's sha256: 325,000 texts collide in one of 350 million sets."""
    return np.ascontiguousarray(keys_of(texts)[:, 0])
