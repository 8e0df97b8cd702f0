"""A teacher that is no longer there, or never was a model here: its logits stand in a column of the data.

Such as those of a large language model that has labelled the texts once. They are laid down in a file by text, so that
millions cost little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from distill.classifier import TextInput
from distill.errors import DatasetError
from distill.labels import Logits, ProblemType
from distill.training.logit_file import LogitFile
from distill.training.soft_targets import keys_of

_CHUNK_TEXTS = 4096


class RecordedLogits:
    """A classifier that answers for the texts it was recorded with, and for no other."""

    def __init__(
        self,
        answers: Iterable[tuple[str, Sequence[float]]],
        *,
        labels: tuple[str, ...],
        folder: Path,
        problem_type: ProblemType = "single_label_classification",
    ) -> None:
        """Read texts and their logits, once and one at a time.

        Args:
            answers: Each text with one finite number a label, in the order of `labels`; of a repeated text the first count.
            labels: Label names, in order.
            folder: Where they are laid down; whoever owns it removes it.
            problem_type: How the logits become probabilities.

        Raises:
            DatasetError: A text has another number of logits than there are labels, or one that is not finite.
        """
        self.labels = labels
        self.problem_type: ProblemType = problem_type
        self._file = LogitFile(folder / "recorded", len(labels))
        source = iter(answers)
        while chunk := list(islice(source, _CHUNK_TEXTS)):
            for text, logits in chunk:
                _require_logits(text, logits, labels)
            texts, columns = zip(*chunk, strict=True)
            self._file.append(keys_of(texts), np.array(columns, dtype=np.float32))

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the recorded logits, shape (len(texts), len(labels)), float32.

        Raises:
            DatasetError: One of the texts is not recorded.
        """
        found, logits = self._file.find(keys_of([str(text) for text in texts]))
        if not found.all():
            missing = str(texts[int(np.argmin(found))])
            raise DatasetError(
                f"no teacher logits are recorded for the text {missing[:60]!r}; every text that is learnt from or validated on "
                "needs them in its file, and augmented texts need a teacher that can be asked"
            )
        return logits


def _require_logits(text: str, logits: Sequence[float], labels: tuple[str, ...]) -> None:
    if len(logits) != len(labels) or not np.isfinite(logits).all():
        raise DatasetError(
            f"the text {text[:60]!r} has the teacher logits {list(logits)}; wanted {len(labels)} finite numbers, for "
            f"{', '.join(labels)} in this order"
        )
