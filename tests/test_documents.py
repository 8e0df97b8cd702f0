"""What the READMEs and docs/ name exists: links with their anchors, files, modules, and functions named beside a file."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("distill", "export", "serve", "benchmarks")
PAGES = sorted({ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")})
DECISIONS = ROOT / "docs" / "project" / "decisions"
PATH = re.compile(r"(?:(?:distill|export|serve|benchmarks|tests|docs)/[\w./*-]*|[\w/]+\.(?:py|md|toml))")
MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """Return a page without its code blocks and without the tables made from results."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def spans_of(page: Path) -> Iterator[str]:
    yield from re.findall(r"`([^`\n]+)`", prose_of(page))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


GENERATED = {
    ROOT / "docs" / "reference" / f"{name}.md" for name in ("command", "settings", "python", "http", "bundle-format", "errors")
}
"""Pages that are made whenever the site is built; test_site checks their anchors."""


def exists(path: str, *, beside: Path) -> bool:
    """Whether a path exists in the repository, in the page's package, or, for a pattern, whether a file matches it."""
    return any(list(folder.glob(path)) if "*" in path else (folder / path).exists() for folder in (ROOT, beside))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = name.split(".")
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    return hasattr(importlib.import_module(".".join(parts[:-1])), parts[-1])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose_of(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists() or linked in GENERATED, target
        if anchor and linked not in GENERATED:
            assert anchor in anchors_of(linked), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    spans = list(spans_of(page))
    missing = [span for span in spans if PATH.fullmatch(span) and not exists(span, beside=page.parent)]
    missing += [span for span in spans if MODULE.fullmatch(span) and not PATH.fullmatch(span) and not is_module(span)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names_in_parentheses_after_a_file_are_in_that_file(page: Path) -> None:
    for path, names in re.findall(r"`([\w/]+\.py)`\s+\(((?:`\w+`(?:, )?)+)\)", prose_of(page)):
        source = next(each for each in (ROOT / path, page.parent / path) if each.exists()).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize("package", ["distill", "export", "serve"])
def test_a_package_readme_lists_its_rooms(package: str) -> None:
    page = ROOT / package / "README.md"
    rooms = re.findall(r"^\| (`.+?) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = [name for room in rooms for name in re.findall(r"`([^`]+)`", room)]
    assert listed
    for name in listed:
        found = ROOT / package / name
        assert found.is_dir() if name.endswith("/") else found.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=named)
def test_prose_spells_labelled_in_one_way(page: Path) -> None:
    """Names in code spans, such as `--unlabeled`, keep their spelling."""
    prose = re.sub(r"`[^`\n]*`", "", prose_of(page))
    assert re.findall(r"(?<!-)\b\w*label(?:ed|ing)\b", prose, flags=re.IGNORECASE) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_readme_lists_every_folder_and_module(package: str) -> None:
    page = ROOT / package / "README.md"
    first_cells = re.findall(r"^\| (`.+?) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = [name.removesuffix(".py") for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)]
    inside = [path for path in (ROOT / package).iterdir() if not path.name.startswith(("__", "."))]
    names = [f"{path.name}/" if path.is_dir() else path.stem for path in inside if path.is_dir() or path.suffix == ".py"]
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in listed)] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*/README.md")), ids=named)
def test_a_package_readme_is_one_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 60
    assert "## Decisions" not in text


def test_every_decision_is_listed_and_has_context_decision_and_date() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    for page in sorted(DECISIONS.glob("*.md")):
        if page.name == "README.md":
            continue
        text = page.read_text(encoding="utf-8")
        assert f"({page.name})" in index, page.name
        assert re.search(r"\d{4}-\d\d-\d\d", text), f"{page.name} has no date"
        assert re.search(r"^(?:\*\*|## )Decision", text, flags=re.MULTILINE), f"{page.name} states no decision"
