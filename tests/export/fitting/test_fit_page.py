"""The page and the summary of a run: the facts are there, nothing of others becomes markup, no name covers another."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from export.fitting.reporting.details import alternatives
from export.fitting.reporting.page import PAGE, html_of, write_page
from export.fitting.reporting.picture import cost_figure, score_figure
from export.fitting.reporting.result import (
    Budget,
    CalibrationBin,
    Disagreement,
    FitReport,
    FormResult,
    HumanLabels,
    Labelling,
    Reference,
    Score,
    UnsureAnswers,
)
from export.fitting.reporting.summary import best_of, instead_of_the_student, summary_lines, summary_table

OUT = Path("runs/first try")
HOSTILE = '"><script>alert(1)</script>$\\bad$&-->'


def score(value: float) -> Score:
    return Score(value, value - 0.012, value + 0.012)


def form(name: str, ms: float, megabytes: float, status: Any, value: float | None = None) -> FormResult:
    recipe, _, tables = name.partition("/")
    measured = None if value is None else score(value)
    return FormResult(
        name=name,
        recipe=recipe,
        tables="int4" if tables == "int4" else "int8",
        predicted_ms=ms,
        predicted_bytes=int(megabytes * 1e6),
        status=status,
        reason=f"because of {name}",
        measured_ms=None if value is None else ms * 1.02,
        measured_bytes=None if value is None else int(megabytes * 1e6),
        validation=measured,
        test=measured,
        kept=None if value is None else value / 0.876,
    )


FORMS = (
    form("static/int8", 0.09, 8.1, "eliminated"),
    form("narrow/int4", 0.31, 5.2, "finalist", 0.8411),
    form("narrow/int8", 0.33, 8.9, "winner", 0.8432),
    form("2-layers/int4", 1.02, 12.4, "finalist", 0.8433),
    form("2-layers/int8", 2.05, 17.5, "over_budget", 0.8302),
    form("3-layers/int4", 1.9, 18.5, "failed_gate"),
    form("6-layers/int8", 4.6, 44.0, "over_budget"),
)


@pytest.fixture
def won() -> FitReport:
    return FitReport(
        verdict="Deploy narrow/int8: macro-F1 0.843, 96.3% of the teacher, 0.34 ms a text, 8.9 MB.",
        metric="macro_f1",
        budget=Budget(max_ms=2.0, max_mb=20.0, min_kept=0.95),
        prefer="speed",
        effort="standard",
        seed=7,
        measured_on="test",
        num_texts={"train": 8000, "validation": 1000, "test": 1066},
        teacher=Reference("teacher", score(0.88), score(0.876), 38.0, 438_000_000, "BERT base"),
        floors=(
            Reference("tfidf", score(0.76), score(0.762), summary="TF-IDF with logistic regression"),
            Reference("majority", score(0.33), score(0.334), summary="always the commonest label"),
        ),
        control=Reference("student_no_distillation", score(0.79), score(0.8013), summary="trained on the labels alone"),
        forms=FORMS,
        winner="narrow/int8",
        alternatives=alternatives(FORMS),
        per_label=(
            {"label": "good", "support": 533, "teacher_recall": 0.91, "student_recall": 0.87, "student_precision": 0.85},
            {"label": "bad", "support": 533, "teacher_recall": 0.84, "student_recall": 0.81, "student_precision": 0.84},
        ),
        disagreements=(Disagreement("a masterpiece of boredom", "bad", "bad", "good", 0.631),),
        calibration=tuple(
            CalibrationBin(low / 10, low / 10 + 0.1, 10 * low, low / 10 + 0.05, low / 10 + 0.02) for low in range(5, 10)
        ),
        ece=0.034,
        notes=("12 rows had no text",),
        minutes={"teacher": 12.5, "students": 31.0},
        environment={"cpu": "a processor", "git_commit": None, "versions": {"torch": "2.13"}},
        settings={"seed": 7},
    )


@pytest.fixture
def nothing_fits(won: FitReport) -> FitReport:
    return replace(
        won,
        verdict="No student keeps --max-ms.",
        budget=Budget(max_ms=0.05),
        teacher=Reference("teacher", None, None),
        control=None,
        forms=tuple(form(each.name, each.predicted_ms, each.predicted_bytes / 1e6, "over_budget") for each in FORMS),
        winner=None,
        binding=("max_ms",),
        nearest=("static/int8",),
        alternatives=(),
        per_label=(),
        disagreements=(),
        calibration=(),
        ece=None,
    )


def words(page: str) -> str:
    """Return what a reader sees, without style and pictures."""
    page = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_page_tells_what_to_deploy_and_the_evidence(won: FitReport, tmp_path: Path) -> None:
    write_page(tmp_path, won)
    seen = words((tmp_path / PAGE).read_text(encoding="utf-8"))
    for fact in (
        *("0.8432", "0.831-0.855", "96.3%", "0.33", "0.34", "8.9", "0.8013", "TF-IDF", "because of 6-layers/int8"),
        *("0.70 ms more", "87.0%", "-4.0", "a masterpiece of boredom", "63.1%", "the teacher is right", "0.034"),
        *("12 rows had no text", "a processor", "torch 2.13", "43.5", "students 31.0", "8000 train"),
    ):
        assert fact in seen, fact
    assert seen.index(won.verdict) < seen.index("Every student")


def test_what_scored_higher_is_named_with_what_it_costs_and_why_it_was_not_chosen(won: FitReport) -> None:
    faster = form("static/int8", 0.09, 8.1, "finalist", 0.85)
    said = [each.sentence for each in alternatives((*FORMS[1:], faster, form("3-layers/int8", 2.4, 21.0, "over_budget")))]
    measured = "on the measured texts, with"
    assert said[0] == f"2-layers/int4: +0.0001 {measured} 0.70 ms more and 3.5 MB more. Not chosen: because of 2-layers/int4."
    assert said[1] == f"static/int8: +0.0068 {measured} 0.24 ms less and 0.8 MB less. Not chosen: because of static/int8."
    assert said[2].startswith("3-layers/int8: not trained here; keeps ")
    assert "The test texts choose nothing." in words(html_of(won, out=OUT))


def test_with_a_language_model_as_teacher_the_page_has_costs_and_human_labels(won: FitReport) -> None:
    assert "What labels cost" not in html_of(won, OUT)
    ways = (Labelling("asked once", 500, 60_000, 3_000, cost=0.04), Labelling("the student", 10**6, hours=0.09))
    found = (HumanLabels(100, score(0.79)), HumanLabels(200, score(0.85)))
    seen = words(html_of(replace(won, labelling=ways, human_labels=found), OUT))
    for fact in ("asked once 500 60,000 3,000 - 0.04", "the student 1,000,000 - - 0.09 -", "From about 200 human labels on"):
        assert fact in seen, fact


def test_the_page_says_what_became_of_unsure_answers(won: FitReport) -> None:
    assert "unsure" not in words(html_of(won, OUT))
    seen = words(html_of(replace(won, unsure=UnsureAnswers("weigh", given=True)), OUT))
    assert "Answers the teacher is unsure of Each answer is weighed by its certainty, as --unsure asks." in seen


def test_commands_name_the_student_of_this_run(won: FitReport) -> None:
    page = html_of(won, OUT)
    assert "potstill serve &#39;runs/first try/student&#39;" in page
    (code,) = re.findall(r"<pre[^>]*>(from distill.*?)</pre>", page, flags=re.DOTALL)
    compile(code.replace("&#39;", "'").replace("&#34;", '"'), "page", "exec")


@pytest.mark.parametrize(
    ("name", "summary", "said"),
    [
        ("tfidf", "TF-IDF", "TF-IDF is as good as the chosen student (0.483): deploy that, or add labelled texts."),
        (
            "majority",
            "always the commonest label",
            "No better than always the commonest label (0.483): deploy nothing yet, and add",
        ),
    ],
)
def test_the_verdict_says_what_to_deploy_where_a_floor_is_as_good(name: str, summary: str, said: str) -> None:
    floor = Reference(name, None, Score(0.483, 0.48, 0.49), summary=summary)
    assert instead_of_the_student(floor).startswith(said)


def test_of_two_floors_that_are_equal_the_commonest_label_counts() -> None:
    alike, better = Score(0.483, 0.48, 0.49), Score(0.5, 0.4, 0.6)
    majority, tfidf = Reference("majority", None, alike), Reference("tfidf", None, alike)
    assert best_of([majority, tfidf]) is majority
    assert best_of([tfidf, majority]) is majority
    assert best_of([majority, found := replace(tfidf, test=better)]) is found
    assert best_of([]) is None


def test_a_floor_as_good_as_the_student_comes_first(won: FitReport) -> None:
    page = html_of(replace(won, floor_wins=True, verdict="TF-IDF is as good."), OUT)
    assert words(page.partition("<main>")[2]).strip().startswith("A simpler classifier is as good TF-IDF is as good.")
    commonest = tuple(replace(floor, test=won.floors[0].test) for floor in won.floors)
    page = html_of(replace(won, floor_wins=True, floors=commonest), OUT)
    assert words(page.partition("<main>")[2]).strip().startswith("No better than the commonest label")


@pytest.mark.parametrize(
    ("gap", "judged"),
    [
        (Score(0.021, -0.004, 0.046), "+0.021, 95 % interval -0.004 to +0.046. It includes 0, so these texts cannot tell"),
        (Score(0.081, 0.06, 0.1), "+0.081, 95 % interval +0.060 to +0.100. The student is better."),
        (Score(-0.081, -0.1, -0.06), "-0.081, 95 % interval -0.100 to -0.060. The student is worse."),
    ],
)
def test_page_and_terminal_say_whether_the_student_is_better_than_a_floor(won: FitReport, gap: Score, judged: str) -> None:
    report = replace(won, floor_gap=gap)
    assert judged in words(html_of(report, OUT))
    assert judged in summary_lines(report, OUT)[1]
    assert not any("simple classifier" in line for line in summary_lines(won, OUT))


def test_without_a_fitting_form_the_page_names_the_budget_and_the_nearest(nothing_fits: FitReport) -> None:
    page = html_of(nothing_fits, OUT)
    seen = words(page)
    assert "--max-ms 0.05" in seen
    assert "static/int8 (0.09 ms, 8.1 MB)" in seen
    assert "potstill serve" not in seen
    assert page.count('role="img"') == 2  # size against time, for wide and narrow screens


def test_without_test_texts_the_page_says_so(won: FitReport) -> None:
    forms = tuple(replace(each, test=None) for each in FORMS)
    page = html_of(replace(won, measured_on="validation", forms=forms), OUT)
    assert "optimistic" in words(page)
    assert '<th scope="col">test</th>' not in page
    assert "optimistic" not in words(html_of(won, OUT))


def test_words_of_others_cannot_become_markup(won: FitReport) -> None:
    hostile = replace(
        won,
        verdict=HOSTILE,
        metric=f"recall:{HOSTILE}",
        teacher=replace(won.teacher, name=HOSTILE, summary=HOSTILE),
        floors=(replace(won.floors[0], name=HOSTILE),),
        forms=(*FORMS, replace(FORMS[1], name=HOSTILE, reason=HOSTILE)),
        per_label=({**won.per_label[0], "label": HOSTILE},),
        disagreements=(Disagreement(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5),),
        notes=(HOSTILE,),
        environment={HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
    )
    page = html_of(hostile, OUT)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 12
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_page_loads_nothing(won: FitReport) -> None:
    page = html_of(won, OUT)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(img|iframe|script|link)\b|@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_headers_have_a_scope_and_pictures_have_words(won: FitReport) -> None:
    page = html_of(won, OUT)
    assert all("scope=" in each for each in re.findall(r"<th\b[^>]*>", page))
    for svg in re.findall(r"<svg[^>]*>", page):
        assert 'role="img"' in svg
        assert "narrow/int8: 0.843 at 0.34 ms" in svg or "45 answers near" not in svg
    assert page.count("<svg") == 3


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_letters_of_every_theme_contrast_with_what_is_below_them(won: FitReport) -> None:
    themes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", each)) for each in re.findall(r":root \{(.*?)\}", html_of(won, OUT))]
    for theme in themes[:2]:
        for letters in ("ink", "soft", "mark", "warn"):
            for below in ("paper", "card"):
                dark, light = sorted((luminance(theme[letters]), luminance(theme[below])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (letters, below)


def assert_names_are_apart(figure: Figure) -> None:
    # The box of the letters alone: that of an annotation includes its line.
    legend = figure.axes[0].get_legend()
    texts = [*figure.axes[0].texts, *(legend.get_texts() if legend else ())]
    boxes = [Text.get_window_extent(text) for text in texts]
    assert len(boxes) > 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_no_name_in_a_picture_covers_another(width: str, won: FitReport, nothing_fits: FitReport) -> None:
    assert_names_are_apart(score_figure(won, width))
    assert_names_are_apart(cost_figure(nothing_fits, width))
    close = tuple(form(f"{count}-layers/int8", 1 + count / 50, 9, "finalist", 0.84 + count / 5000) for count in range(9))
    assert_names_are_apart(score_figure(replace(won, forms=close), width))


def test_forms_without_a_score_are_left_out_of_the_picture_of_scores(won: FitReport) -> None:
    names = {text.get_text() for text in score_figure(won, "wide").axes[0].texts}
    assert {"narrow/int8", "2-layers/int8", "teacher", "TF-IDF", "budget 2 ms", "95% of the teacher"} <= names
    assert not {"6-layers/int8", "static/int8", "commonest label"} & names  # the last is too low to leave room for the rest
    assert "commonest label, 0.334" in words(html_of(won, OUT))


def test_what_was_trained_and_does_not_keep_the_budget_is_hollow(won: FitReport) -> None:
    circles = [each for each in score_figure(won, "wide").axes[0].collections if isinstance(each, PathCollection)]
    hollow = [each for each in circles if not np.size(each.get_facecolor())]
    times = [float(place[0]) for each in hollow for place in np.asarray(each.get_offsets())]
    assert times == [pytest.approx(2.05 * 1.02), pytest.approx(0.33 * 1.02)]  # the other is the control
    assert "Hollow circles were trained, but do not keep the budget." in words(html_of(won, OUT))


def test_the_picture_of_scores_shows_the_budget_of_size(won: FitReport) -> None:
    legend = score_figure(won, "wide").axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["budget 20 MB"]
    (mark,) = legend.legend_handles
    assert isinstance(mark, PathCollection)
    assert mark.get_sizes().tolist() == [30 + 20e6 / 4e5]  # as a point of 20 MB
    unlimited = replace(won, budget=replace(won.budget, max_mb=None))
    assert score_figure(unlimited, "wide").axes[0].get_legend() is None


def test_with_another_metric_what_is_kept_is_not_drawn_as_a_score(won: FitReport) -> None:
    recall = replace(won, metric="recall:bad")
    names = {text.get_text() for text in score_figure(recall, "wide").axes[0].texts}
    assert "95% of the teacher" not in names
    seen = words(html_of(recall, OUT))
    assert "96.3% of the teacher&#39;s macro-F1 0.34 ms" in seen  # without the teacher's recall beside it


def test_the_same_report_gives_the_same_page(won: FitReport) -> None:
    assert html_of(won, OUT) == html_of(won, OUT)


def test_the_summary_has_the_verdict_the_page_and_every_form(won: FitReport) -> None:
    assert summary_lines(won, OUT) == [
        won.verdict,
        "report  runs/first try/report.html",
        "student runs/first try/student",
        "try     potstill predict 'runs/first try/student' 'some text'",
        "serve   potstill serve 'runs/first try/student'",
    ]
    columns, rows = summary_table(won)
    by_name = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert by_name["narrow/int8"] == {
        "student": "narrow/int8",
        "status": "chosen",
        "ms": "0.34",
        "MB": "8.9",
        "macro-F1 (test)": "0.8432",
        "95 % interval": "0.831-0.855",
        "kept": "96.3%",
    }
    assert by_name["6-layers/int8"]["ms"] == "4.60"
    assert by_name["6-layers/int8"]["macro-F1 (test)"] == "-"
    assert [row[0] for row in rows] == [
        *("teacher", "TF-IDF", "commonest label", "control"),
        *(each.name for each in FORMS),
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_shows_the_page_without_scrolling_sideways(
    width: int, scheme: str, won: FitReport, browser: Any, tmp_path: Path
) -> None:
    labels = tuple({**won.per_label[0], "label": f"{'long' * 20}{number}"} for number in range(40))
    text = replace(won.disagreements[0], text="w" * 900)
    write_page(tmp_path, replace(won, per_label=labels, disagreements=(text,), notes=("n" * 300,)))
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto((tmp_path / PAGE).as_uri())
    assert not complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = [each.is_visible() for each in page.locator("figure svg").all()]
    assert shown == [width > 640, width <= 640, True]
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] > light[1]) == (scheme == "dark")
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing(
    width: int, scheme: str, won: FitReport, nothing_fits: FitReport, browser: Any, axe: str, tmp_path: Path
) -> None:
    costs = (Labelling("asked once", 500, 60_000, 3_000, cost=0.04),)
    every_part = replace(won, labelling=costs, human_labels=(HumanLabels(100, score(0.79)),))
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    found = []
    for report in (every_part, nothing_fits):
        write_page(tmp_path, report)
        page.goto((tmp_path / PAGE).as_uri())
        found.append(page.evaluate(axe))
    page.close()
    assert found == [[], []]


def test_equal_scores_without_an_interval_can_be_drawn(won: FitReport) -> None:
    perfect = Score(1.0, 1.0, 1.0)
    forms = tuple(form if form.test is None else replace(form, test=perfect, validation=perfect) for form in won.forms)
    teacher = replace(won.teacher, test=perfect, validation=perfect)
    assert html_of(replace(won, forms=forms, teacher=teacher, floors=(), control=None), OUT)
