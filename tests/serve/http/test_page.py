"""The page at `/`, in a browser against a real server: what people see is what the server answered."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served import Running

from distill.bundle import Bundle
from distill.labels import task_of
from export.measure.statistics import MIN_SAMPLES
from export.runtime.sessions import OnnxClassifier
from serve.answering.models import ModelSource
from serve.http.about import PAGE
from serve.settings import ServeSettings

TEXTS = ["a great fresh film", "the dull awful plot was stale", '<b>film</b> & "plot"']


class Seen:
    """A page, and what the browser complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))

    def open(self, server: Running) -> None:
        self.page.goto(server.url)
        self.page.locator("#ask:enabled").wait_for()

    def classify(self, *texts: str) -> None:
        self.page.get_by_label("Texts, one per line").fill("\n".join(texts))
        self.page.get_by_role("button", name="Classify").click()

    def answers(self) -> list[list[str]]:
        self.page.locator("article").first.wait_for()
        return [row.locator(".score").all_inner_texts() for row in self.page.locator("article").all()]


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    made = Seen(browser.new_page())
    yield made
    made.page.close()


def shown(scores: list[float], labels: tuple[str, ...]) -> list[str]:
    order = sorted(range(len(labels)), key=lambda index: -scores[index])
    return [f"{labels[index]}\n{scores[index] * 100:.1f} %" for index in order]


def test_each_line_gets_the_servers_answer(seen: Seen, server: Running, tiny_student: Bundle) -> None:
    classifier = OnnxClassifier.open(tiny_student)
    seen.open(server)
    seen.classify(TEXTS[0], "   ", *TEXTS[1:])
    expected = task_of(classifier.problem_type).probabilities(classifier.predict_logits(TEXTS)).tolist()
    assert seen.answers() == [shown(row, classifier.labels) for row in expected]
    widths = "[...document.querySelectorAll('.bar')].map(bar => bar.clientWidth / bar.parentElement.clientWidth)"
    by_rank = [score for row in expected for score in sorted(row, reverse=True)]
    assert seen.page.evaluate(widths) == pytest.approx(by_rank, abs=0.01)
    assert seen.page.locator("article .text").all_inner_texts() == TEXTS  # shown as text, never as HTML
    assert re.match(r"3 texts answered in [\d.]+ ms, there and back\.$", seen.page.get_by_role("status").first.inner_text())
    assert not seen.complaints


def test_the_words_that_matter_are_those_whose_absence_moves_the_answer(
    seen: Seen, server: Running, tiny_student: Bundle
) -> None:
    classifier = OnnxClassifier.open(tiny_student)
    seen.open(server)
    seen.classify("the great plot")
    seen.page.get_by_role("button", name="Which words mattered?").click()
    titles = [seen.page.locator(f"article .word:text-is('{word}')").get_attribute("title") for word in ("the", "great", "plot")]
    texts = ["the great plot", " great plot", "the  plot", "the great "]
    logits = classifier.predict_logits(texts)
    label = int(logits[0].argmax())
    whole, *without = logits[:, label] - logits[:, 1 - label]  # how far the label leads the other one
    for title, lead in zip(titles, without, strict=True):
        number = float(title.partition(" ")[0].replace("\N{MINUS SIGN}", "-"))
        assert number == pytest.approx(whole - lead, abs=0.006)  # two decimals are shown
        assert title.endswith(f"for {classifier.labels[label]}")
    said = seen.page.locator("article").inner_text()
    assert f"Here {classifier.labels[label]} leads the next label by {whole:.2f} logits." in said
    assert "A word adds what is lost without it: “great” +" in said
    assert not seen.complaints


def test_several_answers_are_a_table_to_copy(seen: Seen, server: Running, tiny_student: Bundle) -> None:
    classifier = OnnxClassifier.open(tiny_student)
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url.rstrip("/"))
    seen.open(server)
    seen.classify(*TEXTS)
    seen.answers()
    seen.page.get_by_text("The answers as a table").click()
    seen.page.get_by_role("button", name="Copy the table").click()
    seen.page.get_by_text("3 rows copied.").wait_for()
    head, *rows = csv.reader(seen.page.evaluate("navigator.clipboard.readText()").splitlines(), delimiter="\t")
    assert head == ["text", *classifier.labels]
    expected = task_of(classifier.problem_type).probabilities(classifier.predict_logits(TEXTS))
    assert [text for text, *_ in rows] == TEXTS  # one of them has quotation marks
    assert [[float(score) for score in scores] for _, *scores in rows] == [pytest.approx(row, abs=6e-5) for row in expected]
    assert not seen.complaints


def test_a_single_answer_has_no_table(seen: Seen, server: Running) -> None:
    seen.open(server)
    seen.classify(*TEXTS)
    seen.answers()
    assert seen.page.locator("#table-part").is_visible()
    seen.classify(TEXTS[0])
    seen.page.get_by_text("1 text answered").wait_for()
    assert not seen.page.locator("#table-part").is_visible()


def test_the_card_says_what_the_bundle_knows(seen: Seen, server: Running, tiny_student: Bundle) -> None:
    seen.open(server)
    card = seen.page.locator("#card").inner_text()
    precision = tiny_student.best_precision()
    quality = tiny_student.manifest.quality[precision]
    assert f"{quality['macro_f1']:.3f}" in card
    assert f"{tiny_student.size_bytes(precision) / 1e6:.1f} MB" in card
    assert tiny_student.manifest.lineage.teacher_sha256[:12] in card
    assert "potstill bench" in card  # it was never timed


@pytest.mark.parametrize(
    ("rounds", "p99_ms", "said"),
    [
        ([[0.5] * 40] * 10, None, "p99 not known: only 400 answers were timed, it takes 662"),
        ([[0.5] * 100] * 10, 0.75, "p99 0.75 ms"),
    ],
)
def test_the_card_says_the_tail_or_why_not(
    seen: Seen, server: Running, rounds: list[list[float]], p99_ms: float | None, said: str
) -> None:
    assert MIN_SAMPLES[99] == 662
    about = json.loads(server.ask("GET", "/info").body)
    (card,) = about["models"].values()
    row = {"precision": card["precision"], "p50_ms": 0.5, "p99_ms": p99_ms, "latency_rounds_ms": rounds, "macro_f1": 0.9}
    card["benchmark"] = {"rows": [row]}
    seen.page.route("**/info", lambda route: route.fulfill(json=about))
    seen.open(server)
    assert f"p50 0.50 ms, {said}" in seen.page.locator("#card").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing(seen: Seen, server: Running, axe: str, width: int, scheme: str) -> None:
    """Before and after an answer, with the words marked and the table open: names, roles, order, contrast."""
    seen.page.set_viewport_size({"width": width, "height": 800})
    seen.page.emulate_media(color_scheme=scheme)
    seen.open(server)
    found = [seen.page.evaluate(axe)]
    seen.classify(*TEXTS)
    seen.answers()
    seen.page.get_by_role("button", name="Which words mattered?").first.click()
    seen.page.locator("article .word").first.wait_for()
    seen.page.get_by_text("The answers as a table").click()
    found.append(seen.page.evaluate(axe))
    assert found == [[], []]


def test_it_is_used_with_the_keyboard_alone(seen: Seen, server: Running) -> None:
    seen.open(server)
    keyboard = seen.page.keyboard

    def press_until(focused: str) -> None:
        for _ in range(20):
            keyboard.press("Tab")
            if seen.page.evaluate(f"document.activeElement.matches({focused!r})"):
                return
        pytest.fail(f"Tab does not reach {focused}")

    press_until("#texts")
    keyboard.type("great film")
    keyboard.press("Control+Enter")
    assert len(seen.answers()) == 1
    press_until("article button")
    keyboard.press("Enter")
    seen.page.locator("article .word").first.wait_for()
    seen.page.locator("#texts").focus()
    keyboard.type("\nan awful film")
    keyboard.press("Control+Enter")
    seen.page.get_by_text("2 texts answered").wait_for()
    press_until("summary")
    keyboard.press("Enter")
    press_until("#copy")
    press_until("#table")  # it scrolls where the window is narrow


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_it_fits_its_window_and_scheme(seen: Seen, server: Running, width: int, scheme: str) -> None:
    seen.page.set_viewport_size({"width": width, "height": 800})
    seen.page.emulate_media(color_scheme=scheme)
    seen.open(server)
    seen.classify("great " + "film" * 100, "dull plot")
    seen.answers()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (seen.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert light[0] > light[1] if scheme == "dark" else light[0] < light[1]
    # Thumbs: nothing to press is lower than 44 px, but the button under each answer.
    assert seen.page.locator("#ask").bounding_box()["height"] >= 44


def test_every_field_and_region_has_a_name(seen: Seen, server: Running) -> None:
    seen.open(server)
    nameless = "[...document.querySelectorAll('textarea, input, select')].filter(field => !field.labels.length).length"
    assert seen.page.evaluate(nameless) == 0
    assert seen.page.evaluate("document.documentElement.lang") == "en"
    for region in ("Answers", "The model's card"):
        assert seen.page.get_by_role("region", name=region).count() == 1


def test_a_token_is_asked_for_where_the_server_wants_one(seen: Seen, serve_bundle: Callable[..., Running]) -> None:
    seen.open(serve_bundle(environment={"POTSTILL_TOKENS": "open-sesame"}))
    page, wrong = seen.page, seen.page.get_by_role("alert")
    assert "bearer token" in wrong.inner_text()
    page.get_by_label("Bearer token").fill("open-barley")
    seen.classify("great film")
    wrong.get_by_text("does not know this token").wait_for()
    page.get_by_label("Bearer token").fill("open-sésame ☃")
    seen.classify("great film")
    wrong.get_by_text("ASCII characters only").wait_for()
    page.get_by_label("Bearer token").fill("open-sesame")
    seen.classify("great film")
    assert len(seen.answers()) == 1
    assert wrong.inner_text() == ""
    assert "Macro F1" in page.locator("#card").inner_text()


def test_what_goes_wrong_is_said_in_words(seen: Seen, serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_texts=2)
    seen.open(server)
    wrong = seen.page.get_by_role("alert")
    seen.classify(" ")
    wrong.get_by_text("There is no text yet").wait_for()
    seen.classify("a", "b", "c")
    wrong.get_by_text("The server refused: the request has 3 texts; at most 2 are accepted.").wait_for()
    seen.classify("great " * 40)
    seen.answers()
    assert "1 text had more tokens than the model reads (32) and was cut" in seen.page.locator("#summary").inner_text()
    seen.page.get_by_role("button", name="Which words mattered?").click()  # 31 words and more, two texts a request
    seen.page.locator("article .word").first.wait_for()
    server.stop()
    seen.classify("great film")
    wrong.get_by_text("The server does not answer. Is it still running?").wait_for()


def test_one_of_several_models_is_chosen(
    seen: Seen, serve_sources: Callable[..., Running], tiny_student: Bundle, tiny_fallback: Bundle
) -> None:
    settings = ServeSettings(port=0, drain_s=0)
    paths = {"student": tiny_student.path, "big": tiny_fallback.path}
    seen.open(
        serve_sources([ModelSource.of_bundle(name, path, settings.limits_with({})) for name, path in paths.items()], settings)
    )
    asked: list[str] = []
    seen.page.on("request", lambda request: asked.append(request.url.rpartition("/models/")[2]))
    assert seen.page.locator("#model-name").inner_text() == "student"
    seen.page.get_by_label("Model", exact=True).select_option("big")
    seen.classify("great film")
    seen.answers()
    assert asked == ["big"]
    assert "teacher" in seen.page.locator("#card").inner_text()


def test_the_page_needs_no_other_place_and_the_browser_is_told_so(server: Running) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(img|iframe|script src)|@import|url\(", page)
    answered = server.ask("GET", "/")
    assert answered.body.decode() == page
    assert "default-src 'none'; connect-src 'self'" in answered.headers["content-security-policy"]
