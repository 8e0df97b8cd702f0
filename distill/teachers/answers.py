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

import numpy as np
import torch

from distill.batching import Indices
from distill.classifier import Classifier, Ensemble, digest_of, mean_logits
from distill.data.dataset import LazySequence
from distill.errors import TeacherError
from distill.labels import Logits
from distill.models.devices import Compute
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.storage import reserve
from distill.teachers.answer_store import AnswerStore, keys_of, soft_targets_dir
from distill.teachers.recorded import PartlyAnswered, RecordedLogits
from distill.texts import TextInput

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
    texts: Sequence[TextInput],
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
    members = teacher.members if isinstance(teacher, Ensemble) else (teacher,)
    askers = [_Asker(member, compute, folder or soft_targets_dir()) for member in members]
    logits = _empty_logits(len(texts), len(teacher.labels), into)
    num_cached = 0
    with (reporter or SilentReporter()).task("teacher logits", len(askers) * len(texts)) as advance:
        for start in range(0, len(texts), CHUNK_TEXTS):
            chunk = texts[start : start + CHUNK_TEXTS]
            answers = [asker.answer(chunk, advance) for asker in askers]
            logits[start : start + len(chunk)] = mean_logits([answer.logits for answer in answers])
            num_cached += min(answer.num_cached for answer in answers)
    for asker in askers:
        asker.file.sync()
    if isinstance(logits.base, np.memmap):
        logits.base.flush()  # another machine may read the file
    return Answers(logits, num_cached)


class _ChosenTexts(LazySequence[TextInput]):
    """Some of a sequence of texts, read when they are asked for."""

    def __init__(self, texts: Sequence[TextInput], places: Indices) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    def item(self, place: int) -> TextInput:
        return self._texts[int(self._places[place])]


def share_of(texts: Sequence[TextInput], *, share: int, of: int) -> Sequence[TextInput]:
    """Return the texts that one of several processes asks the teacher for.

    The content of a text decides its share, so that repeated texts are in one share, no share depends on what the cache
    holds at the moment, and the processes need not exchange anything.

    Args:
        texts: All texts.
        share: Which share, from 0.
        of: Number of shares.
    """
    chunks = ((start, texts[start : start + CHUNK_TEXTS]) for start in range(0, len(texts), CHUNK_TEXTS))
    places = [start + np.flatnonzero(keys_of(chunk)[:, 1] % np.uint64(of) == share) for start, chunk in chunks]
    return _ChosenTexts(texts, np.concatenate([np.empty(0, dtype=np.int64), *places]))


def _empty_logits(num_texts: int, num_labels: int, into: Path | None) -> Logits:
    if into is None or not num_texts:  # an empty file cannot be mapped
        return np.empty((num_texts, num_labels), dtype=np.float32)
    reserve(into, num_texts * num_labels * np.dtype(np.float32).itemsize)
    return np.memmap(into, dtype=np.float32, mode="r+", shape=(num_texts, num_labels)).view(np.ndarray)


class _Asker:
    """One teacher, its cache file, and answers that were recorded elsewhere."""

    def __init__(self, teacher: Classifier, compute: Compute, folder: Path) -> None:
        self._recorded = teacher.answers if isinstance(teacher, PartlyAnswered | RecordedLogits) else None
        self._teacher = teacher.teacher if isinstance(teacher, PartlyAnswered) else teacher
        self._compute = compute
        self.file = AnswerStore(folder / _file_name(self._teacher, compute), len(teacher.labels))

    def answer(self, texts: Sequence[TextInput], advance: Callable[[int], object]) -> Answers:
        """Return the logits of each text, computing and caching those that are not known."""
        keys = keys_of(texts)
        found, logits = self.file.find(keys)
        if self._recorded is not None:
            recorded, rows = self._recorded.find(keys)
            found, logits = found | recorded, np.where(recorded[:, None], rows, logits)
        advance(int(found.sum()))
        missing = np.flatnonzero(~found)
        if not len(missing):
            return Answers(logits, len(texts))
        _, first, same_as = np.unique(keys[missing], axis=0, return_index=True, return_inverse=True)
        asked = missing[np.sort(first)]
        unwritten: list[int] = []
        try:
            for places, computed in self._computed([texts[index] for index in asked]):
                logits[asked[places]] = computed
                unwritten.extend(asked[places].tolist())
                advance(len(places))
                if len(unwritten) >= PIECE_TEXTS:
                    self.file.append(keys[unwritten], logits[unwritten])
                    unwritten.clear()
        finally:  # an interrupted run keeps what it has
            if unwritten:
                self.file.append(keys[unwritten], logits[unwritten])
        # A repeated text gets the logits of its first appearance.
        logits[missing] = logits[missing[first]][same_as.reshape(-1)]
        advance(len(missing) - len(asked))
        return Answers(logits, len(texts) - len(missing))

    def _computed(self, texts: Sequence[TextInput]) -> Iterator[tuple[Indices, Logits]]:
        """Yield the positions of some texts and their logits, until all texts are answered."""
        teacher = self._teacher
        if isinstance(teacher, TorchClassifier):
            pieces = teacher.steady_logits(teacher.tokenizer.encode(texts), self._compute)
        else:
            parts = np.split(np.arange(len(texts)), range(PIECE_TEXTS, len(texts), PIECE_TEXTS))
            pieces = ((places, teacher.predict_logits([texts[place] for place in places])) for places in parts)
        for places, logits in pieces:
            wanted = (len(places), len(teacher.labels))
            if np.shape(logits) != wanted or not np.isfinite(logits).all():
                raise TeacherError(
                    f"the teacher returned logits of shape {np.shape(logits)} for {len(places)} texts; wanted finite numbers "
                    f"of shape {wanted}"
                )
            yield places, np.asarray(logits, dtype=np.float32)


def _file_name(teacher: Classifier, compute: Compute) -> str:
    """Return the name of the file of this teacher's answers on this kind of machine; other kinds round differently."""
    parts = [_FORMAT, digest_of(teacher), torch.backends.cpu.get_cpu_capability()]
    if isinstance(teacher, TorchClassifier):
        parts += [compute, torch.__version__, teacher.model.device.type]
    return f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.logits"
