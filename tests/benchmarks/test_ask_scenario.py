"""The ask scenario with few texts: what it counts, and its figures by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.asking.promises import oracle_share
from benchmarks.asking.students import Study
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import Context
from benchmarks.scenarios import ask
from benchmarks.scenarios.ask import AskBenchSettings, ask_figures, run_ask, sample_of
from distill.errors import SettingsError
from distill.progress import SilentReporter
from distill.settings import DataSettings

FEW = sample_of(Study(DataSettings(train=("texts.csv",))))


def test_failures_and_promises_run_nothing_is_lost_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    def run() -> list[dict[str, Any]]:
        return run_ask(
            tmp_path, Rows(tmp_path / "rows"), parts=("failures", "promises"), amounts=FEW, reporter=SilentReporter()
        )

    rows = run()
    (whole,) = (row for row in rows if row["kind"] == "whole")
    assert (whole["exit_code"], whole["missing"], whole["ideal_s"]) == (0, 0, pytest.approx(15 * 0.05))
    assert whole["requests"] > FEW.failures.texts * 1.01
    kills = [row for row in rows if row["kind"] == "kill"]
    assert [row["killed"] for row in kills] == [True, True, False]
    figures = ask_figures(rows)
    assert (figures["answers_lost"], figures["answers_asked_again"]) == (0, 0)
    assert figures["bound_holds_share"] > 0.8
    assert run() == rows  # seconds too


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'kills'; there are failures, promises, students, unsure, local"):
        run_ask(tmp_path, Rows(tmp_path / "rows"), parts=("kills",), amounts=FEW, reporter=SilentReporter())


def test_the_figures_are_those_of_the_rows() -> None:
    rows = [
        {"kind": "whole", "seconds": 12.0, "ideal_s": 10.0, "missing": 1},
        {"kind": "kill", "lost": 2, "asked_again": 3, "missing": 9},
        {"kind": "kill", "lost": 0, "asked_again": 1, "missing": 4},
        {"kind": "promise", "agreement": 0.95, "refused": False, "holds": True, "student_share": 0.6},
        {"kind": "promise", "agreement": 0.95, "refused": False, "holds": False, "student_share": 0.4},
        {"kind": "promise", "agreement": 0.95, "refused": True, "holds": False, "student_share": 0.0},
    ]
    found = ask_figures(rows)
    assert (found["time_ratio_ideal"], found["answers_lost"], found["answers_asked_again"]) == (1.2, 7, 4)
    assert found["bound_holds_share"] == 0.5
    assert found["answered_share_of_oracle"] == pytest.approx(0.5 / oracle_share(0.95))


def test_the_oracle_takes_texts_until_their_differences_are_what_is_allowed() -> None:
    # exp(-s / 2) of the texts are above s; on exp(-3 s / 2) / 6 they differ. That is 0.05 at exp(-s / 2) = 0.3^(1/3).
    assert oracle_share(0.95) == pytest.approx(0.3 ** (1 / 3))
    assert oracle_share(0.5) == 1
    assert math.isclose(oracle_share(0.95) ** 3 / 6, 0.05)


def test_a_small_run_installs_no_server_for_a_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "is_ready", lambda _: False)
    context = Context(tmp_path, "ask", SilentReporter(), quick=True, out=tmp_path)
    assert not ask.run(AskBenchSettings(parts=("local",), teacher=tmp_path), context).rows
