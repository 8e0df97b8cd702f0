"""Gather the pages of the site in one folder, since zensical reads nothing outside it.

A page in docs/ may link to any file of the repository. Here a picture outside docs/ is copied to assets/, the documents at the
root become pages, and every other file is copied to files/, where it can be read as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGED = ROOT / "build" / "docs"
DOCUMENTS = {
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
}
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
"""Begins a page that the search leaves out, because another page answers the same for a user: for a setting its flag, for a
decision the guide that follows it and the list of decisions."""
UNSEARCHED = ("project/changelog.md", "project/decisions/[a-z]*")
STUDENT_FOLDER = "try"
STUDENT_MARK = "<!-- student -->"
"""Becomes a link to the page of a student, in a site that has one. A student is larger than the rest of the site, so it is not
in the repository, but written when a bundle is given."""
PICTURES = {".svg", ".png", ".gif"}
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def stage(generated: Mapping[str, str], *, has_student: bool = False) -> None:
    """Write the pages and what they link to; files that are as before keep their time, and files of old pages are deleted.

    Args:
        generated: Name in the site -> content, of the pages that are made from the code.
        has_student: The site will have a student to try.
    """
    wanted = {name: coloured(page).encode() for name, page in generated.items()}
    wanted |= {f"assets/{path.name}": path.read_bytes() for path in (ROOT / "docs" / "assets").iterdir()}
    for path, name in sources():
        page = linked(path.read_text(encoding="utf-8"), path, name, wanted)
        page = with_student(page, name) if has_student else page
        unsearched = any(fnmatchcase(name, pattern) for pattern in UNSEARCHED)
        wanted[name] = (NOT_SEARCHED * unsearched + coloured(page)).encode()
    for kept in [path for path in STAGED.rglob("*") if path.is_file()]:
        if str(kept.relative_to(STAGED)) not in wanted:
            kept.unlink()
    for name, content in wanted.items():
        target = STAGED / name
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def sources() -> Iterator[tuple[Path, str]]:
    """Yield each page that is kept in the repository, and its name in the site."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        yield path, str(path.relative_to(ROOT / "docs"))
    for document, name in DOCUMENTS.items():
        yield ROOT / document, name


def with_student(page: str, name: str) -> str:
    """Return a page whose mark is a link to the student of the site."""
    place = os.path.relpath(f"{STUDENT_FOLDER}/index.html", Path(name).parent)
    return page.replace(STUDENT_MARK, f'<a class="md-button" href="{place}">Try a student in your browser</a>')


def coloured(page: str) -> str:
    """Return a page whose shell blocks are named so; as `console`, a line without a prompt would be grey, like output."""

    def named(found: re.Match[str]) -> str:
        language, code = found.groups()
        return f"```{'bash' if language in ('', 'console') else language}\n{code}```"

    return re.sub(r"^```(\w*)\n(.*?)^```$", named, page, flags=re.MULTILINE | re.DOTALL)


def linked(page: str, path: Path, name: str, wanted: dict[str, bytes]) -> str:
    """Return a page whose links are right in the site, and add the files that they lead to.

    Args:
        page: Its text.
        path: Where it is in the repository; its links are relative to this place.
        name: Where it is in the site.
        wanted: The files of the site so far.
    """

    def target(found: re.Match[str]) -> str:
        before, link, after = found.groups()
        if "://" in link or link.startswith(("#", "mailto:")):
            return found.group()
        file, _, anchor = link.partition("#")
        place = place_of((path.parent / file).resolve(), wanted)
        return f"{before}{os.path.relpath(place, Path(name).parent)}{'#' if anchor else ''}{anchor}{after}"

    parts = CODE.split(page)
    return "".join(part if number % 2 else LINK.sub(target, part) for number, part in enumerate(parts))


def place_of(file: Path, wanted: dict[str, bytes]) -> str:
    """Return where a linked file of the repository is in the site, and add it if it is no page."""
    inside = file.relative_to(ROOT)
    if str(inside) in DOCUMENTS:
        return DOCUMENTS[str(inside)]
    if str(inside) == "README.md":
        return "index.md"
    if inside.parts[0] == "docs":
        if file.is_file() and file.suffix != ".md":
            wanted[str(inside.relative_to("docs"))] = file.read_bytes()
        return str(inside.relative_to("docs"))
    place = Path("assets" if file.suffix in PICTURES else "files") / inside
    if file.suffix == ".md":
        place = place.with_suffix(".md.txt")  # not a page of the site: its own links lead elsewhere
    if file.is_file():
        wanted[str(place)] = file.read_bytes()
    return str(place)
