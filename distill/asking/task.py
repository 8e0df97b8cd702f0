"""The labels that a language model chooses from, described in a TOML file.

instructions = "Decide whether the review recommends the film."
language = "English"

[labels.negative]
definition = "The reviewer advises against it."
examples = ["Two hours that I will never get back."]

[labels.positive]
definition = "The reviewer recommends it."
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from distill.errors import SettingsError
from distill.settings import Settings

MAX_LABELS = 100
"""More than a prompt can hold with their definitions, and than a model tells apart."""


class LabelMeaning(Settings, heading="Data"):
    """What a label means."""

    definition: str = Field("", description="one or two sentences")
    examples: tuple[str, ...] = Field((), description="texts that have this label; keep them out of the texts you measure on")


class LabellingTask(Settings, heading="Data"):
    """What a language model is asked to do with each text."""

    labels: dict[str, LabelMeaning] = Field(description="label names in the order of the logits, with what they mean")
    instructions: str = Field("Choose the label that describes the text best.", min_length=1, description="the question")
    language: str = Field("", description="language of the texts; the labels are answered as they are written here")

    @model_validator(mode="after")
    def _labels_can_be_told_apart(self) -> Self:
        if not 2 <= len(self.labels) <= MAX_LABELS:
            raise ValueError(f"a task has 2 to {MAX_LABELS} labels, got {len(self.labels)}")
        if len({name.strip().lower() for name in self.labels}) != len(self.labels):
            raise ValueError(f"labels must differ in more than case and spaces, got {list(self.labels)}")
        if unusable := [
            name for name in self.labels if not name.strip() or name != name.strip() or '"' in name or "\\" in name
        ]:
            raise ValueError(f"the label {unusable[0]!r} is empty, has spaces around it, a quotation mark or a backslash")
        return self


def read_task(path: Path) -> LabellingTask:
    """Read a task file.

    Raises:
        SettingsError: It is not TOML, or not a task.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {path} as TOML: {getattr(exc, 'strerror', None) or exc}; see --task") from exc
    try:
        return LabellingTask(**values)
    except SettingsError as exc:
        raise SettingsError(f"{path}: {exc}; a task has [labels.NAME] tables with a definition each") from exc
