"""Teacher logits, computed once and kept by content.

A cache keyed by row number goes stale when rows move; this one is keyed by the text itself, in a file per teacher
(weights, config, tokenizer, max_length, and what it computes with). Logits only. What was computed before a kill is
kept, piece by piece; several processes may ask at once, each for the texts that fall to it by their content. Cold, warm
or half warm, a PyTorch teacher's logits are the same to the last bit: the shape of the batch in which a text is computed
depends on that text alone.
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
from distill.errors import TeacherError
from distill.labels import Logits
from distill.models.devices import Compute
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.storage import writing_to
from distill.teachers.answer_store import AnswerStore, Keys, keys_of, soft_targets_dir
from distill.teachers.recorded import PartlyAnswered, RecordedLogits

CHUNK_TEXTS = 16_384
"""Texts looked up and computed at a time; the more, the fewer batches are filled up."""

PIECE_TEXTS = 512
"""Texts after which computed logits are written down."""

_FORMAT = 2


@dataclass(frozen=True)
class SoftTargets:
    """Teacher logits of a list of texts, and how many of them were already known.

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
) -> SoftTargets:
    """Return the teacher's logits of each text, computing only those that no earlier run has computed.

    Args:
        teacher: Who is asked. The answers of each member of an ensemble are kept apart, so that they serve alone too.
        texts: What it is asked; repeated texts are computed once.
        compute: Numbers a PyTorch teacher computes in; answers in others are kept apart.
        folder: Where the cache files stand; None is `soft_targets` in the user's cache folder.
        into: A new file that the logits are written to and mapped from; None returns them in memory.
        reporter: Told of progress.

    Raises:
        SettingsError: A teacher has no `digest()`.
        TeacherError: A teacher's answers are not finite numbers of the right shape.
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
    return SoftTargets(logits, num_cached)


def answer_share(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    share: int,
    of: int,
    compute: Compute = "no",
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> int:
    """Bring the logits of a share of the texts into the cache, and return how many of these were there before.

    A text falls to one share by its content alone: no two shares hold the same text, and none depends on what the cache
    holds when it is looked at, so that the processes of a run need not talk.

    Args:
        teacher: Who is asked.
        texts: All texts.
        share: Which share, from 0.
        of: Number of shares.
        compute: As for `teacher_logits`, as are the rest and what is raised.
        folder: Where the cache files stand.
        reporter: Told of progress: a text of the share stands for one of every share.
    """
    askers = _askers(teacher, compute, folder)
    num_cached, left = 0, len(askers) * len(texts)
    with (reporter or SilentReporter()).task("teacher logits", left) as advance:

        def advance_all(count: int) -> None:
            nonlocal left
            step = min(of * count, left)  # the shares are not quite of one size
            left -= step
            advance(step)

        for own in _share_of(texts, share=share, of=of):
            answers = [asker.answer(own, advance_all) for asker in askers]
            num_cached += min(answer.num_cached for answer in answers)
        if left:
            advance(left)
    for asker in askers:
        asker.finish()
    return num_cached


def _share_of(texts: Sequence[str], *, share: int, of: int) -> Iterator[list[str]]:
    """Yield the texts of a share, `CHUNK_TEXTS` at a time."""
    own: list[str] = []
    for start in range(0, len(texts), CHUNK_TEXTS):
        chunk = texts[start : start + CHUNK_TEXTS]
        falls = keys_of(chunk)[:, 1] % np.uint64(of) == share
        own += [text for text, ours in zip(chunk, falls, strict=True) if ours]
        while len(own) >= CHUNK_TEXTS:
            yield own[:CHUNK_TEXTS]
            own = own[CHUNK_TEXTS:]
    if own:
        yield own


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

    def answer(self, texts: Sequence[str], advance: Callable[[int], object]) -> SoftTargets:
        keys = keys_of(texts)
        found, logits = self._file.find(keys)
        if self._known is not None:
            known, given = self._known.find(keys)
            found, logits = found | known, np.where(known[:, None], given, logits)
        advance(int(found.sum()))
        missing = np.flatnonzero(~found)
        if not len(missing):
            return SoftTargets(logits, len(texts))
        _, first, same_as = np.unique(keys[missing], axis=0, return_index=True, return_inverse=True)
        asked = missing[np.sort(first)]
        self._compute_into(logits, texts, keys, asked, advance)
        # Repeated texts: each takes the answer to its first appearance.
        logits[missing] = logits[missing[first]][same_as.reshape(-1)]
        advance(len(missing) - len(asked))
        return SoftTargets(logits, len(texts) - len(missing))

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
