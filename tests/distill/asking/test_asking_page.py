"""The lines of the page on asking run as written; those that train and serve are only parsed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_task import BAD_WORDS, GOOD_WORDS, Outcome, tiny_texts, write_csv

from benchmarks.asking.scripted_address import ScriptedAddress
from distill.cli.main import app

PAGE = (Path(__file__).parents[3] / "docs" / "start" / "texts-without-labels.md").read_text(encoding="utf-8")


def by_words(text: str, _: tuple[str, ...]) -> dict[str, float]:
    """Return 0.9 for the label that more of the words say."""
    good = sum(word in GOOD_WORDS for word in text.split())
    positive = 0.9 if good > sum(word in BAD_WORDS for word in text.split()) else 0.1
    return {"negative": 1 - positive, "positive": positive}


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, potstill: Callable[..., Outcome]) -> None:
    monkeypatch.chdir(tmp_path)
    toml, lines, cascade = re.findall(r"^```(?:toml)?\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    Path("task.toml").write_text(toml)
    write_csv(Path("reviews.csv"), tiny_texts(120))
    write_csv(Path("gold.csv"), tiny_texts(60, seed=1))
    install, *commands = [shlex.split(line) for line in lines.splitlines()]
    assert install[:2] == ["pip", "install"]
    with ScriptedAddress(by_words) as address:
        for command in commands[:3]:
            arguments = [address.url if part == "http://127.0.0.1:8080/v1" else part for part in command[1:]]
            done = potstill(*arguments)
            assert done.code == 0, done.err
    assert "macro-F1 1.000" in done.out
    for command in (*commands[3:], shlex.split(cascade)):
        app.parse_args(command[1:], exit_on_error=False, print_error=False)
