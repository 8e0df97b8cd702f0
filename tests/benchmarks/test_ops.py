"""Single ops: every way runs, says the same as the others of its part, and its time is that of the op alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from benchmarks.ops import COPIES, Way, _session, ops_figures, ops_table, run_ops, ways_of

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


def test_an_op_twice_in_a_row_takes_twice_as_long() -> None:
    given = {"x": np.random.default_rng(0).normal(size=(64, 4096)).astype(np.float32)}
    once = Way("part", "once", lambda out: [helper.make_node("Erf", ["x"], [out])], given, {})
    twice = Way(
        "part",
        "twice",
        lambda out: [helper.make_node("Erf", ["x"], [f"{out}_first"]), helper.make_node("Erf", [f"{out}_first"], [out])],
        given,
        {},
    )
    rows = run_ops([once, twice], tokens=64, rounds=5, call_s=0.01)
    assert rows[1]["us"] / rows[0]["us"] == pytest.approx(2.0, rel=0.3)
    assert ops_figures(rows) == {"part_once_64_us": rows[0]["us"], "part_twice_64_us": rows[1]["us"]}
    assert ops_table(rows)[1][0][:2] == ("part", "64")
    assert ops_table(rows)[1][0][2].startswith("once ")  # the fastest first
