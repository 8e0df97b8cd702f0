"""What the rows of the `scale` scenario say: its figures, the capacity computed from them, and the page.

Measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.scenario import Columns, Result, table_of

NODES = (1, 10, 100, 1000)


def scale_figures(result: Result) -> dict[str, float]:
    """Return the figures that the design names."""
    rows = result["rows"]
    by_name = {row["name"]: row for row in rows if row["kind"] != "kill"}
    threads, ray = by_name["threads"], by_name["ray"]
    one, two = by_name["1 node"], by_name["2 nodes"]
    return {
        "stream_share": threads["rows_per_second"] / by_name["runtime"]["texts_per_second"],
        "peak_rss_bytes": threads["peak_rss_bytes"],
        "ray_share": ray["rows_per_second"] / threads["rows_per_second"],
        "ray_two_nodes_efficiency": two["rows_per_second"] / (2 * one["rows_per_second"]),
        "kills_lossless": sum(row["lossless"] for row in rows if row["kind"] == "kill"),
        "ratio_pipeline": threads["rows_per_second"] / by_name["pipeline"]["rows_per_second"],
        "ratio_plain_ort": threads["rows_per_second"] / by_name["plain_ort"]["rows_per_second"],
    }


def capacity_rows(rows: Sequence[Mapping[str, Any]], *, cores: int, price_per_hour: float) -> list[dict[str, Any]]:
    """Return what 1 to 1,000 machines would do: simulated, by the measured rate of a core and Ray's measured share.

    The model: rate = machines x cores x rate of a core x share. It knows of no limit of storage or network, and takes the
    processors to be like this one.
    """
    by_name = {row["name"]: row for row in rows if row["kind"] != "kill"}
    core = by_name["threads"]["rows_per_second"] / by_name["threads"]["threads"]
    share = by_name["ray"]["rows_per_second"] / by_name["threads"]["rows_per_second"]
    found = []
    for nodes in NODES:
        rate = nodes * cores * core * (1.0 if nodes == 1 else min(1.0, share))
        found.append(
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
        )
    return found


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
    ("rows/s", lambda row: f"{row.get('rows_per_second') or row['texts_per_second']:,.0f}"),
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


def _engine_words(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return what Ray costs: of a million rows in time, and what its own processes took of the processors."""
    by_name = {row["name"]: row for row in measured}
    overhead = 1e6 / by_name["ray"]["rows_per_second"] - 1e6 / by_name["threads"]["rows_per_second"]
    engines = [by_name[name] for name in ("1 node", "2 nodes")]
    shares = (f"{row['engine_processor_seconds'] / row['seconds'] / row['threads']:.1%} ({row['name']})" for row in engines)
    said = f"Ray takes {overhead:.0f} s longer for a million rows"
    return f"{said}; its own processes used {', '.join(shares)} of both processors."
