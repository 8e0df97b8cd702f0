"""Result files: what a scenario measured, under what circumstances, and by which code."""

from __future__ import annotations

import hashlib
import io
import json
import tokenize
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from distill.errors import PotstillError
from distill.storage import write_atomically
from export.measure.workers import ROOT

SCHEMA = 3
LONG = 100
PARTS = ("command", "measured_on", "environment", "rows", "figures")
FOLDER = ROOT / "benchmarks" / "results"


def write_result(
    scenario: str,
    *,
    command: str,
    environment: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    folder: Path = FOLDER,
    decided_by: Sequence[str] = (),
    **more: Any,
) -> Path:
    """Write `<scenario>.json` and return its path.

    Args:
        scenario: Its name.
        command: That makes it.
        environment: Machine, versions, commit.
        rows: What was measured.
        figures: Computed from them.
        folder: Where the file goes.
        decided_by: Files and folders whose code decides the rows; the digest of each is kept.
        more: Further parts that the scenario wants to keep.
    """
    return rewrite_result(
        {
            "schema": SCHEMA,
            "scenario": scenario,
            "command": command,
            "measured_on": datetime.now(UTC).date().isoformat(),
            "environment": environment,
            "rows": rows,
            "figures": figures,
            **more,
            "code": {each: digest_of_code(each) for each in decided_by},
        },
        folder=folder,
    )


def rewrite_result(content: Mapping[str, Any], *, folder: Path = FOLDER) -> Path:
    """Write the content of a result file, with its digest, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['scenario']}.json"
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
        raise PotstillError(
            f"{path} cannot be read: {exc.strerror}; run `python -m benchmarks {path.stem}` to make it, or name a result file"
        ) from exc
    except ValueError as exc:
        raise PotstillError(f"{path} is not whole: {exc}; {again}") from exc
    if not isinstance(content, dict) or not {"schema", "scenario", *PARTS} <= content.keys():
        raise PotstillError(f"{path} is not whole: it needs schema, scenario, {', '.join(PARTS)}; {again}")
    if content["schema"] != SCHEMA:
        raise PotstillError(f"{path} has schema {content['schema']!r}, wanted {SCHEMA}; {again}")
    if content.get("digest") != digest_of(content):
        raise PotstillError(f"{path} is not as the harness wrote it: its digest does not fit; {again}")
    return content


def changed_code(result: Mapping[str, Any], decided_by: Sequence[str]) -> list[str]:
    """Return which files and folders, of those that decide a result, have other code now than when it was measured.

    Their digests are in the result, so this needs no history and works in a shallow clone. Comments and docstrings do not
    count.
    """
    return [each for each in decided_by if result.get("code", {}).get(each) != digest_of_code(each)]


@cache
def digest_of_code(path: str) -> str:
    """Return a digest of the Python code in a file or folder of the repository, "" if it is not there."""
    place = ROOT / path
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    if not files:
        return ""
    code = "".join(f"{file.relative_to(ROOT)} {_bare(file.read_text(encoding='utf-8'))}\n" for file in files)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _bare(source: str) -> str:
    """Return code without comments, docstrings and empty lines."""
    lines, begins = source.splitlines(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_docstring = begins and token.type == tokenize.STRING  # a string that begins a statement
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            begins = token.type == tokenize.NEWLINE
        if is_docstring or token.type == tokenize.COMMENT:
            first, column = token.start
            lines[first - 1] = lines[first - 1][:column]
            lines[first : token.end[0]] = [""] * (token.end[0] - first)
    return "\n".join(line.rstrip() for line in lines if line.strip())
