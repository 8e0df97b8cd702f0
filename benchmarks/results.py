"""Result files: what a scenario measured, the figures drawn from it, and the pages made from both.

Figures are computed from rows here and nowhere typed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import PotstillError
from distill.storage import write_atomically

SCHEMA = 1
PARTS = ("command", "environment", "rows", "figures")
FOLDER = Path(__file__).parent / "results"


def write_result(
    scenario: str,
    *,
    command: str,
    environment: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    folder: Path = FOLDER,
    **more: Any,
) -> Path:
    """Write `<scenario>.json` and return its path; `more` are further parts that the scenario wants to keep."""
    path = folder / f"{scenario}.json"
    content = {
        "schema": SCHEMA,
        "scenario": scenario,
        "command": command,
        "environment": environment,
        "rows": rows,
        "figures": figures,
        **more,
    }
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def read_result(scenario: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """Read a result file.

    Raises:
        PotstillError: There is none, it is not whole, or it was written with another schema.
    """
    path = folder / f"{scenario}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise PotstillError(f"{path} is not there; run `python -m benchmarks {scenario}` to make it") from exc
    except ValueError as exc:
        raise PotstillError(f"{path} is not whole: {exc}; run `python -m benchmarks {scenario}` again") from exc
    again = f"run `python -m benchmarks {scenario}` again"
    if not isinstance(content, dict) or not {"schema", "scenario", *PARTS} <= content.keys():
        raise PotstillError(f"{path} is not whole: it needs schema, scenario, {', '.join(PARTS)}; {again}")
    if content["schema"] != SCHEMA or content["scenario"] != scenario:
        raise PotstillError(
            f"{path} has schema {content['schema']!r} and scenario {content['scenario']!r}, "
            f"wanted {SCHEMA} and {scenario!r}; {again}"
        )
    return content


def demo_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the demo's figures from its rows.

    Raises:
        PotstillError: A row is missing.
    """
    found = {(row["name"], row["precision"]): row for row in rows}
    for name, precision in (("teacher", "fp32"), ("student", "fp32"), ("student", "int8")):
        if (name, precision) not in found:
            raise PotstillError(f"the demo's rows have no {name} in {precision}; run `python -m benchmarks demo` again")
    teacher, fp32, int8 = found["teacher", "fp32"], found["student", "fp32"], found["student", "int8"]
    return {
        "teacher_macro_f1": teacher["macro_f1"],
        "student_int8_retention": int8["macro_f1"] / teacher["macro_f1"],
        "int8_drop": fp32["macro_f1"] - int8["macro_f1"],
        "p50_ratio_teacher": int8["p50_ratio_teacher"],
        "size_ratio_teacher": teacher["size_bytes"] / int8["size_bytes"],
    }
