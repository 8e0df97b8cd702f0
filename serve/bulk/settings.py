"""Settings of bulk scoring."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distill.settings import LongTexts, Precision, Settings
from export.trust.pins import TrustSettings

QUARANTINE = "_quarantine"
"""Folder of the output for rows that could not be labelled."""

LINE_KEY = ("source", "line")
"""Columns that identify a row if there is no key: the file name, and the line or row in it, from 1."""


class TableSettings(Settings, heading="Data"):
    """Which columns of the input are read and passed through."""

    text_column: str = Field("text", min_length=1, description="column with the text")
    pair_column: str | None = Field(None, min_length=1, description="sentence pairs: column with the second text")
    key: tuple[str, ...] = Field((), description="columns that identify a row; default: the file name and the line number")
    columns: tuple[str, ...] = Field((), description="more columns to copy to the output")
    optional_columns: tuple[str, ...] = Field(
        (),
        description="copied columns that a JSONL row may lack, and then null; a row without another copied column goes to "
        "the folder _quarantine of the output",
    )
    max_text_chars: int = Field(
        100_000, ge=1, description="longest text accepted, in characters; rows with longer texts go to _quarantine"
    )


class AnswerSettings(Settings, heading="Output"):
    """Which columns are added, and how the output is cut into parts."""

    probabilities: bool = Field(False, description="add the probability of every label, a list in the order of the bundle")
    logits: bool = Field(False, description="add the logits, a list; `potstill distill --scored` can learn from them")
    answer_prefix: str = Field("", description="prefix of the names of the added columns (label, score, ...)")
    part_rows: int = Field(8_192, ge=1, description="maximum rows per part; a killed run loses only the parts in progress")


class InputSettings(Settings, heading="Data"):
    """Which files are read."""

    follow_links: bool = Field(
        False, description="also read symbolic links in folders and patterns; default: they are an error"
    )
    incremental: bool = Field(False, description="label only the input files that earlier runs into --output have not labelled")


class ScoreSettings(AnswerSettings, TableSettings, InputSettings, TrustSettings, heading="Running"):
    """What is read, what is written, and the resources used."""

    precision: Precision | None = Field(None, description="graph to run; default: int8 if the bundle has it, else fp32")
    long_texts: LongTexts = Field(
        "truncate", description="texts longer than max_length: cut them, or average the logits of overlapping windows"
    )
    workers: int | None = Field(
        None, ge=1, description="threads on this machine, or actors on Ray; default: the available CPUs"
    )
    ray: str | None = Field(
        None,
        min_length=1,
        description="run on the Ray cluster at this ADDRESS; auto: the cluster of this machine; local: start one here",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="price per hour of the machines of this run; reports the cost of a million rows"
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the input with the text, or with the two texts of a pair."""
        return (self.text_column,) if self.pair_column is None else (self.text_column, self.pair_column)

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns of the input that are copied: the key and the chosen ones."""
        return tuple(dict.fromkeys((*self.key, *self.columns)))

    @property
    def answers(self) -> dict[str, str]:
        """Added values and the names of their columns."""
        added = {"label": True, "score": True, "probabilities": self.probabilities, "logits": self.logits}
        return {name: self.answer_prefix + name for name, wanted in added.items() if wanted}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        written = [*(self.key or LINE_KEY), *(name for name in self.kept if name not in self.key), *self.answers.values()]
        twice = sorted({name for name in written if written.count(name) > 1})
        if twice:
            raise ValueError(f"two output columns would be named {', '.join(map(repr, twice))}; set --answer-prefix or --key")
        if unknown := sorted({*self.optional_columns} - {*self.kept}):
            raise ValueError(f"optional_columns has {unknown[0]!r}, which is not copied; add it to --columns or --key")
        return self
