"""What the rows of the `serving` scenario come to: figures, a table, and a few sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness.scenario import Columns, Result, table_of
from benchmarks.peers.servers import OURS

BUSY_SHARE = 0.9
"""Of a processor; a generator in an open loop that takes more is late itself."""


def serving_figures(result: Result) -> dict[str, float]:
    """Return the figures of the phases that were run."""
    rows = result["rows"]
    peers = [row for row in rows if row["kind"] == "server" and row["name"] != OURS and "skipped" not in row]
    tails: list[Any] = [row["p99_ms"] if _kept_up(row) else None for row in rows if row["kind"] == "half_load"]
    kept_up = {row["kind"]: row for row in rows if row["kind"] != "server" and _kept_up(row)}
    overload, reload, soak = (kept_up.get(kind) for kind in ("overload", "reload", "soak"))
    lost_in_soak = soak["errors"] if soak and soak["reloads"] else 0
    figures = {
        "requests_ratio_best_peer": min((row["requests_ratio"] for row in peers), default=None),
        "p99_ms_half_load": max(tails) if tails and None not in tails else None,
        "overload_5xx": overload and overload["server_errors"],
        "rejection_p99_ms": overload and overload["rejected"]["p99_ms"],
        "lost_in_reload": reload and reload["lost"] + reload["errors"] + reload["wrong"] + lost_in_soak,
        "soak_growth": soak and soak["memory_growth"],
    }
    return {name: value for name, value in figures.items() if value is not None}


def serving_table(result: Result) -> str:
    """Return the table of servers, a line each, and what the other phases say in words."""
    table = table_of([row for row in result["rows"] if row["kind"] == "server"], COLUMNS)
    return f"{table}\n\n{serving_words(result['rows'])}"


COLUMNS: Columns = (
    ("server", lambda row: row["name"]),
    ("requests/s", lambda row: f"{row['requests_per_second']:,.0f}"),
    ("ours faster", lambda row: f"{row['requests_ratio']:.2f}x"),
    ("least - most", lambda row: " - ".join(f"{ratio:.2f}" for ratio in row["requests_ratio_range"])),
    ("p50 ms", lambda row: f"{row['latency']['p50_ms']:.1f}"),
    ("p99 ms", lambda row: _cell(row["latency"]["p99_ms"])),
    ("open p99 ms", lambda row: _cell(row["open_latency"]["p99_ms"])),
    ("macro-F1", lambda row: f"{row['macro_f1']:.4f}"),
    ("memory MB", lambda row: f"{row['memory_bytes'] / 1e6:.0f}"),
    ("note", lambda row: ", ".join(f"{name} {value}" for name, value in row["settings"].items()) or "defaults"),
)


def serving_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the rows say besides the table; a phase that was not run is not spoken of."""
    return " ".join(words(row) for kind, words in _WORDS.items() for row in rows if row["kind"] == kind)


def _half_load(row: Mapping[str, Any]) -> str:
    p99s = [latency["p99_ms"] for latency in row["latency_rounds"]]
    # How far the rounds were apart: what a machine's bad moments do to a tail.
    rounds = "" if None in p99s else f", {min(p99s):.1f} to {max(p99s):.1f} by round"
    return (
        f"At {row['load']}, open loop ({row['rate']:,.0f} requests a second): "
        f"p50 {_ms(row['latency']['p50_ms'])}, p99 {_ms(row['p99_ms'])}{rounds}{_of_generator(row)}."
    )


def _kept_up(row: Mapping[str, Any]) -> bool:
    """Whether the generator had processor time left; a load that it could not make says nothing of a server."""
    return "generator" not in row or row["generator"]["processor_share"] < BUSY_SHARE


def _of_generator(row: Mapping[str, Any]) -> str:
    late = f"p99 of the generator's own lateness, which counts: {row['generator']['late_p99_ms']:.1f} ms"
    return f" ({late if _kept_up(row) else 'not valid: the load generator did not keep up'})"


def _ms(value: float | None) -> str:
    return "not known (too few samples)" if value is None else f"{value:.1f} ms"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "half_load": _half_load,
    "overload": lambda row: (
        f"At twice the saturating load for {row['seconds']:.0f} s: {row['statuses'].get('200', 0):,} answered, "
        f"{row['accepted_late']} of them past their {row['deadline_ms']} ms; {row['statuses'].get('429', 0):,} refused, "
        f"p99 {_ms(row['rejected']['p99_ms'])}; {row['server_errors']} server errors, {row['lost']} lost; "
        f"memory {row['memory_growth']:+.1%}{_of_generator(row)}."
    ),
    "reload": lambda row: (
        f"{row['reloads']} reloads and SIGTERM under {row['requests']:,} requests: {row['lost']} lost, {row['errors']} failed, "
        f"{row['wrong']} wrong."
    ),
    "soak": lambda row: (
        f"{row['seconds'] / 60:.0f} minutes of mixed load with {row['reloads']} reloads: {row['errors']} errors, memory "
        f"{row['memory_growth']:+.1%}."
    ),
}
"""What is said of a phase, in this order."""
