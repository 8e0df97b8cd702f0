"""What the rows of the `serving` scenario come to: figures, a table, and a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.scenario import Columns, Result, table_of
from benchmarks.peers.servers import OURS

BUSY_SHARE = 0.9
"""Of a processor; a generator in an open loop that takes more is late itself."""


def serving_figures(result: Result) -> dict[str, float]:
    """Return the figures of the phases that were run."""
    rows = result["rows"]
    ratios = [row["requests_ratio"] for row in rows if row["kind"] == "server" and "skipped" not in row and row["name"] != OURS]
    figures: dict[str, float] = {}
    if ratios:
        figures["requests_ratio_best_peer"] = min(ratios)
    tails = [_tail_ms(row) if _kept_up(row) else None for row in rows if row["kind"] == "half_load"]
    if tails and None not in tails:
        figures["p99_ms_half_load"] = max(tail for tail in tails if tail is not None)
    by_kind = {row["kind"]: row for row in rows if row["kind"] != "server" and _kept_up(row)}
    if "overload" in by_kind:
        figures["overload_5xx"] = by_kind["overload"]["server_errors"]
        if by_kind["overload"]["rejected"]["p99_ms"] is not None:
            figures["rejection_p99_ms"] = by_kind["overload"]["rejected"]["p99_ms"]
    if "reload" in by_kind:
        figures["lost_in_reload"] = sum(by_kind["reload"][name] for name in ("lost", "errors", "wrong"))
    if "soak" in by_kind:
        figures["soak_growth"] = by_kind["soak"]["memory_growth"]
        if "lost_in_reload" in figures and by_kind["soak"].get("reloads"):
            figures["lost_in_reload"] += by_kind["soak"]["errors"]
    return figures


def serving_table(result: Result) -> str:
    """Return the table of servers, a line each, and what the other phases say in words."""
    servers = [row for row in result["rows"] if row["kind"] == "server"]
    return f"{table_of(servers, COLUMNS)}\n\n{serving_words(result['rows'])}"


def _spelled(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


COLUMNS: Columns = (
    ("server", lambda row: row["name"]),
    ("requests/s", lambda row: f"{row['requests_per_second']:,.0f}"),
    ("ours faster", lambda row: f"{row['requests_ratio']:.2f}x"),
    ("least - most", lambda row: " - ".join(f"{ratio:.2f}" for ratio in row["requests_ratio_range"])),
    ("p50 ms", lambda row: f"{row['latency']['p50_ms']:.1f}"),
    ("p99 ms", lambda row: _spelled(row["latency"]["p99_ms"])),
    ("open p99 ms", lambda row: _spelled(row.get("open_latency", {}).get("p99_ms"))),
    ("macro-F1", lambda row: f"{row['macro_f1']:.4f}"),
    ("memory MB", lambda row: f"{row['memory_bytes'] / 1e6:.0f}"),
    ("note", lambda row: ", ".join(f"{name} {value}" for name, value in row["settings"].items()) or "defaults"),
)


def serving_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the rows say besides the table; a phase that was not run is not spoken of."""
    return " ".join(words(row) for kind, words in _WORDS.items() for row in rows if row["kind"] == kind)


def _half_load(row: Mapping[str, Any]) -> str:
    latency = row["latency"]
    return (
        f"At {row.get('load', 'half of the saturating load')}, open loop ({row['rate']:,.0f} requests a second): "
        f"p50 {_ms(latency['p50_ms'])}, p99 {_ms(_tail_ms(row))}{_of_rounds(row)}{_of_generator(row)}."
    )


def _tail_ms(row: Mapping[str, Any]) -> float | None:
    """Return p99: the median of those of the rounds, or of earlier results that of all rounds together."""
    tail: float | None = row["p99_ms"] if "p99_ms" in row else row["latency"]["p99_ms"]
    return tail


def _of_rounds(row: Mapping[str, Any]) -> str:
    """Return how far the rounds were apart, where each had samples enough: what a machine's bad moments do to a tail."""
    p99s = [latency["p99_ms"] for latency in row.get("latency_rounds", ())]
    return f", {min(p99s):.1f} to {max(p99s):.1f} by round" if p99s and None not in p99s else ""


def _overload(row: Mapping[str, Any]) -> str:
    seen = row["statuses"]
    return (
        f"At twice the saturating load for {row['seconds']:.0f} s: {seen.get('200', 0):,} answered, {row['accepted_late']} of "
        f"them past their {row['deadline_ms']} ms; {seen.get('429', 0):,} refused, p99 {_ms(row['rejected']['p99_ms'])}; "
        f"{row['server_errors']} server errors, {row['lost']} lost; memory {row['memory_growth']:+.1%}{_of_generator(row)}."
    )


def _reload(row: Mapping[str, Any]) -> str:
    return (
        f"{row['reloads']} reloads and SIGTERM under {row['requests']:,} requests: {row['lost']} lost, {row['errors']} failed, "
        f"{row['wrong']} wrong."
    )


def _soak(row: Mapping[str, Any]) -> str:
    reloads = f" with {row['reloads']} reloads" if row.get("reloads") else ""
    minutes, growth = row["seconds"] / 60, row["memory_growth"]
    return f"{minutes:.0f} minutes of mixed load{reloads}: {row['errors']} errors, memory {growth:+.1%}."


def _kept_up(row: Mapping[str, Any]) -> bool:
    """Whether the generator had processor time left; a load that it could not make says nothing of a server."""
    return float(row.get("generator", {}).get("processor_share", 0)) < BUSY_SHARE


def _of_generator(row: Mapping[str, Any]) -> str:
    late = row.get("generator", {}).get("late_p99_ms")
    if not _kept_up(row):
        return " (not valid: the load generator did not keep up)"
    return "" if late is None else f" (p99 of the generator's own lateness, which counts: {late:.1f} ms)"


def _ms(value: float | None) -> str:
    return "not known (too few samples)" if value is None else f"{value:.1f} ms"


_WORDS = {"half_load": _half_load, "overload": _overload, "reload": _reload, "soak": _soak}
