"""Every command and every Python example of the READMEs is run, as it stands, in a folder with two small files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

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
    ]


@pytest.mark.slow
def test_readme_commands_run_as_they_stand(workplace: Path) -> None:
    for line in commands():
        program, *arguments = shlex.split(line)
        assert program == "potstill"
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


def test_links_in_readmes_lead_somewhere() -> None:
    for page in ROOT.glob("*/README.md"):
        assert page.read_text(encoding="utf-8").startswith("# ")
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
