"""The folder of a language model's answers: what was asked, and every reply, kept the moment it arrives.

asked.json          task, model, settings that decide the answers, what the address can do
answers.jsonl       one line for each reply that names a label; only ever appended to
quarantine.jsonl    replies that name none, and texts that the address refused; delete it to ask these again
checks.jsonl        replies to a few questions that begin each run, and show whether the model is still the same
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from distill.asking.prompts import Abilities
from distill.asking.task import LabellingTask
from distill.errors import DatasetError, SettingsError, StorageError
from distill.storage import write_atomically, writing_to
from distill.texts import TextInput, of_parts

ASKED: Final = "asked.json"
ANSWERS: Final = "answers.jsonl"
QUARANTINE: Final = "quarantine.jsonl"
CHECKS: Final = "checks.jsonl"
SCHEMA: Final = 1


class Asked(BaseModel):
    """What all answers of a folder have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    task: LabellingTask
    model: str
    replies_name: str
    """The model's name in its own replies."""
    settings: dict[str, Any]
    """The settings that decide an answer."""
    abilities: Abilities


class KeptAnswer(BaseModel):
    """One reply.

    Attributes:
        key: Digest of the question.
        text: The text, or both texts of a pair.
        asking: Which asking of the text.
        labels: The labels that were offered, in their order.
        label: The one that the reply names; None in quarantine.
        problem: Why it is in quarantine.
        shares: Probability of each label; empty without log-probabilities.
        undivided: Labels that share a probability; the question about them alone divides it.
        mass: Probability of readable answers before it was scaled to 1.
        content: The reply.
        fingerprint: The address's own name of the model's build, if it gives one.
        input_tokens: Tokens of the question.
        output_tokens: Tokens of the reply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    text: tuple[str, ...]
    asking: int
    labels: tuple[str, ...]
    label: str | None
    problem: str = ""
    shares: dict[str, float] = {}
    undivided: tuple[tuple[tuple[str, ...], float], ...] = ()
    mass: float = 0.0
    content: str = ""
    fingerprint: str = ""
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def of_text(self) -> TextInput:
        """The text, or the pair."""
        return of_parts(self.text)


def read_asked(folder: Path) -> Asked:
    """Read what the answers of a folder have in common.

    Raises:
        DatasetError: It is no folder of answers, or of another version.
    """
    try:
        values = json.loads((folder / ASKED).read_bytes())
        if values.get("schema_version") != SCHEMA:
            raise DatasetError(
                f"{folder} has schema {values.get('schema_version')!r}, this version reads {SCHEMA}; use the other version",
                path=folder,
            )
        return Asked.model_validate(values)
    except (OSError, ValueError, AttributeError) as exc:
        if isinstance(exc, DatasetError):
            raise
        raise DatasetError(f"{folder} has no {ASKED} of `potstill ask`; name the --out of that command", path=folder) from exc


def read_kept(folder: Path, name: str = ANSWERS) -> Iterator[KeptAnswer]:
    """Yield the replies of a file in a folder; the last line is left out while it is being written, or if a kill cut it.

    Raises:
        DatasetError: A line is damaged.
    """
    path = folder / name
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield KeptAnswer.model_validate_json(line)
            except ValidationError as exc:
                raise DatasetError(
                    f"{path}:{number}: not a reply as potstill writes it; delete the line to ask again", path=path, line=number
                ) from exc


class AnswerLog:
    """The replies of a folder, open for one process that adds to them. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: dict[str, tuple[tuple[str, ...], ...]] = {}
        """Of each key that has a reply: the groups of labels that it leaves undivided."""
        self.num_answers = self.num_quarantined = self.input_tokens = self.output_tokens = 0
        self.checks: list[KeptAnswer] = []
        self._open = ExitStack()
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._open.enter_context(FileLock(self.folder / ".lock", timeout=0))
            except Timeout as exc:
                raise StorageError(f"another run is writing to {self.folder}; wait for it, or name another --out") from exc
            for name in (ANSWERS, QUARANTINE, CHECKS):
                _drop_torn_line(self.folder / name)
                for answer in read_kept(self.folder, name):
                    self._count(name, answer)
                self._files[name] = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                self._open.callback(os.close, self._files[name])
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.fsync(file)
        self._open.close()

    def asked(self) -> Asked | None:
        """Return what the answers have in common, if there are any yet."""
        return read_asked(self.folder) if (self.folder / ASKED).exists() else None

    def begin(self, asked: Asked) -> None:
        """Write down what the answers will have in common."""
        write_atomically(self.folder / ASKED, asked.model_dump_json(indent=2) + "\n")

    def keep(self, name: str, answer: KeptAnswer) -> None:
        """Append a reply. When this returns, a kill of this process cannot lose it.

        Raises:
            StorageError: It cannot be written.
        """
        line = answer.model_dump_json().encode(errors="surrogatepass") + b"\n"
        with writing_to(self.folder / name):
            if os.write(self._files[name], line) != len(line):
                raise StorageError(f"cannot write {self.folder / name}: the disk is full; free some space, then run it again")
        self._count(name, answer)

    def _count(self, name: str, answer: KeptAnswer) -> None:
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens
        if name == CHECKS:
            self.checks.append(answer)
            return
        self.groups[answer.key] = tuple(group for group, _ in answer.undivided)
        self.num_answers += name == ANSWERS
        self.num_quarantined += name == QUARANTINE


def _drop_torn_line(path: Path) -> None:
    """Remove what a kill left of a line at the end of a file."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept:
            file.seek(start := max(0, kept - 65_536))
            newline = file.read(kept - start).rfind(b"\n")
            kept = start + newline + 1
            if newline >= 0:
                break
            kept = start
        if kept != end:
            file.truncate(kept)


def require_same_question(folder: Path, kept: Asked, wanted: Asked) -> None:
    """Refuse to add answers to a folder whose answers are to another question.

    Raises:
        SettingsError: Task, model or a setting that decides the answers differs.
    """
    parts = {"task": (kept.task, wanted.task), "model": (kept.model, wanted.model)}
    names = kept.settings.keys() | wanted.settings.keys()
    parts |= {name: (kept.settings.get(name), wanted.settings.get(name)) for name in sorted(names)}
    differing = [name for name, (before, now) in parts.items() if before != now]
    if differing:
        raise SettingsError(
            f"{folder} has answers that were asked for with another {' and another '.join(differing)}; "
            "name another --out, or ask as before"
        )
