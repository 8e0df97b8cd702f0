"""Single ops: each variant runs and agrees with the others of its part, and its time excludes the call around it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.scenarios import ops
from benchmarks.scenarios.ops import COPIES, Way, _seconds, _session, ops_figures, ops_table, run_ops, ways_of

TOKENS = 8


@pytest.mark.parametrize("way", ways_of(TOKENS), ids=lambda way: f"{way.part}: {way.name}")
def test_every_way_runs_and_its_copies_are_all_there(way: Way) -> None:
    outputs = _session(way, 1 + COPIES).run(None, way.given)
    assert len(outputs) == 1 + COPIES
    assert all(np.array_equal(each, outputs[0]) for each in outputs)
    assert outputs[0].size
    assert np.isfinite(outputs[0].astype(np.float64)).all()


def answers(part: str, **given: np.ndarray) -> list[np.ndarray]:
    """Return what each way of a part says, the first one given other inputs where they are named."""
    several = [way for way in ways_of(TOKENS) if way.part == part]
    inputs = [{**way.given, **(given if way is several[0] else {})} for way in several]
    return [_session(way, 1).run(None, fed)[0] for way, fed in zip(several, inputs, strict=True)]


def test_the_two_ways_of_a_norm_give_one_answer() -> None:
    two_ops, fused = answers("residual and norm")
    np.testing.assert_allclose(two_ops, fused, atol=1e-5)


def test_plain_attention_is_the_fused_one_whose_scale_is_in_the_query() -> None:
    query = next(way for way in ways_of(TOKENS) if way.name == "plain ops").given["q"]
    plain, fused = answers("attention of all heads", q=query / np.sqrt(np.float32(384 / 12)))  # 12 heads of 32
    np.testing.assert_allclose(plain, fused, atol=1e-4)


def test_bytes_by_unsigned_weights_are_those_by_signed_ones() -> None:
    products = {way.name: way for way in ways_of(TOKENS) if way.part.startswith("product")}
    signed, unsigned = (_session(products[name], 1).run(None, products[name].given)[0] for name in list(products)[:2])
    np.testing.assert_allclose(signed, unsigned, rtol=1e-5, atol=1e-3)


def erf(name: str) -> Way:
    given = {"x": np.zeros((2, 2), np.float32)}
    return Way("part", name, "out# = Erf (x)", given, {})


def test_the_time_of_an_op_excludes_the_call_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = erf("fast"), erf("slow")
    calls: list[str] = []

    def seconds(session: Any, given: Any, least_s: float) -> float:
        name, per_op_us = ("slow", 6.0) if given is slow.given else ("fast", 3.0)
        calls.append(name)
        disturbed_us = 900.0 if len(calls) == 8 else 0.0  # one of five rounds
        return (50.0 + per_op_us * len(session.get_outputs()) + disturbed_us) / 1e6  # the call takes 50 us

    monkeypatch.setattr(ops, "_seconds", seconds)
    rows = run_ops([slow, fast], tokens=64, rounds=5, call_s=0.01)
    assert [row["us"] for row in rows] == [pytest.approx(6.0), pytest.approx(3.0)]
    assert calls[:8:2] == ["slow", "fast", "fast", "slow"]  # in turns, in both orders
    result = {"rows": rows, "environment": {"versions": {"onnxruntime": "1"}}}
    assert ops_figures(result) == {"part_slow_64_us": rows[0]["us"], "part_fast_64_us": rows[1]["us"]}
    assert "| part | 64 | fast 3, slow 6 |" in ops_table(result)  # the fastest first


def test_seconds_are_the_median_of_the_runs_after_a_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    durations: Iterator[float] = iter([9.0, 1.0, 2.0, 30.0, 100.0])

    class Session:
        def run(self, names: None, given: Any) -> None:
            nonlocal now
            now += next(durations)

    monkeypatch.setattr(ops, "time", SimpleNamespace(perf_counter=lambda: now))
    assert _seconds(Session(), {}, 20.0) == 2.0  # of 1, 2 and 30; 9 was the warmup
    assert next(durations) == 100.0  # 33 s are enough
