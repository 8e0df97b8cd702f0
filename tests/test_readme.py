"""Every command and every Python example of the README runs as written, in a folder with two small files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_texts, write_csv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN_HERE = ("make demo", "make test", "potstill predict demo/student")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [content for named, content in found if named == language]


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(NOT_RUN_HERE)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_csv(folder / "reviews.csv", tiny_texts(240))
    write_csv(folder / "test.csv", tiny_texts(60, seed=5))
    return folder


def test_readme_names_every_command_of_the_walkthrough() -> None:
    assert [shlex.split(line)[1] for line in commands()] == [
        "teacher",
        "distill",
        "export",
        "eval",
        "bench",
        "predict",
        "inspect",
        "score",
        "serve",
    ]


def assert_serves(arguments: list[str], workplace: Path) -> None:
    """Start the server, send it a request as the README shows, and stop it with SIGTERM."""
    with subprocess.Popen([sys.executable, "-m", "distill", *arguments], cwd=workplace) as process:
        try:
            answer = asked("http://127.0.0.1:8080/", {"inputs": "a masterpiece of boredom"}, seconds=60)
        finally:
            process.terminate()
        assert {found["label"] for found in answer[0]} == {"negative", "positive"}
        assert process.wait(30) == 0


def asked(address: str, body: dict[str, str], *, seconds: float) -> Any:
    """Post a request, and repeat it until the server answers."""
    end = time.monotonic() + seconds
    while True:
        request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.loads(reply.read())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.slow
def test_readme_commands_run_as_they_stand(workplace: Path) -> None:
    for line in commands():
        program, *arguments = shlex.split(line)
        assert program == "potstill"
        if arguments[0] == "serve":
            assert_serves(arguments, workplace)
            continue
        done = subprocess.run(
            [sys.executable, "-m", "distill", *arguments], cwd=workplace, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line


@pytest.mark.slow
def test_readme_python_runs_as_it_stands(workplace: Path) -> None:
    whole_story, reopened = blocks("python")
    for example in (whole_story, reopened):
        done = subprocess.run([sys.executable, "-c", example], cwd=workplace, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{example}\n{done.stderr}"
