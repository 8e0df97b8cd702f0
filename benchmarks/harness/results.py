"""Result files: what a scenario measured, the figures drawn from it, and the pages made from both.

Figures are computed from rows here and nowhere typed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import PotstillError
from distill.storage import write_atomically

SCHEMA = 2
WITHOUT_DIGEST = 1
"""The schema before results carried their own digest; such files are still read."""

LONG = 100
PARTS = ("command", "environment", "rows", "figures")
FOLDER = Path(__file__).parents[1] / "results"


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
    content = json.loads(json.dumps(content, allow_nan=False))  # as it will be read, so that the digest is that of the file
    write_atomically(path, spelled({**content, "digest": digest_of(content)}))
    return path


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the digest of a result, its own digest left out: a file that was edited by hand has another."""
    told = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode()).hexdigest()


def spelled(content: Mapping[str, Any]) -> str:
    """Return a result as JSON: a row a line, the rest a part a line, so that a change shows as one."""
    lines = []
    for name, value in content.items():
        if name == "rows":
            rows = ",\n".join(f"  {json.dumps(row, allow_nan=False, separators=(',', ':'))}" for row in value)
            lines.append(f' "rows": [\n{rows}\n ]')
        else:
            long = isinstance(value, list) and len(value) > LONG
            indented = json.dumps(value, indent=None if long else 1, allow_nan=False).replace("\n", "\n ")
            lines.append(f" {json.dumps(name)}: {indented}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_result(scenario: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """Read a result file.

    Raises:
        PotstillError: There is none, it is not whole, it was edited, or it was written with another schema.
    """
    path = folder / f"{scenario}.json"
    if not path.exists():
        raise PotstillError(f"{path} is not there; run `python -m benchmarks {scenario}` to make it")
    content = read_result_file(path)
    if content["scenario"] != scenario:
        raise PotstillError(
            f"{path} has scenario {content['scenario']!r}, wanted {scenario!r}; run `python -m benchmarks {scenario}` again"
        )
    return content


def read_result_file(path: Path) -> dict[str, Any]:
    """Read a result file of any scenario.

    Raises:
        PotstillError: It cannot be read, is not whole, was edited, or was written with another schema.
    """
    again = "run its scenario again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise PotstillError(f"{path} cannot be read: {exc.strerror}; name a result file") from exc
    except ValueError as exc:
        raise PotstillError(f"{path} is not whole: {exc}; {again}") from exc
    if not isinstance(content, dict) or not {"schema", "scenario", *PARTS} <= content.keys():
        raise PotstillError(f"{path} is not whole: it needs schema, scenario, {', '.join(PARTS)}; {again}")
    if content["schema"] not in (WITHOUT_DIGEST, SCHEMA):
        raise PotstillError(f"{path} has schema {content['schema']!r}, wanted {SCHEMA}; {again}")
    if content["schema"] == SCHEMA and content.get("digest") != digest_of(content):
        raise PotstillError(f"{path} is not as the harness wrote it: its digest does not fit; {again}")
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
