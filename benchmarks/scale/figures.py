"""What the rows of the `scale` scenario say: its figures, the capacity computed from them, and the page.

Measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.scenario import Columns, Result, Row, table_of

NODES = (1, 10, 100, 1000)


def rates_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return how many rows a second each way labelled, by name."""
    return {row["name"]: row.get("rows_per_second") or row["texts_per_second"] for row in rows if row["kind"] == "rate"}


def scale_figures(result: Result) -> dict[str, float]:
    """Return the figures that the design names."""
    rows, rates = result["rows"], rates_of(result["rows"])
    return {
        "stream_share": rates["threads"] / rates["runtime"],
        "peak_rss_bytes": next(row["peak_rss_bytes"] for row in rows if row.get("name") == "threads"),
        "ray_share": rates["ray"] / rates["threads"],
        "ray_two_nodes_efficiency": rates["2 nodes"] / (2 * rates["1 node"]),
        "kills_lossless": sum(row["lossless"] for row in rows if row["kind"] == "kill"),
        "ratio_pipeline": rates["threads"] / rates["pipeline"],
        "ratio_plain_ort": rates["threads"] / rates["plain_ort"],
    }


def capacity_rows(rows: Sequence[Row], *, cores: int = 16, price_per_hour: float = 0.60) -> list[dict[str, Any]]:
    """Return what 1 to 1,000 machines would do: simulated, by the measured rate of a core and Ray's measured share.

    The model: rate = machines x cores x rate of a core x share. It knows of no limit of storage or network, and takes the
    processors to be like this one.

    Args:
        rows: Of the measured rates.
        cores: Processors of a machine.
        price_per_hour: Of a machine.
    """
    rates = rates_of(rows)
    core = rates["threads"] / next(row["threads"] for row in rows if row.get("name") == "threads")
    share = min(1.0, rates["ray"] / rates["threads"])
    simulated = {nodes: nodes * cores * core * (1.0 if nodes == 1 else share) for nodes in NODES}
    return [
        {
            "kind": "capacity",
            "name": f"{nodes} machines",
            "simulated": True,
            "machines": nodes,
            "cores": cores,
            "price_per_hour": price_per_hour,
            "rows_per_second": rate,
            "billion_rows_hours": 1e9 / rate / 3600,
            "cost_per_million": nodes * price_per_hour / 3600 / rate * 1e6,
        }
        for nodes, rate in simulated.items()
    ]


def scale_markdown(result: Result) -> str:
    """Return what a page shows of a result: what was measured, then the computed capacity."""
    by_kind = {kind: [row for row in result["rows"] if row["kind"] == kind] for kind in ("rate", "capacity", "kill", "check")}
    kills = by_kind["kill"]
    words = [
        f"{sum(row['lossless'] for row in kills)} of {len(kills)} killed runs ended with the digest of an uninterrupted run.",
        *(f"{row['name'].capitalize()}: {'yes' if row['holds'] else 'no'}." for row in by_kind["check"]),
        _engine_words(by_kind["rate"]),
    ]
    return "\n\n".join([table_of(by_kind["rate"], MEASURED), table_of(by_kind["capacity"], COMPUTED), " ".join(words)])


MEASURED: Columns = (
    ("measured", lambda row: row["name"].replace("_", " ")),
    ("rows/s", lambda row: f"{rates_of([row])[row['name']]:,.0f}"),
    ("rows", lambda row: f"{row.get('num_rows', 20_000):,}"),
    ("peak MB", lambda row: f"{row['peak_rss_bytes'] / 1e6:.0f}" if "peak_rss_bytes" in row else ""),
)
COMPUTED: Columns = (
    (
        "computed, not measured",
        lambda row: f"{row['name']} of {row['cores']} processors at {row['price_per_hour']:.2f} an hour",
    ),
    ("rows/s", lambda row: f"{row['rows_per_second']:,.0f}"),
    ("hours for a billion", lambda row: f"{row['billion_rows_hours']:,.1f}"),
    ("cost of a million", lambda row: f"{row['cost_per_million']:.4f}"),
)


def _engine_words(measured: Sequence[Row]) -> str:
    """Return what Ray costs: of a million rows in time, and what its own processes took of the processors."""
    rates = rates_of(measured)
    overhead = 1e6 / rates["ray"] - 1e6 / rates["threads"]
    shares = ", ".join(
        f"{row['engine_processor_seconds'] / row['seconds'] / row['threads']:.1%} ({row['name']})"
        for row in measured
        if "engine_processor_seconds" in row
    )
    return f"Ray takes {overhead:.0f} s longer for a million rows; its own processes used {shares} of both processors."
