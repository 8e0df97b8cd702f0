"""Peers that run in this interpreter answer as the student does; peers that are not installed are reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.candidates import PEERS, Task, bundle_candidates, peer_candidates
from benchmarks.harness.environments import REQUIREMENTS
from benchmarks.harness.sessions import SpeedSettings
from benchmarks.harness.speed import run_speed
from distill.bundle import Bundle
from distill.data import Dataset, Splits, limited
from distill.errors import SettingsError
from distill.progress import SilentReporter
from export.measure.protocol import Job, prepared_seconds
from export.measure.workers import PeerError, prepare, started

ROOT = Path(__file__).parents[2]


def no_base() -> str:
    raise AssertionError("none of these peers starts from the base encoder")


@pytest.mark.slow  # and ONNX Runtime's quantizer in the lowest set stumbles over the exporter's shapes
def test_peers_on_the_students_weights_give_its_labels(
    tiny_student: Bundle, tiny_splits: Splits, tiny_test: Dataset, tmp_path: Path
) -> None:
    task = Task(limited(tiny_test, 64, seed=0), tiny_splits.train, tiny_splits.validation, None, tmp_path)
    candidates = [
        *bundle_candidates([f"{tiny_student.path}:pytorch"]),
        *peer_candidates(["transformers", "stock"], student=tiny_student.path, base=no_base),
    ]
    settings = SpeedSettings(rounds=8, settle_s=0.3, timeout_s=120)
    rows, _ = run_speed("single-stream", candidates, task, settings, commit=None, reporter=SilentReporter())
    found = {row["name"]: row for row in rows}
    assert found["transformers"]["agreement"] == 1.0  # the same weights in the same library
    assert found["stock"]["agreement"] >= 0.9  # int8
    assert found["stock"]["size_bytes"] > 0
    assert all(found[name]["source"].startswith("https://") for name in ("transformers", "stock"))


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_says_where_its_settings_come_from(name: str) -> None:
    path = ROOT / "benchmarks" / "peers" / f"{name}.py"
    if name == "torchdistill":
        assert not path.exists()
        return
    assert 'SOURCE = "http' in path.read_text() or 'SOURCE = (\n    "http' in path.read_text()
    assert all("==" in each or ">=" in each for each in REQUIREMENTS.get(name, ()))


def test_a_peer_that_is_not_there_is_named(tiny_student: Bundle) -> None:
    with pytest.raises(SettingsError, match="there is no peer 'tensorrt'; there are transformers, stock"):
        peer_candidates(["tensorrt"], student=tiny_student.path, base=no_base)


def test_getting_ready_ends_at_its_limit_and_leaves_no_stamp(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "model2vec", threads=1, calibration=(), max_length=32, labels=tiny_student.labels)
    with pytest.raises(PeerError, match=r"floor was not ready after 0\.01 s"):
        prepare("floor", job, timeout_s=0.01)
    assert prepared_seconds(job) is None


def test_what_must_be_trained_says_that_it_has_no_texts(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "floor", threads=1, calibration=(), max_length=32, labels=tiny_student.labels)
    with pytest.raises(PeerError, match="no training texts were named; give --train"), started("floor", job):
        pass


def test_a_peer_imports_nothing_heavy_that_it_does_not_run_with() -> None:
    program = "import sys, benchmarks.peers.encoder, export.measure.protocol; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
