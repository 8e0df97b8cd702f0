"""The page of `--layout web` in a real browser: the ids, labels and probabilities of Python, and no other server."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
import unicodedata
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import tiny_texts
from word_pieces import with_word_pieces

from distill.bundle import TOKENIZER, Bundle
from distill.labels import ProblemType, task_of
from distill.models.packaged import minilm_folder
from distill.settings import Precision
from distill.tokenization import TextTokenizer
from export.layouts import write_layout
from export.runtime.sessions import OnnxClassifier
from export.web.browser import TOLERANCE, ids_around
from export.web.characters import character_classes

pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None, reason="npm, which brings ONNX Runtime for browsers, is not installed"
)

CLASSIFY = """async (texts) => {
    const { Classifier } = await import(new URL("classifier.js", location));
    const classifier = await Classifier.open();
    const answers = [];
    for (const text of texts) answers.push(await classifier.classify(text));
    return answers;
}"""
TOKENIZE = """async ([texts, about]) => {
    const { Tokenizer } = await import(new URL("tokenizer.js", location));
    const file = await (await fetch("tokenizer.json")).json();
    const tokenizer = new Tokenizer(file, about);
    return texts.map((text) => tokenizer.encode(text));
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Return a folder and the address at which a plain server of static files has it."""
    folder = tmp_path_factory.mktemp("public")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Visit:
    """A page, what it asked for and what the browser complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.locator("#text:enabled, #state.wrong").wait_for()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    made = Visit(browser.new_page())
    yield made
    made.page.close()


@pytest.fixture(scope="module")
def reviews(tiny_student: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny student with a tokenizer that the page reads; do not change it."""
    copy = tmp_path_factory.mktemp("bundles") / "reviews"
    shutil.copytree(tiny_student.path, copy)
    return with_word_pieces(Bundle.open(copy))


@pytest.fixture(scope="module")
def site(reviews: Bundle, address: tuple[Path, str]) -> str:
    """Return the address of the page with the int8 graph."""
    folder, url = address
    write_layout(reviews, "web", folder / "int8")
    return f"{url}/int8/"


def test_int8_gives_pythons_labels(visit: Visit, site: str, reviews: Bundle) -> None:
    require_pythons_answers(visit, site, reviews, "int8")
    names = {"index.html", "page.js", "classifier.js", "tokenizer.js", "model.json", "tokenizer.json", "model.onnx"}
    asked = {url.removeprefix(site) or "index.html" for url in visit.requested}
    assert asked == names | {"onnxruntime.js", "onnxruntime.wasm"}  # and nothing of another place


def test_fp32_gives_pythons_labels_and_nearly_its_probabilities(
    visit: Visit, address: tuple[Path, str], reviews: Bundle
) -> None:
    folder, url = address
    write_layout(reviews, "web", folder / "fp32", precision="fp32")
    require_pythons_answers(visit, f"{url}/fp32/", reviews, "fp32")


def require_pythons_answers(visit: Visit, url: str, bundle: Bundle, precision: Precision) -> None:
    texts = [text for text, _ in tiny_texts(500, seed=7)]
    visit.open(url)
    answers = visit.page.evaluate(CLASSIFY, texts)
    classifier = OnnxClassifier.open(bundle, precision=precision)
    expected = task_of(classifier.problem_type).probabilities(classifier.predict_logits(texts))
    chosen = np.array([bundle.labels.index(answer["chosen"][0]) for answer in answers])
    other = chosen != expected.argmax(axis=1)
    assert other.sum() <= 5
    assert (np.ptp(expected[other], axis=1) <= TOLERANCE[precision]).all()  # labels that are nearly equally likely
    assert len(np.unique(expected.argmax(axis=1))) == 2
    assert np.abs(np.array([answer["probabilities"] for answer in answers]) - expected).max() <= TOLERANCE[precision]
    assert not visit.complaints


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_logits_mean_what_they_mean_in_python(
    problem_type: ProblemType, visit: Visit, site: str, address: tuple[Path, str], reviews: Bundle
) -> None:
    folder = shutil.copytree(address[0] / "int8", address[0] / problem_type)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**about, "problem_type": problem_type, "probes": []}), encoding="utf-8")
    texts = [text for text, _ in tiny_texts(40, seed=8)]
    visit.open(f"{address[1]}/{problem_type}/")
    answers = visit.page.evaluate(CLASSIFY, texts)
    task, logits = task_of(problem_type), OnnxClassifier.open(reviews).predict_logits(texts)
    expected = [
        [label for label, is_chosen in zip(reviews.labels, row, strict=True) if is_chosen] for row in task.chosen_labels(logits)
    ]
    assert [answer["chosen"] for answer in answers] == (expected if problem_type != "regression" else [[]] * 40)
    found = np.array([answer["probabilities"] for answer in answers])
    np.testing.assert_allclose(
        found, task.probabilities(logits), atol=0.2 if problem_type == "regression" else TOLERANCE["int8"]
    )


def test_a_reader_sees_the_answer_while_typing(visit: Visit, site: str, reviews: Bundle) -> None:
    visit.open(site)
    page = visit.page
    page.get_by_label("Your text").press_sequentially("A great, fresh film")
    page.locator(".score.chosen", has_text="positive").wait_for()
    classifier = OnnxClassifier.open(reviews)
    (expected,) = task_of(classifier.problem_type).probabilities(classifier.predict_logits(["a great, fresh film"])).tolist()
    shown = [float(text.removesuffix(" %")) / 100 for text in page.locator(".score .number").all_inner_texts()]
    assert shown == pytest.approx(expected, abs=TOLERANCE["int8"])
    widths = "[...document.querySelectorAll('.bar')].map((bar) => bar.clientWidth / bar.parentElement.clientWidth)"
    assert page.evaluate(widths) == pytest.approx(shown, abs=0.01)
    assert page.locator("#took").inner_text().endswith(" ms, 7 tokens")
    page.get_by_text("positive 9").or_(page.locator("#heard:not(:empty)")).first.wait_for(state="attached")
    page.get_by_label("Your text").fill("")
    page.locator("#answer").wait_for(state="hidden")
    page.get_by_label("Your text").fill("film " * 100)
    page.get_by_text("; only the first 32 were read").wait_for()
    assert not visit.complaints


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (360, "dark")])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(
    width: int, scheme: str, visit: Visit, site: str, axe: str
) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    visit.open(site)
    found = [visit.page.evaluate(axe)]
    visit.page.get_by_label("Your text").fill("a great, fresh film " * 20)
    visit.page.locator(".score").first.wait_for()
    assert [*found, visit.page.evaluate(axe)] == [[], []]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_browser_that_answers_otherwise_is_told_so(visit: Visit, site: str, address: tuple[Path, str]) -> None:
    folder = shutil.copytree(address[0] / "int8", address[0] / "other")
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    about["probes"][3]["probabilities"] = [1 - value for value in about["probes"][3]["probabilities"]]
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    visit.open(f"{address[1]}/other/")
    assert "gives other answers than Python" in visit.page.locator("#state").inner_text()
    assert visit.page.get_by_label("Your text").is_disabled()


def odd_texts(tokenizer: TextTokenizer) -> list[str]:
    """Return texts of every character there is, and of what people and attackers write."""
    generator = random.Random(0)
    named = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    texts = ["a".join(named[start : start + 60]) for start in range(0, len(named), 60)]
    words = [
        *tokenizer.vocabulary(),
        "[SEP]",
        "[MASK]x",
        " [CLS] ",
        "a" * 99,
        "a" * 101,
        "ΣΑΣ",
        "İI",
        "e\u0301",
        "\u00e9",
        "\0",
        "\ufeff",
    ]
    words += [
        "中文",
        "日本語",
        "한국어",
        "👩‍👩‍👧",
        "🇩🇪",
        "\u200b",
        "\u0085",
        "\u3000",
        "don't",
        "U.S.A.",
        "\ufffd",
        "ﬁ",
        "Ǆ",
        "\u1e9b\u0323",
    ]
    for _ in range(4000):
        parts = generator.choices(words, k=generator.randint(0, 60)) + generator.choices(named, k=generator.randint(0, 5))
        generator.shuffle(parts)
        texts.append(generator.choice(["", " "]).join(parts))
    return texts


def test_every_text_has_pythons_ids(visit: Visit, address: tuple[Path, str], site: str) -> None:
    path = Path(minilm_folder(), TOKENIZER)
    tokenizer = TextTokenizer.from_file(path, max_length=64, pad_id=0)
    folder = shutil.copytree(address[0] / "int8", address[0] / "ids", ignore=shutil.ignore_patterns("*.onnx", TOKENIZER))
    shutil.copy(path, folder / TOKENIZER)
    before, after = ids_around(tokenizer)
    assert (before, after) == ([101], [102])
    about = {"max_length": 64, "ids_before": before, "ids_after": after, "characters": character_classes()}
    texts = odd_texts(tokenizer)
    visit.page.goto(f"{address[1]}/ids/model.json")
    found = visit.page.evaluate(TOKENIZE, [texts, about])
    for text, answer, reading in zip(texts, found, tokenizer.read(texts), strict=True):
        assert (answer["ids"], answer["isCut"]) == (reading.ids.tolist(), reading.is_cut), repr(text)
    assert len(texts) > 6000
    assert {answer["isCut"] for answer in found} == {True, False}
