"""Requests, and how their texts become token ids: once, before they wait to be computed, a bounded portion at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

from distill.classifier import TextInput
from distill.errors import DatasetError, PotstillError
from distill.settings import LongTexts
from distill.texts import num_chars
from distill.tokenization import Reading
from serve.answering.engine import Engine, Row, RowAnswer
from serve.errors import Reason, Refusal

READ_CHARS = 16 * 1024
"""Characters that a thread encodes before it computes again. A single text may have more."""


@dataclass(eq=False)
class Pending:
    """A request whose texts are read, then computed.

    Attributes:
        texts: At least one.
        client: Who asks; clients take turns.
        engine: Reads and answers all its texts.
        long_texts: What happens to texts with more than `max_length` tokens.
        future: Receives the answers, in the order of the texts.
        is_wanted: Returns whether the client still waits.
        due: `time.monotonic()` when the answer is no longer wanted.
        since: `time.perf_counter()` when it entered the queue.
        booked: Texts or rows of it that admission counts, and their tokens: an estimate until all its texts are read.
        rows: Texts that were read, and windows of long ones.
        windows: How many rows each of these texts has.
        taken: Rows already taken into a batch.
        answers: Answers so far, in the order of the rows.
        missing: Rows without an answer.
    """

    texts: Sequence[TextInput]
    client: str
    engine: Engine
    long_texts: LongTexts | Literal["refuse"]
    future: asyncio.Future[list[RowAnswer]]
    is_wanted: Callable[[], bool]
    due: float
    since: float
    booked: tuple[int, int] = (0, 0)
    rows: list[Row] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    taken: int = 0
    answers: list[RowAnswer | None] = field(default_factory=list)
    missing: int = 0

    @property
    def is_read(self) -> bool:
        """Whether all its texts are token ids."""
        return len(self.windows) == len(self.texts)

    def add(self, text: TextInput, reading: Reading) -> None:
        """Take the next text.

        Raises:
            Refusal: It has too many tokens and may neither be cut nor read in windows.
        """
        if not reading.is_cut or self.long_texts == "truncate":
            self._extend([self.engine.row(reading, text)])
            return
        if self.long_texts == "refuse":
            limit = self.engine.max_length
            raise Refusal(Reason.INVALID, f"a text has more than {limit} tokens; shorten it or allow truncation")
        if not isinstance(text, str):
            raise Refusal(Reason.INVALID, "a pair cannot be read in windows; shorten it or allow truncation")
        self._extend([Row(ids) for ids in self.engine.tokenizer.windows(text)])

    def _extend(self, rows: list[Row]) -> None:
        self.rows += rows
        self.windows.append(len(rows))
        self.answers += [None] * len(rows)
        self.missing += len(rows)

    def result(self) -> list[RowAnswer]:
        """Return the answer of each text, once none is missing."""
        answers = cast(list[RowAnswer], self.answers)
        if len(answers) == len(self.texts):
            return answers
        rest: Iterator[RowAnswer] = iter(answers)
        return [self.engine.joined([next(rest) for _ in range(count)]) for count in self.windows]


class Portion(NamedTuple):
    """Texts or rows `start` to `stop` of one request, and what they cost: characters to read, or tokens to compute."""

    request: Pending
    start: int
    stop: int
    cost: int

    @property
    def texts(self) -> Sequence[TextInput]:
        """The texts of a portion to read."""
        return self.request.texts[self.start : self.stop]


def portion_to_read(request: Pending, room: int) -> Portion:
    """Return the next texts of a request: at least one, and more while they fit.

    Each counts with all its characters: of a long one few are encoded as a rule, but of a word without end all.
    """
    start = stop = len(request.windows)
    cost = 0
    while stop < len(request.texts) and (stop == start or cost < room):
        cost += num_chars(request.texts[stop])
        stop += 1
    return Portion(request, start, stop, cost)


class Outcome(NamedTuple):
    """What came of reading a portion: the error of its own texts, and how many characters were encoded."""

    error: Exception | None
    num_chars: int


def read(portions: Sequence[Portion]) -> list[Outcome]:
    """Read the texts of portions for one engine, in their order, until `READ_CHARS` are encoded; the rest is left unread.

    Returns:
        What came of each portion: no request shares the fate of another.
    """
    tokenizer = portions[0].request.engine.tokenizer
    errors = [_error_of(portion) for portion in portions]
    sound = [place for place, error in enumerate(errors) if error is None]
    try:
        readings = _until_enough(tokenizer.read([text for place in sound for text in portions[place].texts]))
    except DatasetError as exc:  # of one of them; the library does not say which
        return [Outcome(exc, portions[0].cost)] if len(portions) == 1 else [read([portion])[0] for portion in portions]
    at = 0
    chars = [0] * len(portions)
    for place in sound:
        request, start, stop, _ = portions[place]
        chars[place] = sum(reading.num_chars for reading in readings[at : at + stop - start])
        try:
            for text, reading in zip(portions[place].texts, readings[at : at + stop - start], strict=False):
                request.add(text, reading)
        except (Refusal, PotstillError) as exc:
            errors[place] = exc
        at += stop - start
    return [Outcome(*each) for each in zip(errors, chars, strict=True)]


def _error_of(portion: Portion) -> Exception | None:
    try:
        portion.request.engine.tokenizer.require(portion.texts)
    except PotstillError as exc:
        return exc
    return None


def _until_enough(readings: Iterator[Reading]) -> list[Reading]:
    """Return readings until their texts needed `READ_CHARS`: long texts are encoded one by one, as they are asked for."""
    taken: list[Reading] = []
    room = READ_CHARS
    while room > 0 and (reading := next(readings, None)):
        taken.append(reading)
        room -= reading.num_chars
    return taken
