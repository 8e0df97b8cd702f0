"""Teacher logits, computed once and cached by text.

There is one cache file for each teacher (weights, config, tokenizer, max_length) and way of computing (dtype, device,
PyTorch version). An interrupted run keeps what it had computed, and several processes may ask at once, each for its share
of the texts. A PyTorch teacher's logits have the same bits whether the cache is cold, warm or half warm: the shape of the
batch in which a text is computed depends on that text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from distill.batching import Indices
from distill.classifier import Classifier, Ensemble, digest_of, mean_logits
from distill.errors import TeacherError
from distill.labels import Logits
from distill.models.devices import Compute
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.storage import writing_to
from distill.teachers.answer_store import AnswerStore, Keys, keys_of, soft_targets_dir
from distill.teachers.recorded import PartlyAnswered, RecordedLogits

CHUNK_TEXTS = 16_384
"""Texts looked up and computed at a time; a larger chunk has fewer batches that are not full."""

PIECE_TEXTS = 512
"""Texts after which computed logits are written to the cache."""

_FORMAT = 2


@dataclass(frozen=True)
class Answers:
    """Teacher logits of some texts, and how many of these were already in the cache.

    Attributes:
        logits: Shape (texts, labels), float32; row i belongs to text i.
        num_cached: Texts whose logits were in the cache; of an ensemble, in every member's.
    """

    logits: Logits
    num_cached: int


def teacher_logits(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    compute: Compute = "no",
    folder: Path | None = None,
    into: Path | None = None,
    reporter: Reporter | None = None,
) -> Answers:
    """Return the teacher's logits of each text, computing only those that no earlier run has computed.

    Args:
        teacher: One classifier or an ensemble, whose members are cached separately.
        texts: Repeated texts are computed once.
        compute: The dtype a PyTorch teacher computes in; each dtype is cached separately.
        folder: The folder of the cache files; None is `soft_targets` in the user's cache.
        into: A new file that the logits are written to and mapped from; None returns them in memory.
        reporter: Receives progress.

    Raises:
        SettingsError: A teacher has no `digest()`.
        TeacherError: A teacher's logits are not finite or have the wrong shape.
        StorageError: The cache or `into` cannot be written.
    """
    askers = _askers(teacher, compute, folder)
    logits = _room(len(texts), len(teacher.labels), into)
    num_cached = 0
    with (reporter or SilentReporter()).task("teacher logits", len(askers) * len(texts)) as advance:
        for start in range(0, len(texts), CHUNK_TEXTS):
            chunk = texts[start : start + CHUNK_TEXTS]
            answers = [asker.answer(chunk, advance) for asker in askers]
            logits[start : start + len(chunk)] = mean_logits([answer.logits for answer in answers])
            num_cached += min(answer.num_cached for answer in answers)
    for asker in askers:
        asker.finish()
    if isinstance(logits.base, np.memmap):
        logits.base.flush()  # another machine may read the file
    return Answers(logits, num_cached)


class _ChosenTexts(Sequence[str]):
    """Some of a sequence of texts, read when they are asked for."""

    def __init__(self, texts: Sequence[str], places: Indices) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._texts[place] for place in self._places[index].tolist()]
        return self._texts[int(self._places[index])]


def share_of(texts: Sequence[str], *, share: int, of: int) -> Sequence[str]:
    """Return the texts that one of several processes asks the teacher for.

    The content of a text decides its share, so that repeated texts are in one share, no share depends on what the cache
    holds at the moment, and the processes need not exchange anything.

    Args:
        texts: All texts.
        share: Which share, from 0.
        of: Number of shares.
    """
    starts = range(0, len(texts), CHUNK_TEXTS)
    keys = (keys_of(texts[start : start + CHUNK_TEXTS]) for start in starts)
    places = [start + np.flatnonzero(some[:, 1] % np.uint64(of) == share) for start, some in zip(starts, keys, strict=True)]
    return _ChosenTexts(texts, np.concatenate(places) if places else np.empty(0, dtype=np.int64))


def _askers(teacher: Classifier, compute: Compute, folder: Path | None) -> list[_Asker]:
    members = teacher.members if isinstance(teacher, Ensemble) else (teacher,)
    return [_Asker(member, compute, folder or soft_targets_dir()) for member in members]


def _room(num_texts: int, num_labels: int, into: Path | None) -> Logits:
    if into is None or not num_texts:  # an empty file cannot be mapped
        return np.empty((num_texts, num_labels), dtype=np.float32)
    with writing_to(into):
        return np.memmap(into, dtype=np.float32, mode="w+", shape=(num_texts, num_labels)).view(np.ndarray)


class _Asker:
    """One teacher and the file of what it has answered."""

    def __init__(self, teacher: Classifier, compute: Compute, folder: Path) -> None:
        self._known = teacher.answers if isinstance(teacher, PartlyAnswered | RecordedLogits) else None
        teacher = teacher.teacher if isinstance(teacher, PartlyAnswered) else teacher
        self._teacher = teacher
        self._compute = compute
        self._file = AnswerStore(folder / _file_name(teacher, compute), len(teacher.labels))

    def answer(self, texts: Sequence[str], advance: Callable[[int], object]) -> Answers:
        keys = keys_of(texts)
        found, logits = self._file.find(keys)
        if self._known is not None:
            known, given = self._known.find(keys)
            found, logits = found | known, np.where(known[:, None], given, logits)
        advance(int(found.sum()))
        missing = np.flatnonzero(~found)
        if not len(missing):
            return Answers(logits, len(texts))
        _, first, same_as = np.unique(keys[missing], axis=0, return_index=True, return_inverse=True)
        asked = missing[np.sort(first)]
        self._compute_into(logits, texts, keys, asked, advance)
        # Repeated texts: each takes the answer to its first appearance.
        logits[missing] = logits[missing[first]][same_as.reshape(-1)]
        advance(len(missing) - len(asked))
        return Answers(logits, len(texts) - len(missing))

    def _compute_into(
        self, logits: Logits, texts: Sequence[str], keys: Keys, asked: Indices, advance: Callable[[int], object]
    ) -> None:
        unwritten: list[Indices] = []
        answers = _answers(self._teacher, [texts[index] for index in asked], self._compute)
        try:
            for places, computed in answers:
                where = asked[places]
                logits[where] = computed
                unwritten.append(where)
                advance(len(where))
                if sum(map(len, unwritten)) >= PIECE_TEXTS:
                    self._write_down(logits, keys, unwritten)
        finally:  # an interrupted run keeps what it has
            self._write_down(logits, keys, unwritten)

    def _write_down(self, logits: Logits, keys: Keys, unwritten: list[Indices]) -> None:
        if unwritten:
            places = np.concatenate(unwritten)
            self._file.append(keys[places], logits[places])
        unwritten.clear()

    def finish(self) -> None:
        self._file.sync()


def _answers(teacher: Classifier, texts: Sequence[str], compute: Compute) -> Iterator[tuple[Indices, Logits]]:
    """Yield the positions of some texts and their logits, until all are answered."""
    if isinstance(teacher, TorchClassifier):
        for places, logits in teacher.steady_logits(teacher.tokenizer.encode(texts), compute):
            yield places, _require_good(logits, places, teacher)
        return
    for start in range(0, len(texts), PIECE_TEXTS):
        places = np.arange(start, min(start + PIECE_TEXTS, len(texts)))
        yield places, _require_good(teacher.predict_logits(texts[start : start + PIECE_TEXTS]), places, teacher)


def _require_good(logits: Logits, places: Indices, teacher: Classifier) -> Logits:
    wanted = (len(places), len(teacher.labels))
    if np.shape(logits) != wanted or not np.isfinite(logits).all():
        raise TeacherError(
            f"the teacher gave logits of shape {np.shape(logits)} to {len(places)} texts; wanted finite numbers, {wanted}"
        )
    return np.asarray(logits, dtype=np.float32)


def _file_name(teacher: Classifier, compute: Compute) -> str:
    """Return the name of the file of this teacher's answers on this kind of machine; other kinds round differently."""
    parts = [_FORMAT, digest_of(teacher), torch.backends.cpu.get_cpu_capability()]
    if isinstance(teacher, TorchClassifier):
        parts += [compute, torch.__version__, teacher.model.device.type]
    return f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.logits"
