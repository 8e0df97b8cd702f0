"""The server scenario: the search on a simulated server, then on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness.candidates import RowSettings, candidates_of
from benchmarks.harness.scenario import Context
from benchmarks.harness.speed import figures_named
from benchmarks.scenarios.server import RateSettings, highest_rate, run_rate_search
from distill.bundle import Bundle
from distill.data import Dataset
from distill.progress import SilentReporter

CONTEXT = Context(Path(), "server", SilentReporter())


def server_that_takes(limit: float) -> tuple[list[float], Callable[[float], bool]]:
    asked: list[float] = []

    def keeps(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    return asked, keeps


def test_the_bracket_halves_on_the_scale_of_logarithms() -> None:
    asked, keeps = server_that_takes(450.0)
    # Four rates, each 4 times the one before: the third is too much, then the second is not.
    assert highest_rate(keeps, least=100.0, most=6400.0, steps=2) == pytest.approx(400.0)
    assert asked == pytest.approx([1600.0, 400.0])


def test_more_steps_come_closer() -> None:
    asked, keeps = server_that_takes(450.0)
    found = highest_rate(keeps, least=100.0, most=1600.0, steps=10)
    assert found is not None
    assert 450 * 16 ** (-1 / (2**10 - 1)) <= found <= 450
    assert len(asked) <= 11


def test_a_server_that_keeps_the_bound_at_its_limit_has_that_rate() -> None:
    _, keeps = server_that_takes(1e9)
    assert highest_rate(keeps, least=100.0, most=1600.0, steps=6) == pytest.approx(1600.0)


def test_a_server_that_never_keeps_it_has_no_rate() -> None:
    _, keeps = server_that_takes(0.0)
    assert highest_rate(keeps, least=100.0, most=1600.0, steps=6) is None


def test_our_server_has_a_rate_and_the_quality_of_its_answers(tiny_student: Bundle, tiny_test: Dataset) -> None:
    settings = RateSettings(bound_ms=5000.0, probe_s=0.2, steps=1, connections=8)
    named = RowSettings(bundles=(f"{tiny_student.path}:int8",), floors=True, url=("far=http://example.com/",))
    candidates = candidates_of(named, CONTEXT)
    rows = run_rate_search(candidates, tiny_test, settings, reporter=SilentReporter())
    ours, floor, _, far = rows
    assert ours["unanswered"] == 0
    assert ours["macro_f1"] > 0.5
    assert ours["requests_per_second"] == min(ours["requests_per_second_searches"])
    (figure,) = figures_named("requests_per_second", {"rows": rows}).values()
    assert figure == ours["requests_per_second"]
    assert "is no server" in floor["failed"]
    assert "asks servers on 127.0.0.1" in far["failed"]


def test_a_row_names_no_place(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    named = RowSettings(bundles=(f"{tiny_student.path}:int8",), url=("gone=http://127.0.0.1:9/",))
    gone = candidates_of(named, CONTEXT)[1:]
    (row,) = run_rate_search(gone, tiny_test, RateSettings(steps=1), reporter=SilentReporter())
    assert "it answered none of 200 requests as it should" in row["failed"]
    assert str(tmp_path) not in str(row)
