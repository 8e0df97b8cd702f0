"""The task the tests share, as plain functions.

Not in a `conftest`: there are several, and `import conftest` finds whichever was loaded last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.progress import SilentReporter

GOOD_WORDS = ("lovely", "great", "moving", "funny", "warm", "brilliant", "fresh", "charming")
BAD_WORDS = ("dull", "awful", "boring", "stale", "cold", "clumsy", "tired", "empty")
PLAIN_WORDS = ("film", "plot", "actor", "scene", "the", "a", "it", "was", "with", "music", "story", "end", "and")


def tiny_texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (text, label) pairs that a model can learn in seconds: the label says which words there are more of."""
    generator = np.random.default_rng(seed)
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    while len(rows) < count:
        label = ("negative", "positive")[len(rows) % 2]
        telling, other = (GOOD_WORDS, BAD_WORDS) if label == "positive" else (BAD_WORDS, GOOD_WORDS)
        words = [
            *generator.choice(PLAIN_WORDS, generator.integers(3, 14)),
            *generator.choice(telling, 3),
            generator.choice(other),
        ]
        text = " ".join(generator.permutation(words))
        if text not in seen:
            seen.add(text)
            rows.append((text, label))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]], *, header: str = "text,label") -> Path:
    """Write rows as CSV; texts must not hold commas or quotes."""
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Outcome:
    """What a user sees of one command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The last line of stderr, which must be the only one of its kind."""
        *before, last = self.err.splitlines()
        assert last.startswith("potstill: ")
        assert not any(line.startswith(("potstill: ", "Traceback", "  File")) for line in before), self.err
        return last.removeprefix("potstill: ")


class Listening(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
