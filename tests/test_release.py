"""What a release states in several files is the same in each, and the community files are what their tools read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION, DATE = PROJECT["version"], r"\d{4}-\d\d-\d\d"


def yaml_of(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def versions() -> list[tuple[str, str]]:
    """Return the versions of the changelog with their dates, the latest first."""
    return re.findall(rf"^## (\S+) - ({DATE})$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_file_that_names_the_version_names_the_same() -> None:
    citation = yaml_of("CITATION.cff")
    assert (str(citation["version"]), citation["date-released"]) == versions()[0]
    assert versions()[0][0] == VERSION
    assert f"image: potstill:{VERSION}\n" in (ROOT / "serve/deploy/kubernetes.yaml").read_text(encoding="utf-8")


def test_the_changelog_is_by_version_and_kind_of_change() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## .*", text, flags=re.MULTILINE)
    assert [f"## {number} - {date}" for number, date in versions()] == headings
    kinds = re.findall(r"^### (.*)", text, flags=re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.*)", part, flags=re.MULTILINE)
        assert len(set(found)) == len(found), f"a kind of change has two headings in {part.splitlines()[0]}"


def test_the_citation_says_what_the_package_says() -> None:
    citation = yaml_of("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_hooks_are_those_of_make_lint_and_load_nothing() -> None:
    (local,) = yaml_of(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert all(hook["language"] == "system" for hook in local["hooks"])
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    made = re.findall(r"\$\(BIN\)/(\w+(?: \w+)?)", recipe)
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]] == made


def test_the_page_of_a_package_index_has_no_links_into_a_checkout() -> None:
    page = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    assert not re.search(r"\]\((?!https://)", page)
    assert "<!--" not in page
    extras = {name for row in re.findall(r"^\| (`.+?) \|", page, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    # `train` is part of export, `dev` and `docs` are for contributors, `optimum` stands alone.
    assert extras == set(PROJECT["optional-dependencies"]) - {"train", "dev", "docs", "optimum"}
    commands = [line for line in page.splitlines() if line.startswith("potstill ")]
    assert commands == [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line in commands]
