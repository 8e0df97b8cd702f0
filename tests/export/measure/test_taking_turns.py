"""Turns: warm-up for each kind of work, order, shares of rounds, and real processes that answer, fail or are held back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.progress import SilentReporter
from export.measure import openers
from export.measure.candidates import bundle_candidate, floor_candidates
from export.measure.protocol import Job, settle
from export.measure.turns import (
    Contender,
    dealt,
    fresh_process,
    in_order,
    next_texts,
    shares,
    slowed,
    take_turns,
    warm_texts,
)
from export.measure.workers import PeerError
from export.runtime.sessions import OnnxClassifier
from export.settings import TurnSettings

SETTINGS = TurnSettings(processes=3, settle_s=0.2, window_s=0.02, timeout_s=120)
QUIET = SilentReporter()


class Clock:
    """Stands still unless a call moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_warm_up_ends_when_the_times_are_steady() -> None:
    clock = Clock()

    def one(_: str) -> np.ndarray:
        clock.now += 0.1 if clock.now > 2.0 else 0.1 + (2.0 - clock.now)  # it gets faster for two seconds
        return np.zeros(2)

    found = settle(one, ["a", "b"], windows=3, most_s=60.0, window_s=1.0, clock=clock)
    assert found["steady"]
    assert 4.0 < found["settled_s"] < 8.0  # two slow seconds, then three windows of one


def test_a_warm_up_without_end_is_cut_and_says_so() -> None:
    clock, factor = Clock(), [1.0]

    def one(_: str) -> np.ndarray:
        factor[0] *= 1.05
        clock.now += 0.01 * factor[0]
        return np.zeros(2)

    found = settle(one, ["a"], windows=3, most_s=3.0, window_s=0.2, clock=clock)
    assert not found["steady"]
    assert found["settled_s"] > 3.0


def test_many_texts_at_once_are_warm_when_a_whole_call_is_no_longer_faster() -> None:
    clock, taken = Clock(), iter([9.0, 5.0, 4.0, 4.0, 4.0])

    def many(_: list[str]) -> np.ndarray:
        clock.now += next(taken)
        return np.zeros((2, 2))

    found = settle(many, [["a", "b"]], windows=2, most_s=60.0, window_s=0.25, clock=clock)
    assert (found["steady"], found["calls"], found["settled_s"]) == (True, 4, 22.0)


def test_even_a_call_longer_than_the_warm_up_is_made_twice() -> None:
    clock = Clock()

    def many(_: list[str]) -> np.ndarray:
        clock.now += 10.0
        return np.zeros((2, 2))

    found = settle(many, [["a"]], windows=2, most_s=1.0, window_s=0.25, clock=clock)
    assert (found["steady"], found["calls"]) == (True, 2)


def test_every_text_is_dealt_once_and_every_round_gets_long_ones() -> None:
    texts = ["x" * length for length in range(103)]
    hands = dealt(texts, 10, seed=0)
    assert sorted(index for hand in hands for index in hand) == list(range(103))
    assert {len(hand) for hand in hands} <= {10, 11}
    assert all(max(hand) >= 90 and min(hand) < 10 for hand in hands)


def test_rounds_have_the_next_texts_and_begin_again() -> None:
    assert next_texts(5, 3, 2) == [[0, 1], [2, 3], [4, 0]]


def test_a_warm_up_has_the_shortest_the_longest_and_some_between() -> None:
    lengths = [len(text) for text in warm_texts(["x" * length for length in range(100)])]
    assert (len(lengths), min(lengths)) == (20, 0)
    assert max(lengths) >= 95
    assert warm_texts(["one"]) == ["one"]


def test_rounds_go_there_and_back_so_that_none_is_early_more_often() -> None:
    settings = TurnSettings(seed=3)
    orders = [in_order("abcd", number, settings) for number in range(40)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert all(there == back[::-1] for there, back in zip(orders[::2], orders[1::2], strict=True))
    assert len({"".join(order) for order in orders[::2]}) > 5  # of 24 orders, drawn twenty times
    named = TurnSettings(order="alternating")
    assert [in_order("ab", number, named) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_rounds_are_shared_out_among_processes() -> None:
    assert [list(each) for each in shares(8, 3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    with pytest.raises(SettingsError, match="4 processes need at least as many rounds, got 3; give --rounds 4"):
        shares(3, 4)


def test_nothing_is_measured_with_no_text() -> None:
    with pytest.raises(SettingsError, match="no text to measure with"):
        take_turns([], [], [], "single", SETTINGS, reporter=QUIET)


def contender(bundle: Bundle, form: str, folder: Path) -> Contender:
    return bundle_candidate(bundle, name="student", form=form).contender(folder, threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["single", "many"])
def test_each_of_several_processes_warms_up_and_answers_its_rounds(
    kind: str, tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path
) -> None:
    texts = tiny_test.texts[:30]
    hands = next_texts(30, 6, 10)
    one, other = (
        contender(tiny_student, "int8", tmp_path),
        slowed(contender(tiny_student, "int8", tmp_path), 4.0, name="slowed"),
    )
    measured = take_turns([one, other], texts, hands, kind, SETTINGS, reporter=QUIET)  # type: ignore[arg-type]
    turns = measured.required()
    found, held = turns[one.name], turns["slowed"]
    assert [len(found.settled), found.process_of] == [3, [0, 0, 1, 1, 2, 2]]
    assert all(each.calls >= 2 for each in found.settled)
    assert [len(each) for each in found.ms] == ([10] * 6 if kind == "single" else [1] * 6)
    expected = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(texts)
    np.testing.assert_allclose(found.all_logits(), expected, atol=1e-5)
    assert np.median(np.concatenate(held.ms)) > 2 * np.median(np.concatenate(found.ms))  # 5 on an idle machine


def test_one_that_dies_drops_out_with_its_reason_and_the_others_are_measured(
    tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_student.path, tmp_path / "broken"))
    (broken / "model_int8.onnx").write_bytes(b"short")
    contenders = [
        contender(tiny_student, "int8", tmp_path),
        Contender("broken", openers.__name__, Job(broken, broken, 1, options={"form": "int8"})),
    ]
    measured = take_turns(contenders, tiny_test.texts[:6], next_texts(6, 3, 2), "single", SETTINGS, reporter=QUIET)
    assert set(measured.turns) == {"student int8"}
    assert "model_int8.onnx has 5 bytes" in measured.failed["broken"]
    with pytest.raises(PeerError, match=r"broken: .*has 5 bytes"):
        measured.required()


def test_a_graph_that_is_in_no_bundle_and_floors_take_turns_too(
    tiny_student: Bundle, tiny_splits: Splits, tiny_test: Dataset, tmp_path: Path
) -> None:
    about = {"labels": tiny_student.labels, "problem_type": tiny_student.manifest.problem_type}
    graph = tiny_student.graph("int8").read_bytes()
    folder = openers.write_graph(tmp_path / "graph", graph, tiny_student.tokenizer(), about)
    contenders = [
        contender(tiny_student, "int8", tmp_path),
        Contender("graph", openers.__name__, Job(folder, folder, 1, options={"graph": "graph"})),
        *(each.contender(tmp_path, threads=1) for each in floor_candidates(tiny_splits.train)),
    ]
    turns = take_turns(contenders, tiny_test.texts[:6], next_texts(6, 3, 2), "single", SETTINGS, reporter=QUIET).required()
    np.testing.assert_allclose(turns["graph"].all_logits(), turns["student int8"].all_logits(), atol=1e-6)
    tfidf, _ = floor_candidates(tiny_splits.train)
    np.testing.assert_allclose(
        turns["tfidf fp32"].all_logits(), tfidf.open(None).predict_logits(tiny_test.texts[:6]), atol=1e-5
    )


def test_a_fresh_process_says_what_it_takes(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    texts = (*tiny_test.texts[:20], "two\nlines", "naïve ünïcode ☕")
    int8 = fresh_process(contender(tiny_student, "int8", tmp_path), texts, timeout_s=120)
    pytorch = fresh_process(contender(tiny_student, "pytorch", tmp_path), texts, timeout_s=120, at_once=False)
    assert 0.05 < int8.first_answer_s < pytorch.first_answer_s < 120
    # numpy and onnxruntime take tens of megabytes, torch and transformers hundreds.
    assert int8.peak_rss_bytes is not None
    assert pytorch.peak_rss_bytes is not None
    assert 20e6 < int8.peak_rss_bytes < pytorch.peak_rss_bytes < 4e9
    assert int8.logits.shape == (22, 2)
    assert pytorch.used_rss_bytes == pytorch.alone_rss_bytes
