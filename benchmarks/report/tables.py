"""Rows of the speed scenarios as people read them: cells, Markdown, and the words that come before any figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ABSENT = "-"
Row = Mapping[str, Any]

_QUALITY = ("row", "macro-F1", "95 % interval", "kept", "agrees", "ECE")
_SPEED = {
    "single-stream": ("p50 ms", "95 % interval ", "p90 ms", "p99 ms", "faster", "95 % interval  "),
    "offline": ("texts/s", "95 % interval ", "faster", "95 % interval  "),
    "cold-start": ("first answer s", "95 % interval "),
    "server": ("requests/s",),
    "memory": ("ready MB", "after all texts MB", "peak MB"),
}
_MORE = ("ships MB", "note")
_SHORT = ("agrees", "95 % interval ", "95 % interval  ", "p90 ms")
"""What a terminal has no room for."""


def terminal_table(scenario: str, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return column heads and cells that fit a terminal; rows that failed are not among them."""
    heads = heads_of(scenario)
    shown = [place for place, head in enumerate(heads) if head not in _SHORT]
    every = [cells_of(scenario, row) for row in rows if "failed" not in row]
    return [heads[place].strip() for place in shown], [[cells[place] for place in shown] for cells in every]


def cells_of(scenario: str, row: Row) -> list[str]:
    """Return the cells of a row; one that failed has its name and the reason."""
    heads = heads_of(scenario)
    if "failed" in row:
        return [row["name"], *[""] * (len(heads) - 2), f"left out: {row['failed']}"]
    idle = row["settings"].get("floor") == "majority"  # what does no work has no speed worth reading
    timed = {*_SPEED[scenario]} if idle else set()
    return [ABSENT if head in timed else _CELLS[head](scenario, row) for head in heads]


def heads_of(scenario: str) -> tuple[str, ...]:
    """Return the column heads of a scenario, each once; heads that read alike differ in white space."""
    return (*_QUALITY, *_SPEED[scenario], *_MORE)


def markdown_of(scenario: str, rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, those that failed with the reason."""
    shown = [place for place, head in enumerate(heads_of(scenario)) if head not in _SHORT]
    reference = next((row["reference"] for row in rows if row.get("reference")), None)
    heads = [heads_of(scenario)[place].strip() for place in shown]
    named = [f"faster than {reference}" if head == "faster" and reference else head for head in heads]
    lines = ["| " + " | ".join(named) + " |", "|---" + "|--:" * (len(named) - 2) + "|---|"]
    for row in rows:
        cells = cells_of(scenario, row)
        lines.append("| " + " | ".join(_escaped(cells[place]) for place in shown) + " |")
    return "\n".join(lines)


def first_words(rows: Sequence[Row]) -> list[str]:
    """Return what must be said before any figure: rows that are unsteady, a busy machine, rows that failed."""
    marked = [(row["name"], mark) for row in rows for mark in row.get("marks", ())]
    by_mark: dict[str, list[str]] = {}
    for name, mark in marked:
        by_mark.setdefault(mark.partition(":")[0], []).append(name)
    lines = [f"Read with care, {kind}: {', '.join(names)}." for kind, names in by_mark.items()]
    return lines + [f"Left out, {row['name']}: {row['failed']}." for row in rows if "failed" in row]


def _interval(name: str, pattern: str) -> Callable[[str, Row], str]:
    return lambda _, row: ABSENT if row.get(name) is None else f"{row[name]['low']:{pattern}} - {row[name]['high']:{pattern}}"


def _value(name: str, pattern: str, *, unit: float = 1, after: str = "") -> Callable[[str, Row], str]:
    def spelled(_: str, row: Row) -> str:
        found = row.get(name)
        value = found["value"] if isinstance(found, Mapping) else found
        return ABSENT if value is None else f"{value / unit:{pattern}}{after}"

    return spelled


def _spread(scenario: str, row: Row) -> str:
    name = {"single-stream": "p50_ms", "offline": "texts_per_second", "cold-start": "cold_start_s"}[scenario]
    pattern = {"single-stream": ".3f", "offline": ",.0f", "cold-start": ".3f"}[scenario]
    return _interval(name, pattern)(scenario, row)


def _faster(scenario: str) -> str:
    return "p50_ratio" if scenario == "single-stream" else "rate_ratio"


_CELLS: dict[str, Callable[[str, Row], str]] = {
    "row": lambda _, row: row["name"],
    "macro-F1": _value("macro_f1", ".4f"),
    "95 % interval": lambda _, row: "{:.3f} - {:.3f}".format(*row["macro_f1_interval"]),
    "kept": _value("retention", ".1%"),
    "agrees": _value("agreement", ".1%"),
    "ECE": _value("expected_calibration_error", ".3f"),
    "p50 ms": _value("p50_ms", ".3f"),
    "p90 ms": _value("p90_ms", ".3f"),
    "p99 ms": _value("p99_ms", ".3f"),
    "texts/s": _value("texts_per_second", ",.0f"),
    "first answer s": _value("cold_start_s", ".2f"),
    "requests/s": _value("requests_per_second", ",.0f"),
    "ready MB": _value("ready_rss_bytes", ",.0f", unit=1e6),
    "after all texts MB": _value("used_rss_bytes", ",.0f", unit=1e6),
    "peak MB": _value("peak_rss_bytes", ",.0f", unit=1e6),
    "95 % interval ": _spread,
    "faster": lambda scenario, row: _value(_faster(scenario), ".2f", after="x")(scenario, row),
    "95 % interval  ": lambda scenario, row: _interval(_faster(scenario), ".2f")(scenario, row),
    "ships MB": _value("size_bytes", ".1f", unit=1e6),
    "note": lambda _, row: "; ".join(mark.partition(":")[0] for mark in row.get("marks", ())),
}


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return cells as a Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    lines.insert(1, "|---" + "|--:" * (len(columns) - 1) + "|")
    return "\n".join(lines)
