"""Result files: figures computed by hand from rows, and each kind of invalid file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import results
from benchmarks.harness.results import changed_code, digest_of_code, read_result, write_result
from benchmarks.scenarios.demo import demo_figures
from distill.errors import PotstillError

ROWS: list[dict[str, Any]] = [
    {"name": "teacher", "precision": "fp32", "macro_f1": 0.8, "size_bytes": 90, "p50_ratio_teacher": 1.0},
    {"name": "student", "precision": "fp32", "macro_f1": 0.75, "size_bytes": 60, "p50_ratio_teacher": 5.0},
    {"name": "student", "precision": "int8", "macro_f1": 0.7, "size_bytes": 20, "p50_ratio_teacher": 9.5},
    {"name": "majority", "precision": "fp32", "macro_f1": 0.3, "size_bytes": None, "p50_ratio_teacher": None},
]


def write(folder: Path) -> Path:
    return write_result(
        "demo", command="a command", environment={"cpu": "x"}, rows=ROWS, figures=demo_figures({"rows": ROWS}), folder=folder
    )


def test_figures_are_computed_from_the_rows() -> None:
    assert demo_figures({"rows": ROWS}) == pytest.approx(
        {
            "teacher_macro_f1": 0.8,
            "student_int8_retention": 0.7 / 0.8,
            "int8_drop": 0.75 - 0.7,
            "p50_ratio_teacher": 9.5,
            "size_ratio_teacher": 90 / 20,
        }
    )


def test_figures_do_not_depend_on_the_order_of_the_rows() -> None:
    assert demo_figures({"rows": ROWS[::-1]}) == demo_figures({"rows": ROWS})


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert write(tmp_path) == tmp_path / "demo.json"
    assert read_result("demo", folder=tmp_path) == {
        "schema": 3,
        "scenario": "demo",
        "command": "a command",
        "measured_on": datetime.now(UTC).date().isoformat(),
        "environment": {"cpu": "x"},
        "rows": ROWS,
        "figures": demo_figures({"rows": ROWS}),
        "code": {},
        "digest": json.loads((tmp_path / "demo.json").read_text())["digest"],
    }


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace('"macro_f1":0.75', '"macro_f1":0.79'))
    with pytest.raises(PotstillError, match=r"demo\.json is not as the harness wrote it: its digest does not fit"):
        read_result("demo", folder=tmp_path)


def test_the_order_of_keys_and_line_ends_are_not_an_edit(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert read_result("demo", folder=tmp_path) == content


def test_a_row_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    lines = write(tmp_path).read_text().splitlines()
    assert sum('"precision"' in line for line in lines) == len(ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["demo.json"]


def test_a_figure_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result("demo", command="", environment={}, rows=[], figures={"int8_drop": float("nan")}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        PotstillError, match=r"cannot be read: No such file or directory; run `python -m benchmarks demo` to make it"
    ):
        read_result("demo", folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "rows": [', b"\xff\xfe", b"[]", b'{"schema": 1, "scenario": "demo"}'])
def test_a_result_that_is_not_whole_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_bytes(content)
    with pytest.raises(PotstillError, match=r"demo\.json is not whole.*run its scenario again"):
        read_result("demo", folder=tmp_path)


@pytest.mark.parametrize("schema", [2, None, "3"])
def test_another_schema_is_refused(schema: Any, tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    with pytest.raises(PotstillError, match=r"has schema .*, wanted 3; run its scenario again"):
        read_result("demo", folder=tmp_path)


def test_the_file_of_another_scenario_is_refused(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / "quality.json")
    with pytest.raises(PotstillError, match="has scenario 'demo', wanted 'quality'"):
        read_result("quality", folder=tmp_path)


SOURCE = """'''A module.'''
import os  # why

def answer():
    '''Say it.

    In two lines.
    '''
    return 42
"""


def test_code_that_decides_a_result_is_told_apart_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    file = tmp_path / "room" / "file.py"
    file.parent.mkdir()

    def digest(source: str) -> str:
        digest_of_code.cache_clear()
        file.write_text(source)
        return digest_of_code("room")

    first = digest(SOURCE)
    assert digest(SOURCE.replace("Say it", "Give it").replace("# why", "# because").replace("\n\n", "\n\n\n")) == first
    assert digest(SOURCE.replace("42", "43")) != first
    assert digest(SOURCE.replace("    return", "return")) != first
    kept = {"code": {"room": digest(SOURCE), "gone.py": "0"}}
    assert changed_code(kept, ["room"]) == []
    assert changed_code(kept, ["room", "gone.py", "elsewhere.py"]) == ["gone.py", "elsewhere.py"]
    digest(SOURCE.replace("42", "43"))
    assert changed_code(kept, ["room"]) == ["room"]
    digest_of_code.cache_clear()
