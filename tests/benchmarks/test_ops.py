"""Single ops: each variant runs and agrees with the others of its part, and its time excludes the call around it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.scenarios import ops
from benchmarks.scenarios.ops import COPIES, PARTS, PRODUCT, inputs, ops_figures, ops_table, run_ops, seconds_of, session_of

TOKENS = 8
GIVEN = inputs(TOKENS)


def answer(part: str, name: str, *, copies: int = 1, **given: np.ndarray) -> list[np.ndarray]:
    """Return what each copy of a way says; inputs that are named have other values."""
    session = session_of(PARTS[part][name], GIVEN, copies)
    fed = {**GIVEN, **given}
    outputs: list[np.ndarray] = session.run(None, {each.name: fed[each.name] for each in session.get_inputs()})
    return outputs


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, ways in PARTS.items() for name in ways])
def test_every_way_runs_and_its_copies_are_all_there(part: str, name: str) -> None:
    outputs = answer(part, name, copies=1 + COPIES)
    assert len(outputs) == 1 + COPIES
    assert all(np.array_equal(each, outputs[0]) for each in outputs)
    assert outputs[0].size
    assert np.isfinite(outputs[0].astype(np.float64)).all()


def test_the_two_ways_of_a_norm_give_one_answer() -> None:
    part = "residual and norm"
    (two_ops,), (fused,) = (answer(part, name) for name in PARTS[part])
    np.testing.assert_allclose(two_ops, fused, atol=1e-5)


def test_plain_attention_is_the_fused_one_whose_scale_is_in_the_query() -> None:
    part = "attention of all heads"
    (plain,) = answer(part, "plain ops", q=GIVEN["q"] / np.sqrt(np.float32(384 / 12)))  # 12 heads of 32
    (fused,) = answer(part, "`MultiHeadAttention`")
    np.testing.assert_allclose(plain, fused, atol=1e-4)


def test_bytes_by_unsigned_weights_are_those_by_signed_ones() -> None:
    (signed,), (unsigned,) = (answer(PRODUCT, name) for name in list(PARTS[PRODUCT])[:2])
    np.testing.assert_allclose(signed, unsigned, rtol=1e-5, atol=1e-3)


def test_the_time_of_an_op_excludes_the_call_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def seconds(session: Any, given: Any, least_s: float) -> float:
        name, per_op_us = ("slow", 6.0) if session.get_inputs()[0].name == "inner" else ("fast", 3.0)
        calls.append(name)
        disturbed_us = 900.0 if len(calls) == 8 else 0.0  # one of five rounds
        return (50.0 + per_op_us * len(session.get_outputs()) + disturbed_us) / 1e6  # the call takes 50 us

    monkeypatch.setattr(ops, "seconds_of", seconds)
    rows = run_ops({"part": {"slow": "out# = Erf (inner)", "fast": "out# = Erf (x)"}}, tokens=64, rounds=5, call_s=0.01)
    assert [row["us"] for row in rows] == [pytest.approx(6.0), pytest.approx(3.0)]
    assert calls[:8:2] == ["slow", "fast", "fast", "slow"]  # in turns, in both orders
    result = {"rows": rows, "environment": {"versions": {"onnxruntime": "1"}}}
    assert ops_figures(result) == {"part_slow_64_us": rows[0]["us"], "part_fast_64_us": rows[1]["us"]}
    assert "| part | 64 | fast 3, slow 6 |" in ops_table(result)  # the fastest first


def test_seconds_are_the_median_of_the_runs_after_a_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    durations: Iterator[float] = iter([9.0, 1.0, 2.0, 30.0, 100.0])

    class Session:
        def get_inputs(self) -> list[Any]:
            return []

        def run(self, names: None, given: Any) -> None:
            nonlocal now
            now += next(durations)

    monkeypatch.setattr(ops, "time", SimpleNamespace(perf_counter=lambda: now))
    assert seconds_of(Session(), {}, 20.0) == 2.0  # of 1, 2 and 30; 9 was the warmup
    assert next(durations) == 100.0  # 33 s are enough
