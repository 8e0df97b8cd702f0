"""Figures of the serving scenario, computed by hand from small rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.servers import SERVERS
from benchmarks.scenarios.serving import marked, table
from benchmarks.serving.comparing import labels_of
from benchmarks.serving.figures import serving_figures, serving_words
from benchmarks.serving.load import Samples
from benchmarks.serving.ours import growth, mixed_requests
from benchmarks.serving.plan import DatedPieces
from distill.errors import PotstillError
from export.measure.circumstances import Session


def server(name: str, rate: float, ratio: float) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "server", "name": name, "requests_per_second": rate, "requests_ratio": ratio}
    row |= {"requests_ratio_range": [ratio - 0.1, ratio + 0.1], "latency": {"p50_ms": 9.0, "p99_ms": 20.0}}
    row["open_latency"] = {"p99_ms": 12.0}
    return row | {"macro_f1": 0.84, "memory_bytes": 200_000_000, "settings": {}}


ROWS: list[dict[str, Any]] = [
    {"kind": "generator", "us_per_request": 12.0},
    server("potstill", 3000.0, 1.0),
    server("litserve", 1000.0, 3.0),
    server("mlserver", 1200.0, 2.5),
    {"kind": "server", "name": "infinity", "skipped": "it will not install"},
    {"kind": "half_load", "p99_ms": 4.5},
    {"kind": "overload", "server_errors": 0, "rejected": {"p99_ms": 8.0}},
    {"kind": "reload", "lost": 1, "errors": 2, "wrong": 4},
    {"kind": "soak", "memory_growth": 0.01, "reloads": 0, "errors": 3},
]


def test_figures_follow_from_the_rows() -> None:
    assert serving_figures({"rows": ROWS}) == {
        "requests_ratio_best_peer": 2.5,  # the peer that comes nearest
        "p99_ms_half_load": 4.5,
        "overload_5xx": 0,
        "rejection_p99_ms": 8.0,
        "lost_in_reload": 7,  # lost, failed or wrong
        "soak_growth": 0.01,
    }


HALF: dict[str, Any] = {
    "kind": "half_load",
    "load": "half of the saturating load",
    "rate": 1200.0,
    "p99_ms": 5.0,
    "latency": {"p50_ms": 2.0},
    "latency_rounds": [{"p99_ms": None}],
    "generator": {"processor_share": 0.2, "late_p99_ms": 0.43},
}


def test_the_tail_is_the_larger_of_two_loads_each_the_median_of_its_rounds() -> None:
    half = {**HALF, "rate": 900.0, "p99_ms": 7.0}
    fixed = {**half, "load": "a fixed load", "rate": 1160.0, "p99_ms": 8.0}
    assert serving_figures({"rows": [half, fixed]}) == {"p99_ms_half_load": 8.0}
    assert serving_figures({"rows": [half, {**fixed, "p99_ms": None}]}) == {}
    assert serving_figures({"rows": [half, {**fixed, "generator": {"processor_share": 0.95}}]}) == {}
    words = serving_words([half, fixed])
    assert "At half of the saturating load, open loop (900 requests a second): p50 2.0 ms, p99 7.0 ms (" in words
    assert "At a fixed load, open loop (1,160 requests a second): p50 2.0 ms, p99 8.0 ms (" in words


def test_what_a_soak_loses_in_its_reloads_counts() -> None:
    soak = {"kind": "soak", "seconds": 1800.0, "reloads": 29, "errors": 2, "memory_growth": 0.01}
    reload = {"kind": "reload", "lost": 1, "errors": 0, "wrong": 0}
    assert serving_figures({"rows": [reload, soak]})["lost_in_reload"] == 3
    assert serving_words([soak]) == "30 minutes of mixed load with 29 reloads: 2 errors, memory +1.0%."


def test_what_was_not_measured_has_no_figure() -> None:
    assert serving_figures({"rows": ROWS[:2]}) == {}
    overload = {"kind": "overload", "server_errors": 3, "rejected": {"p99_ms": None}}
    assert serving_figures({"rows": [{**HALF, "p99_ms": None}, overload]}) == {"overload_5xx": 3}


def test_a_load_that_the_generator_could_not_make_has_no_figure_and_says_so() -> None:
    busy = {**HALF, "generator": {"processor_share": 0.95, "late_p99_ms": 80.0}}
    assert serving_figures({"rows": [HALF]}) == {"p99_ms_half_load": 5.0}
    assert serving_words([HALF]).endswith("p99 5.0 ms (p99 of the generator's own lateness, which counts: 0.4 ms).")
    assert serving_figures({"rows": [busy]}) == {}
    assert serving_words([busy]).endswith("p99 5.0 ms (not valid: the load generator did not keep up).")


def test_a_tail_is_shown_with_its_rounds() -> None:
    rounds = [{"p99_ms": 7.2}, {"p99_ms": 4.1}, {"p99_ms": 5.0}]
    assert "p99 5.0 ms, 4.1 to 7.2 by round (" in serving_words([{**HALF, "latency_rounds": rounds}])
    assert "p99 5.0 ms (" in serving_words([{**HALF, "latency_rounds": [*rounds, {"p99_ms": None}]}])


def test_an_overload_and_the_reloads_are_told_in_words() -> None:
    overload = {"kind": "overload", "seconds": 60.0, "statuses": {"200": 94399, "429": 230724}, "accepted_late": 38}
    overload |= {"deadline_ms": 150, "rejected": {"p99_ms": 21.69}, "server_errors": 21, "lost": 0, "memory_growth": 0.002}
    reload = {"kind": "reload", "reloads": 10, "requests": 13875, "lost": 0, "errors": 1, "wrong": 2}
    assert serving_words([{**overload, "generator": HALF["generator"]}, reload]) == (
        "At twice the saturating load for 60 s: 94,399 answered, 38 of them past their 150 ms; 230,724 refused, p99 21.7 ms; "
        "21 server errors, 0 lost; memory +0.2% (p99 of the generator's own lateness, which counts: 0.4 ms). "
        "10 reloads and SIGTERM under 13,875 requests: 0 lost, 1 failed, 2 wrong."
    )


def test_the_table_has_quality_beside_speed_and_says_why_a_peer_is_missing() -> None:
    lines = table({"rows": [row for row in ROWS if row["kind"] == "server"]}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:6]]
    assert [row[0] for row in cells[2:]] == ["potstill", "litserve", "mlserver", "infinity"]
    litserve = dict(zip(cells[0], cells[3], strict=True))
    assert (litserve["macro-F1"], litserve["ours faster"]) == ("0.8400", "3.00x")
    assert cells[5][-1] == "skipped: it will not install"


def test_a_tail_in_the_table_has_its_interval_and_what_is_to_be_read_with_care_is_marked() -> None:
    wide = {**server("potstill", 3000.0, 1.0), "open_latency": {"p99_ms": 571.2, "p99_low_ms": 13.0, "p99_high_ms": 684.3}}
    rates = {"requests_per_second_rounds": [900.0, 1000.0, 1600.0]}
    session = Session(100.0, 0.1, others_processors=0.0, stolen_share=0.12)
    rows = marked({"rows": [wide, {**server("litserve", 1000.0, 3.0), **rates}, ROWS[4]]}, session)["rows"]
    half = marked(HALF, Session(1.0, 0.1, others_processors=0.5, stolen_share=None))
    *lines, _, words = table({"rows": [*rows, half]}).splitlines()
    assert "| 571.2 (13.0-684.3) |" in lines[2]
    assert lines[2].endswith("| defaults; stolen time |")
    assert lines[3].endswith("| defaults; unsteady; stolen time |")
    assert rows[0]["session"]["stolen_share"] == 0.12
    assert words.startswith(
        "Read with care, stolen time: potstill, litserve. Read with care, unsteady: litserve. Read with care, busy machine: "
        "half load. At half of the saturating load"
    )


def test_words_speak_of_what_was_run() -> None:
    soak = {"kind": "soak", "seconds": 1800.0, "reloads": 29, "errors": 0, "memory_growth": 0.0123}
    assert serving_words([soak, {**HALF, "p99_ms": None}]) == (
        "At half of the saturating load, open loop (1,200 requests a second): p50 2.0 ms, p99 not known (too few samples) "
        "(p99 of the generator's own lateness, which counts: 0.4 ms). "
        "30 minutes of mixed load with 29 reloads: 0 errors, memory +1.2%."
    )


def test_growth_compares_the_end_with_the_time_after_the_warm_up() -> None:
    # Twelve values, sixths of two: the first sixth does not count, 100 is what the last is held against.
    assert growth([10, 50, 100, 100, 200, 200, 200, 200, 150, 150, 104, 106]) == pytest.approx(0.05)
    with pytest.raises(PotstillError, match="too few"):
        growth([1, 2])


def test_a_finished_piece_is_not_measured_again(tmp_path: Path) -> None:
    pieces, made = DatedPieces(tmp_path / "work"), []

    def measure() -> dict[str, Any]:
        made.append(1)
        return {"kind": "soak", "memory_growth": 0.02}

    assert [pieces.get("soak", measure)["memory_growth"] for _ in range(2)] == [0.02, 0.02]
    assert made == [1]
    assert DatedPieces(tmp_path / "work").find("soak") == pieces.find("soak")


def samples(statuses: Sequence[int], bodies: Sequence[bytes]) -> Samples:
    count = len(statuses)
    return Samples(
        due_s=np.zeros(count),
        sent_s=np.zeros(count),
        free_s=np.zeros(count),
        ended_s=np.ones(count),
        status=np.array(statuses, dtype=np.int32),
        answer=np.arange(count),
        bodies=tuple(bodies),
        wall_s=1.0,
        cpu_s=0.0,
    )


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("potstill", b'[{"label":"bad","score":0.2},{"label":"good","score":0.8}]'),
        ("infinity", b'{"object":"classify","data":[[{"label":"good","score":0.8},{"label":"bad","score":0.2}]]}'),
        ("litserve", b'{"label":"good","score":0.8}'),
        ("mlserver", b'{"outputs":[{"name":"label","data":["good"]},{"name":"score","data":[0.8]}]}'),
    ],
)
def test_each_servers_label_is_read_and_a_broken_answer_has_none(name: str, body: bytes) -> None:
    found = labels_of(SERVERS[name], samples([200, 429, 200, 200], [body, body, b"<html>", b""]))
    assert found == ["good", None, None, None]


def test_mixed_load_speaks_every_protocol_and_goes_past_the_longest_text() -> None:
    requests = mixed_requests(["a fine film", "a dull one"], name="student")
    paths = {request.split(b" ")[1] for request in requests}
    assert paths == {b"/predict", b"/", b"/v2/models/student/infer"}
    assert max(map(len, requests)) > 400
    assert requests == mixed_requests(["a fine film", "a dull one"], name="student")
