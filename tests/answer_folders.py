"""Folders of answers made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.asking.kept import ANSWERS, QUARANTINE, AnswerLog, Asked, KeptAnswer
from distill.asking.prompts import Abilities, rotated
from distill.asking.task import LabellingTask


def kept_answer(text: str, label: str | None, labels: Sequence[str], *, asking: int = 0, **others: Any) -> KeptAnswer:
    return KeptAnswer(
        key=f"{text}-{asking}-{'-'.join(labels)}",
        text=(text,),
        asking=asking,
        labels=rotated(tuple(labels), text, asking),
        label=label,
        **others,
    )


def write_answers(folder: Path, labels: Sequence[str], answers: Sequence[KeptAnswer]) -> Path:
    with AnswerLog(folder) as log:
        log.begin(
            Asked(
                task=LabellingTask(labels={name: {} for name in labels}),
                model="m",
                replies_name="m-1",
                settings={},
                abilities=Abilities(structured=True, log_probabilities=True),
            )
        )
        for answer in answers:
            log.keep(QUARANTINE if answer.label is None else ANSWERS, answer)
    return folder
