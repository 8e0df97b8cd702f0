"""The lines of the page on texts without labels, run as they stand there but for the address."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_task import BAD_WORDS, GOOD_WORDS, Outcome, tiny_texts, write_csv

from benchmarks.asking.scripted_address import ScriptedAddress

PAGE = (Path(__file__).parents[3] / "docs" / "start" / "texts-without-labels.md").read_text(encoding="utf-8")
TASK = PAGE.partition("```toml\n")[2].partition("```")[0]
LINES = [shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("potstill ")]


def answer(text: str, labels: tuple[str, ...]) -> dict[str, float]:
    words = text.split()
    share = 0.9 if sum(word in GOOD_WORDS for word in words) > sum(word in BAD_WORDS for word in words) else 0.1
    return {name: share if name == "positive" else 1 - share for name in labels}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the page's reader works: the task, texts without labels, and some with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.toml").write_text(TASK)
    write_csv(tmp_path / "reviews.csv", tiny_texts(100))
    write_csv(tmp_path / "gold.csv", tiny_texts(60, seed=3))
    return tmp_path


def asked(potstill: Callable[..., Outcome]) -> None:
    """Run the lines that ask."""
    with ScriptedAddress(answer) as address:
        for line in (line for line in LINES if line[0] == "ask"):
            done = potstill(*(address.url if word.startswith("http://") else word for word in line))
            assert done.code == 0, done.err


def test_the_lines_ask_and_judge(place: Path, potstill: Callable[..., Outcome]) -> None:
    assert [line[0] for line in LINES] == ["ask", "ask", "audit", "fit", "serve", "cascade"]
    asked(potstill)
    done = potstill(*LINES[2])
    assert done.code == 0, done.err
    assert "macro-F1 1.000" in done.out
    assert (place / "answers" / "audit.html").is_file()
