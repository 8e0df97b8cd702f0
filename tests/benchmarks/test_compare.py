"""Two results compared: changes beyond noise, regressions, and results that cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import app
from benchmarks.harness.results import write_result
from benchmarks.report.compare import Kind, compare_files
from distill.errors import PotstillError

TRUTH = [0, 1] * 100
TIGHT: dict[Kind, float] = {"time": 0.1, "quality": 0.005, "memory": 0.05}
LOOSE: dict[Kind, float] = {"time": 0.5, "quality": 0.5, "memory": 0.5}


def answers(wrong: int) -> str:
    """Return the answers to `TRUTH` with the first `wrong` of each label exchanged."""
    given = list(TRUTH)
    for index in range(2 * wrong):
        given[index] = 1 - given[index]
    return "".join(map(str, given))


def row(name: str, *, ratio: float, wrong: int = 20, half_width: float = 0.02, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "bundle",
        "macro_f1": 1 - wrong / 100,  # as many wrong of each label: every F1 is the share of right answers
        "predicted": answers(wrong),
        "num_texts": len(TRUTH),
        "reference": "teacher",
        "p50_ratio": {"value": ratio, "low": ratio * (1 - half_width), "high": ratio * (1 + half_width)},
        **more,
    }


def result(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    content = {"test_fingerprint": "a", "labels": ["no", "yes"], "truth": TRUTH, **more}
    return write_result("single-stream", command="", environment={}, rows=rows, figures={}, folder=path, **content)


BEFORE = [row("teacher", ratio=1.0, wrong=15), row("student", ratio=10.0), row("other", ratio=5.0)]


def test_nothing_has_changed_in_the_same_result(tmp_path: Path) -> None:
    changes, notes = compare_files(result(tmp_path / "a", BEFORE), result(tmp_path / "b", BEFORE))
    assert not any(change.beyond_noise for change in changes)
    assert notes == []
    assert {(change.row, change.figure) for change in changes} == {
        (name, figure) for name in ("student", "other") for figure in ("macro_f1", "p50_ratio")
    } | {("teacher", "macro_f1")}


def test_a_change_within_the_intervals_is_noise_and_one_beyond_is_told(tmp_path: Path) -> None:
    after = [BEFORE[0], row("student", ratio=10.3), row("other", ratio=4.0)]
    changes, _ = compare_files(result(tmp_path / "a", BEFORE), result(tmp_path / "b", after))
    told = {change.row: change for change in changes if change.beyond_noise}
    assert set(told) == {"other"}  # 10.0 and 10.3 with 2 % each meet, 5 and 4 do not
    assert told["other"].better_by == pytest.approx(-0.2)
    assert told["other"].regression(TIGHT)
    assert not told["other"].regression({**TIGHT, "time": 0.25})


def test_worse_answers_are_found_text_by_text(tmp_path: Path) -> None:
    after = [BEFORE[0], row("student", ratio=10.0, wrong=24), BEFORE[2]]
    changes, _ = compare_files(result(tmp_path / "a", BEFORE), result(tmp_path / "b", after))
    (told,) = [change for change in changes if change.beyond_noise]
    # Four more of a hundred: unpaired, two intervals of some 5 points each would hide that.
    assert (told.row, told.figure) == ("student", "macro_f1")
    assert told.better_by == pytest.approx(0.76 - 0.80)


def test_a_row_that_fails_now_is_a_regression(tmp_path: Path) -> None:
    after = [BEFORE[0], {"name": "student", "failed": "it died"}, BEFORE[2]]
    changes, notes = compare_files(result(tmp_path / "a", BEFORE), result(tmp_path / "b", after))
    assert any(change.row == "student" and change.regression(LOOSE) for change in changes)
    assert notes == ["student was left out in the second"]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"test_fingerprint": "b"}, "test_fingerprint is 'a' in the one and 'b'"), ({"labels": ["yes", "no"]}, "labels is")],
)
def test_results_of_other_data_are_refused(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(PotstillError, match=f"cannot be compared: {word}"):
        compare_files(result(tmp_path / "a", BEFORE), result(tmp_path / "b", BEFORE, **change))


@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_file_that_is_not_as_it_was_written_is_refused(damage: str, tmp_path: Path) -> None:
    first, second = result(tmp_path / "a", BEFORE), result(tmp_path / "b", BEFORE)
    text = second.read_text()
    second.write_text(text[:-40] if damage == "cut" else text.replace('"value":10.0', '"value":12.0'))
    with pytest.raises(PotstillError, match=r"is not whole|is not as the harness wrote it"):
        compare_files(first, second)


def test_the_command_exits_with_1_on_a_regression_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = result(tmp_path / "a", BEFORE)
    second = result(tmp_path / "b", [BEFORE[0], row("student", ratio=8.0), BEFORE[2]])
    app(["compare", str(first), str(second), "--time", "0.3"])
    assert "1 of 5 figures changed beyond noise" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        app(["compare", str(first), str(second)])
    assert stopped.value.code == 1
    assert "worse: student p50_ratio by more than 0.05" in capsys.readouterr().err


def test_four_points_of_quality_do_not_pass_because_times_may_vary(tmp_path: Path) -> None:
    first = result(tmp_path / "a", BEFORE)
    second = result(tmp_path / "b", [BEFORE[0], row("student", ratio=10.0, wrong=24), BEFORE[2]])
    with pytest.raises(SystemExit):
        app(["compare", str(first), str(second), "--time", "0.5"])
    app(["compare", str(first), str(second), "--quality", "0.05"])
