"""What a command prints: progress (count, elapsed and remaining time) and tables."""

from __future__ import annotations

import io
import sys

import pytest

from distill.cli.bars import BarReporter, reporter_for_terminal
from distill.cli.terminal import print_cells
from distill.progress import LineReporter, SilentReporter


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_the_interval_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with LineReporter(clock=clock, interval_s=10).task("train", 8) as advance:
        for _ in range(8):
            clock.now += 4
            advance()
    # 4 s a piece: lines at 12 s, 24 s and the last at 32 s.
    assert capsys.readouterr().err.splitlines() == [
        "train: 3/8, 12 s gone, 20 s left",
        "train: 6/8, 24 s gone, 8 s left",
        "train: 8/8, 32 s gone, 0 s left",
    ]


def test_a_line_and_its_end_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between two writes would put its message on the same line."""

    class Writes(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", Writes())
    LineReporter().say("half-way")
    assert written == ["half-way\n"]


def test_an_advance_may_have_a_count_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with LineReporter(clock=clock, interval_s=10).task("label", 100) as advance:
        clock.now += 30
        advance(75, loss=0.51237, epoch=2)
    assert capsys.readouterr().err == "label: 75/100, 30 s gone, 10 s left  loss 0.5124  epoch 2\n"


def test_the_rate_leaves_out_the_work_of_an_earlier_run(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with LineReporter(clock=clock, interval_s=10).task("train", 100) as advance:
        advance(80)  # at once: the run goes on from there
        clock.now += 12
        advance(4)
    assert capsys.readouterr().err == "train: 84/100, 12 s gone, 48 s left\n"  # 3 s a piece, 16 pieces


def test_nothing_more_at_the_end_does_not_repeat_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with LineReporter(clock=clock).task("label", 2) as advance:
        clock.now += 4
        advance(2)
        advance(0)
    assert capsys.readouterr().err == "label: 2/2, 4 s gone, 0 s left\n"


def test_only_the_first_process_of_a_run_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert isinstance(reporter_for_terminal(), SilentReporter)
    monkeypatch.setenv("RANK", "0")
    assert not isinstance(reporter_for_terminal(), SilentReporter)


def test_an_advance_by_zero_does_not_divide_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with LineReporter(clock=clock).task("label", 0) as advance:
        clock.now += 30
        advance(0)
    assert capsys.readouterr().err == ""


def test_remaining_time_is_never_negative(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter(clock=Clock()).task("label", 2) as advance:
        advance(3)
    assert "label: 3/2, 0 s gone, 0 s left" in capsys.readouterr().err


def test_lines_go_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    LineReporter().say("merged 2 texts")
    assert tuple(capsys.readouterr()) == ("", "merged 2 texts\n")


def test_the_silent_reporter_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = SilentReporter()
    reporter.say("merged 2 texts")
    with reporter.task("train", 2) as advance:
        advance()
        advance(1, loss=0.5)
    assert tuple(capsys.readouterr()) == ("", "")


def test_bars_go_to_stderr_and_take_brackets_literally(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = BarReporter()
    reporter.say("left out [bold] 3 rows")
    with reporter.task("train [/oops]", 4) as advance:
        advance()
        advance(3, loss=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert "left out [bold] 3 rows" in err
    assert "train [/oops]" in err
    assert "4/4" in err
    assert "loss 0.2500" in err


def test_bars_are_shown_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(reporter_for_terminal(), BarReporter)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(reporter_for_terminal(), LineReporter)


def test_a_table_outside_a_terminal_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    print_cells(("text", "answer", "probability"), [("x" * 300, "positive", "0.988")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["text", "answer", "probability"] in lines
    assert ["x" * 300, "positive", "0.988"] in lines
