"""The documentation site builds strictly, every link and anchor in it leads somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

import pytest

from docs.tools.staging import STUDENT_MARK, with_student

pytest.importorskip("zensical")

ROOT = Path(__file__).parent.parent
LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "use": "href"}
NOT_LOADED = {"canonical", "prev", "next", "alternate"}


@dataclass
class Page(HTMLParser):
    """What one built page links to, loads, and offers as anchors."""

    path: Path
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADING and found.get(LOADING[tag]) and found.get("rel") not in NOT_LOADED:
            self.loaded.append(found[LOADING[tag]])


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    done = subprocess.run(
        [sys.executable, "-m", "docs.tools", "build"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: Page(path) for path in sorted((ROOT / "site").rglob("*.html"))}
    assert pages
    return pages


def pages_in(entry: Any) -> Iterator[str]:
    """Yield the pages of the navigation, or of a part of it."""
    match entry:
        case str():
            yield entry
        case dict():
            yield from pages_in(list(entry.values()))
        case list():
            for part in entry:
                yield from pages_in(part)


def test_every_page_is_in_the_navigation() -> None:
    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = set(pages_in(settings["project"]["nav"]))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages - listed if not page.startswith("project/decisions/")} == set()


def test_every_link_and_anchor_leads_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for page in site.values():
        if page.path.name == "404.html":  # its links are from the root of a server
            continue
        for link in page.links + page.loaded:
            name, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", name):
                continue
            target = (page.path.parent / name.partition("?")[0]).resolve() if name else page.path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in site and anchor not in site[target].anchors):
                broken.append(f"{page.path.relative_to(ROOT)}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    foreign = [f"{page.path}: {name}" for page in site.values() for name in page.loaded if re.match(r"(?:https?:)?//", name)]
    for style in (ROOT / "site").rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        foreign += [
            f"{style}: {name}" for name in re.findall(r"(?:url\(\s*[\"']?|@import\s+[\"'])((?:https?:)?//[^\"')]+)", text)
        ]
    assert not foreign


def test_every_column_of_a_table_has_a_name(site: dict[Path, Page]) -> None:
    assert [page.path for page in site.values() if re.search(r"<th[^>]*></th>", page.path.read_text(encoding="utf-8"))] == []


def test_a_page_weighs_less_than_a_megabyte(site: dict[Path, Page]) -> None:
    for_search = [ROOT / "site" / "search.json", *(ROOT / "site" / "assets" / "javascripts" / "workers").iterdir()]
    for page in site.values():
        if page.path.name == "404.html":
            continue
        loaded = {(page.path.parent / name.partition("?")[0].partition("#")[0]).resolve() for name in page.loaded}
        assert sum(path.stat().st_size for path in {page.path, *loaded, *for_search}) < 1_000_000, page.path


# What users ask -> the pages that answer it, one of which must be among the first three that the search finds.
ANSWERS = {
    "different tokenizers": {"start/questions.html"},
    "int8 collapsed": {"start/questions.html", "train/int8-gate-failed.html"},
    "threads in a container": {"start/questions.html", "deploy/docker-systemd-kubernetes.html"},
    "sigmoid or softmax": {"start/questions.html"},
    "answer depends on other texts in the batch": {"start/questions.html", "understand/batch-mates.html"},
    "train on a GPU": {"start/questions.html", "project/versions-and-platforms.html"},
    "texts are cut at max_length": {"start/questions.html", "train/long-texts.html"},
    "rare labels": {"start/questions.html", "train/rare-labels.html"},
    "reload without downtime": {"start/questions.html", "deploy/reload.html"},
    "model is too slow": {"start/questions.html"},
    "run in the browser": {"start/questions.html", "deploy/transformers-js.html", "deploy/browser.html"},
    "several labels": {"train/several-labels.html"},
}


@pytest.fixture(scope="module")
def address(site: dict[Path, Page]) -> Iterator[str]:
    """Return the address of a server of the built site."""
    handler = functools.partial(Quiet, directory=str(ROOT / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def test_the_search_answers_what_users_ask(address: str, browser: Any) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}index.html")
    page.keyboard.press("/")
    unanswered = []
    for words, answers in ANSWERS.items():
        page.locator("input[aria-label=Search]").fill(words)
        page.locator(f"a[role=option][href*='?h={quote_plus(words)}']").first.wait_for()
        found = page.locator("a[role=option]").evaluate_all("links => links.map(link => link.href)")
        first = [link.removeprefix(address).partition("?")[0] for link in found[:3]]
        if not answers & set(first):
            unanswered.append(f"{words}: {first}")
    assert not unanswered
    assert [url for url in asked if not url.startswith(address)] == []


# One page of each kind: start, code blocks, wide tables, a reference, and one that has no template of the site.
CHECKED = (
    "index.html",
    "train/rare-labels.html",
    "evidence/students-and-peers.html",
    "reference/http.html",
    "files/benchmarks/results/report.html",
)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_nothing_in_a_page_of_each_kind(address: str, browser: Any, axe: str, width: int, scheme: str) -> None:
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    found = {}
    for name in CHECKED:
        page.goto(f"{address}{name}")
        found[name] = page.evaluate(axe)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.close()
    assert found == {name: [] for name in CHECKED}


def test_a_site_with_a_student_links_to_it() -> None:
    page = (ROOT / "docs" / "deploy" / "browser.md").read_text(encoding="utf-8")
    assert page.count(STUDENT_MARK) == 1
    assert 'href="../try/index.html">Try a student in your browser</a>' in with_student(page, "deploy/browser.md")
