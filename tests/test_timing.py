"""The table that a test run prints at its end."""

from __future__ import annotations

from timing import SLOWEST, timing_lines


def test_time_is_summed_by_folder_with_the_slowest_first() -> None:
    seconds = {"tests/a/test_x.py::test_1": 1.0, "tests/a/test_x.py::test_2[a/b]": 2.0, "tests/test_y.py::test_3": 4.0}
    lines = [line.split() for line in timing_lines(seconds)]
    assert lines[1:4] == [["4.0", "1", "tests"], ["3.0", "2", "tests/a"], ["7.0", "3", "all"]]
    assert lines[5:] == [
        ["4.0", "tests/test_y.py::test_3"],
        ["2.0", "tests/a/test_x.py::test_2[a/b]"],
        ["1.0", "tests/a/test_x.py::test_1"],
    ]


def test_only_the_slowest_tests_are_named() -> None:
    lines = list(timing_lines({f"tests/test_z.py::test_{number}": float(number) for number in range(50)}))
    assert len(lines) == 4 + SLOWEST
    assert lines[-SLOWEST].endswith("test_49")
