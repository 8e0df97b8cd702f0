"""A language model's answers as a teacher: `answers:FOLDER`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from filelock import FileLock

from distill.asking.combined import Answered, read_answered
from distill.asking.kept import read_asked
from distill.data import Dataset
from distill.settings import DistillSettings
from distill.storage import writing_to
from distill.texts import TextInput

if TYPE_CHECKING:
    from distill.teachers.recorded import RecordedLogits

ANSWERS_OF: Final = "answers:"


def is_answers(source: object) -> bool:
    """Return whether this is `answers:FOLDER`."""
    return str(source).startswith(ANSWERS_OF) and isinstance(source, str | Path)


def open_answers(source: str | Path) -> Answered:
    """Read the folder of `answers:FOLDER`.

    Raises:
        DatasetError: It is no folder of answers, or has none.
    """
    return read_answered(Path(str(source).removeprefix(ANSWERS_OF)))


def labels_of_answers(source: str | Path) -> tuple[str, ...]:
    """Return the labels of `answers:FOLDER`, in order.

    Raises:
        DatasetError: It is no folder of answers.
    """
    return tuple(read_asked(Path(str(source).removeprefix(ANSWERS_OF))).task.labels)


def labelled_by(sources: Iterable[object]) -> Dataset | None:
    """Return the texts of the first `answers:FOLDER` with its answers as labels; None if there is none."""
    source = next((str(one) for one in sources if is_answers(one)), None)
    if source is None:
        return None
    answered = open_answers(source)
    note = (
        f"{source}: {len(answered):,} texts, whose labels are the answers of {answered.model}. Scores on texts cut off them "
        "are agreement with that model; --test or --validation with gold labels, of texts that it has answered too, say how "
        "good a student is"
    )
    label_ids = np.asarray(answered.shares.argmax(axis=1), dtype=np.int64)
    return Dataset(answered.texts, label_ids, answered.labels, source, notes=(note,))


def on_soft_targets(settings: DistillSettings) -> DistillSettings:
    """Return settings that learn the probabilities of the answers alone, unless they say otherwise.

    Where the labels are answers too, the hard-label loss would only make the student surer than the model is.
    """
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return DistillSettings(**{"soft_weight": 1.0, **given})


def teacher_of(answered: Answered) -> RecordedLogits:
    """Return the model as a teacher that knows the answers it gave, copied once to the user's cache of teachers' logits.

    Raises:
        StorageError: The cache cannot be written.
    """
    from distill.teachers.answer_store import soft_targets_dir
    from distill.teachers.recorded import RecordedLogits

    hint = f"ask for it: `potstill ask --input ... --out {answered.folder}`; to noisy copies (--augment) there are no answers"
    folder = soft_targets_dir() / f"{_digest(answered)[:40]}.answers"

    def teacher(answers: Iterable[tuple[TextInput, Sequence[float]]]) -> RecordedLogits:
        return RecordedLogits(answers, labels=answered.labels, folder=folder, hint=hint)

    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.making"):
            known = teacher(())
            if known.answers.count() == len(answered):
                return known
            known.answers.path.unlink(missing_ok=True)  # what a killed run left
            return teacher(zip(answered.texts, answered.logits.tolist(), strict=True))


def _digest(answered: Answered) -> str:
    digest = hashlib.sha256(repr((answered.labels, answered.texts)).encode(errors="surrogatepass"))
    digest.update(answered.logits.tobytes())
    return digest.hexdigest()
