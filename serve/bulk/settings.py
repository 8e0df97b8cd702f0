"""The settings of bulk scoring; flags and docs are made from them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distill.settings import LongTexts, Precision, Settings

QUARANTINE = "_quarantine"
"""Folder of the bad rows below the output."""

LINE_KEY = ("source", "line")
"""What a row is known by where no column was named as its key: the file's name, and the line or row in it, from 1."""


class ScoreSettings(Settings):
    """What is read, what is written, and how many work on it."""

    text_column: str = Field("text", min_length=1, description="column that holds the text")
    key: tuple[str, ...] = Field((), description="columns that name a row; without it source and line are written")
    columns: tuple[str, ...] = Field((), description="further columns to pass through")
    probabilities: bool = Field(False, description="also write the probability of every label, a list in the bundle's order")
    logits: bool = Field(False, description="also write the logits, a list: `potstill distill --scored` then teaches by them")
    answer_prefix: str = Field("", description="put before the names of the columns that are added (label, score, ...)")
    long_texts: LongTexts = Field(
        "truncate",
        description="a text past max_length is cut, or read whole in overlapping windows, whose logits are averaged",
    )
    max_text_chars: int = Field(100_000, ge=1, description="a longer text goes to the quarantine")
    part_rows: int = Field(8_192, ge=1, description="rows of a part, at most; a kill costs the parts being worked on")
    precision: Precision | None = Field(None, description="which graph; without it int8 where there is one")
    workers: int | None = Field(None, ge=1, description="threads here, actors on Ray; without it what may really be used")
    ray: str | None = Field(
        None, min_length=1, description="run on a Ray cluster: its ADDRESS, auto, or local to start one here"
    )
    price_per_hour: float | None = Field(None, ge=0, description="price of what runs this, an hour, to say what a million cost")

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns of the input that are written again: the key and the chosen ones."""
        return tuple(dict.fromkeys((*self.key, *self.columns)))

    @property
    def answers(self) -> dict[str, str]:
        """What is added, and the name of its column."""
        added = ("label", "score", *(("probabilities",) if self.probabilities else ()), *(("logits",) if self.logits else ()))
        return {name: self.answer_prefix + name for name in added}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        written = [*(self.key or LINE_KEY), *(name for name in self.kept if name not in self.key), *self.answers.values()]
        twice = sorted({name for name in written if written.count(name) > 1})
        if twice:
            raise ValueError(f"two columns would be named {', '.join(map(repr, twice))}; give --answer-prefix, or name a --key")
        return self
