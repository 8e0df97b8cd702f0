"""Peers that run in this interpreter answer as the student does; peers that are not installed are reported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.field.shapes import shape_candidates
from benchmarks.harness.candidates import floor_candidates, peer_candidates
from benchmarks.harness.environments import requirements_of
from benchmarks.harness.peer import module_of, peers
from benchmarks.harness.scenario import Context
from benchmarks.harness.speed import SpeedSettings, run_speed
from benchmarks.peers.servers import SERVERS
from distill.bundle import Bundle
from distill.errors import SettingsError
from distill.progress import SilentReporter
from export.measure import openers
from export.measure.protocol import Job, prepared_seconds
from export.measure.workers import PeerError, prepare, started

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # and ONNX Runtime's quantizer in the lowest set stumbles over the exporter's shapes
def test_peers_on_the_students_weights_give_its_labels(tiny_student: Bundle, tmp_path: Path) -> None:
    test = write_csv(tmp_path / "test.csv", tiny_texts(64, seed=1))
    settings = SpeedSettings(
        bundles=(f"{tiny_student.path}:pytorch",),
        peers=("transformers", "stock"),
        test=str(test),
        rounds=8,
        settle_s=0.3,
        timeout_s=120,
    )
    outcome = run_speed("single", settings, Context(tmp_path, "single-stream", SilentReporter()))
    found = {row["name"]: row for row in outcome.rows}
    assert found["transformers"]["agreement"] == 1.0  # the same weights in the same library
    assert found["stock"]["agreement"] >= 0.9  # int8
    tokenizer = (tiny_student.path / "tokenizer.json").stat().st_size
    assert found["stock"]["size_bytes"] > tokenizer  # what is shipped is counted alike for all
    assert all(found[name]["source"].startswith("https://") for name in ("transformers", "stock"))


def test_a_peer_under_another_name_is_made_ready_and_opened_as_that_peer(tiny_student: Bundle, tmp_path: Path) -> None:
    (stock,) = peer_candidates(["stock"], student=tiny_student.path)
    (shape, _) = shape_candidates(
        tmp_path, base=str(tiny_student.path), labels=tiny_student.labels, max_length=16, reporter=SilentReporter()
    )
    for candidate in (replace(stock, name="held back"), shape):
        assert (candidate.peer, module_of("stock").__name__) == ("stock", candidate.module)
    assert [each.peer for each in floor_candidates(tiny_student.path)] == [None, None]


def test_every_module_but_the_helpers_is_a_peer() -> None:
    files = {path.stem for path in (ROOT / "benchmarks" / "peers").glob("*.py")}
    assert files - set(peers()) == {"__init__", "clockwork", "external", "http"}


@pytest.mark.parametrize("name", peers())
def test_every_peer_names_its_source_and_exact_packages(name: str) -> None:
    needs, module = peers()[name], module_of(name)
    assert module.SOURCE.startswith("https://")
    assert callable(module.open_peer)
    assert all("==" in each or ">=" in each for each in needs.packages)
    assert needs.starts_from == "weights" or callable(getattr(module, "prepare", None))


def test_servers_have_environments_of_their_own_and_ours_has_none() -> None:
    assert requirements_of("infinity")[0].startswith("infinity-emb")
    assert not SERVERS["potstill"].packages
    assert requirements_of("stock") == ()


def test_a_peer_that_is_not_there_is_named(tiny_student: Bundle) -> None:
    with pytest.raises(SettingsError, match="there is no peer 'tensorrt'; there are ctranslate2, model2vec"):
        peer_candidates(["tensorrt"], student=tiny_student.path)


def test_getting_ready_ends_at_its_limit_and_leaves_no_stamp(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "stock", threads=1)
    with pytest.raises(PeerError, match=r"stock was not ready after 0\.01 s"):
        prepare("benchmarks.peers.stock", job, timeout_s=0.01)
    assert prepared_seconds(job) is None


def test_what_must_be_trained_says_that_it_has_no_texts(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "floor", threads=1, labels=tiny_student.labels, options={"floor": "tfidf"})
    with pytest.raises(PeerError, match="no training texts were named; give --train"), started(openers.__name__, job):
        pass


def test_reading_what_peers_need_imports_nothing_heavy() -> None:
    program = "import sys; from benchmarks.harness.peer import peers; peers(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
