"""The attacks: that the harness tells a server with its guards from one without, and how it judges."""

from __future__ import annotations

import json
import lzma
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.attacks.bombs import greedy_decompressor
from benchmarks.attacks.connecting import held_by_server
from benchmarks.attacks.guards import GUARDS
from benchmarks.attacks.trials import LEAST_SHARE, MOST_GROWTH_BYTES, Plan, failures_of
from benchmarks.scenarios.attacks import ATTACKS, SCENARIO, attacks_figures, run_attacks
from benchmarks.serving.plan import DatedPieces
from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import SettingsError
from distill.progress import SilentReporter

ROOT = Path(__file__).parents[2]
BRIEF = Plan(seconds=0.5, rate=20.0, connections=2)


@pytest.fixture
def attack(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run(*names: str) -> list[dict[str, Any]]:
        texts = tiny_test.single_texts()[:20]
        pieces = DatedPieces(tmp_path / "pieces")
        return run_attacks(tiny_student.path, texts=texts, plan=BRIEF, only=names, pieces=pieces, reporter=SilentReporter())

    return run


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        pytest.param("name_twice", "answered [200], not [400]", id="a wrong answer"),
        pytest.param("head_that_stops", "a connection was not closed in time", id="a connection", marks=pytest.mark.slow),
    ],
)
def test_a_server_survives_with_its_guard_and_not_without(
    attack: Callable[..., list[dict[str, Any]]], name: str, failure: str
) -> None:
    guarded, without = attack(name)
    assert guarded["failures"] == []
    assert guarded["honest"]["requests"] > 0
    assert any(failure in each for each in without["failures"])
    assert attacks_figures([guarded, without])["attacks_survived"] == 1
    again = attack(name)  # finished: nothing is started
    assert [row["measured_at"] for row in again] == [guarded["measured_at"], without["measured_at"]]


def row(**changed: Any) -> dict[str, Any]:
    honest = {"answered_share": LEAST_SHARE, "wrong": 0, **changed.pop("honest", {})}
    common = {"kind": "attack", "name": "a", "broken_promises": {}, "memory_growth_bytes": MOST_GROWTH_BYTES}
    return {**common, "unpromised_errors": 0, "answers_afterwards": True, "honest": honest, **changed}


def test_what_counts_as_survived() -> None:
    assert failures_of(row()) == []
    for changed in (
        {"honest": {"answered_share": LEAST_SHARE - 0.001}},
        {"honest": {"wrong": 1}},
        {"memory_growth_bytes": MOST_GROWTH_BYTES + 1},
        {"broken_promises": {"answered [200], not [401]": 3}},
        {"unpromised_errors": 1},
        {"answers_afterwards": False},
    ):
        assert len(failures_of(row(**changed))) == 1


def test_a_class_counts_only_if_its_guard_was_shown_to_matter() -> None:
    survived = row(survived=True, memory_growth_bytes=5)
    other = row(name="b", survived=True, memory_growth_bytes=7, honest={"answered_share": 1.0})
    rows = [
        survived,
        {**survived, "kind": "without_guard", "survived": False, "memory_growth_bytes": 10**9},
        other,
        {**other, "kind": "without_guard"},
    ]
    assert attacks_figures(rows) == {
        "attacks_tried": 2,
        "attacks_survived": 1,
        "memory_growth_bytes": 7,
        "honest_answered_share": LEAST_SHARE,
    }


def test_every_attack_has_a_name_of_its_own_and_a_guard_and_every_guard_an_attack() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert {attack.guard for attack in ATTACKS} == set(GUARDS)


def test_every_guard_that_is_a_part_of_the_code_is_still_there_to_be_removed() -> None:
    code = "from benchmarks.attacks.guards import GUARDS; [each.remove() for each in GUARDS.values() if each.remove]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_table_that_asks_for_a_gigabyte_is_whole_and_small(tmp_path: Path) -> None:
    greedy_decompressor(tmp_path)
    content = (tmp_path / "in.jsonl.xz").read_bytes()
    assert len(content) < 200
    with pytest.raises(lzma.LZMAError, match="Memory usage limit"):
        lzma.LZMADecompressor(memlimit=2**30).decompress(content)
    assert json.loads(lzma.decompress(content))["text"] == "a fine film"


def test_fuzz_is_told_beside_the_table() -> None:
    survived = {"kind": "fuzz", "name": "requests", "tried": 100_000, "survived": True, "failures": []}
    opened = {"kind": "fuzz", "name": "bundles", "tried": 50_000, "survived": False, "failures": ["3 were opened: link"]}
    words = SCENARIO.table({"rows": [survived, opened]}).splitlines()[-1]
    assert words == "100,000 requests: survived. 50,000 bundles: 3 were opened: link."
    assert attacks_figures([survived, opened])["attacks_tried"] == 0


def test_the_system_tells_who_holds_connections() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), source_address=("127.0.0.3", 0)),
        server.accept()[0],
    ):
        assert held_by_server(server.getsockname()[1])["127.0.0.3"] == 1


def test_an_unknown_attack_is_refused(attack: Callable[..., list[dict[str, Any]]]) -> None:
    with pytest.raises(SettingsError, match="nap"):
        attack("nap")


def test_the_small_run_names_attacks_that_there_are() -> None:
    small = SCENARIO.settings(**SCENARIO.quick)
    assert set(small.attacks) < {each.name for each in ATTACKS}  # type: ignore[attr-defined]
    assert small.attacks  # type: ignore[attr-defined]
