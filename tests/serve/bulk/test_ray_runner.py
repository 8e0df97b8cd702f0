"""The runner for a Ray cluster, with Ray's own parts replaced by local ones: no cluster is started."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bulk_task import digest_of, write_table

from distill.bundle import Bundle
from distill.errors import BundleError, ClusterError, DatasetError
from export.runtime.sessions import OnnxClassifier
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings
from serve.bulk.work import Finished, Job

ray = pytest.importorskip("ray")
on_ray = pytest.importorskip("serve.bulk.on_ray")

pytestmark = pytest.mark.filterwarnings("ignore")  # what importing Ray warns about

SETTINGS = ScoreSettings(key=("id",), part_rows=32, ray="auto", workers=3)


@dataclass
class LocalDataset:
    """The part of a Ray Dataset that the runner uses, computed here when it is read."""

    rows: Iterable[dict[str, Any]]
    pool: Any = None

    def flat_map(self, function: Callable[..., Iterable[dict[str, Any]]], *, fn_kwargs: Any, num_cpus: float) -> LocalDataset:
        assert 0 < num_cpus < 1
        return LocalDataset(each for row in self.rows for each in function(row, **fn_kwargs))

    def map(self, actor: type, *, fn_constructor_kwargs: Any, compute: Any, num_cpus: float) -> LocalDataset:
        assert 0 < num_cpus < 1
        call = actor(**fn_constructor_kwargs)
        return LocalDataset((call(row) for row in self.rows), pool=compute)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make Ray an existing connection to a cluster of this process alone."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "0123456789"))
    monkeypatch.setattr(ray.data, "from_items", lambda items, override_num_blocks: LocalDataset(items))


@pytest.mark.usefixtures("local_ray")
def test_the_parts_of_ray_have_the_bytes_of_the_parts_of_threads(tmp_path: Path, tiny_student: Bundle) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", 100, seed=ord(name))
    inputs, workers = [str(tmp_path / f"{name}.parquet") for name in ("a", "b")], set()

    def noting(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for finished in on_ray.run_on_ray(job, done):
            workers.add(finished.worker)
            yield finished

    score(tiny_student, inputs, str(tmp_path / "threads"), settings=SETTINGS.model_copy(update={"ray": None}))
    score(tiny_student, inputs, str(tmp_path / "ray"), settings=SETTINGS, runner=noting)
    assert digest_of(tmp_path / "ray") == digest_of(tmp_path / "threads")
    assert workers == {f"01234567-{os.getpid()}"}
    (tmp_path / "ray" / "part-00001-000002.parquet").unlink()
    assert score(tiny_student, inputs, str(tmp_path / "ray"), settings=SETTINGS)["rows_scored"] == 32


@pytest.mark.usefixtures("local_ray")
def test_a_pool_has_an_actor_per_processor_up_to_the_workers_asked_for(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 10)
    pools = []

    def noting(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for workers in (None, 1, 3):
            changed = replace(job, settings=job.settings.model_copy(update={"workers": workers}))
            pool = on_ray._dataset(changed, done).pool
            pools.append((pool.min_size, pool.max_size))
        return iter(())

    score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SETTINGS, runner=noting)
    assert pools == [(2, 2), (1, 1), (2, 3)]  # of 2 processors


@pytest.mark.usefixtures("local_ray")
def test_a_part_that_this_machine_does_not_see_is_an_error(
    tmp_path: Path, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "in.parquet", 10)
    make = on_ray.make_part

    def make_elsewhere(*arguments: Any, **named: Any) -> Finished:
        finished = make(*arguments, **named)
        (tmp_path / "out" / f"{finished.name}.parquet").unlink()
        return finished

    monkeypatch.setattr(on_ray, "make_part", make_elsewhere)
    with pytest.raises(
        ClusterError, match=re.escape(f"part-00000-000000.parquet, but this machine does not see it in {tmp_path}")
    ):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SETTINGS)


def test_an_address_where_nothing_listens_is_no_cluster(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
    settings = SETTINGS.model_copy(update={"ray": address})
    with pytest.raises(ClusterError, match=re.escape(address)):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=settings)


def test_the_callers_settings_of_ray_data_are_restored() -> None:
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.target_max_block_size
    with suppress(DatasetError), on_ray._own_context():
        assert (context.enable_progress_bars, context.target_max_block_size) == (False, 1)
        raise DatasetError("inside")
    assert (context.enable_progress_bars, context.target_max_block_size) == before


@pytest.mark.parametrize(("address", "workers"), [("local", 3), ("local", None), ("auto", None)])
def test_a_cluster_is_left_in_every_case(monkeypatch: pytest.MonkeyPatch, address: str, workers: int | None) -> None:
    started: list[dict[str, Any]] = []
    left: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))
    monkeypatch.setattr(on_ray, "available_cpus", lambda: 5)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    with pytest.raises(DatasetError, match="inside"), on_ray._connected(address, workers=workers):
        raise DatasetError("inside")
    [options] = started
    assert left == [True]
    assert options["address"] == address
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert options.get("num_cpus") == {("local", 3): 3, ("local", None): 5}.get((address, workers))
    assert not Path(options.get("_temp_dir", "/nowhere")).exists()


def test_an_error_of_a_worker_is_raised_as_itself_and_one_of_ray_as_a_cluster_error() -> None:
    inner = DatasetError("in.csv:3: not JSON", path="in.csv", line=3)
    wrapped = RuntimeError("the task failed")
    wrapped.__cause__ = ray.exceptions.RayTaskError("map", "traceback", inner)
    for cause in (inner, wrapped.__cause__, wrapped):
        with pytest.raises(DatasetError) as caught, on_ray._plain_errors():
            raise cause
        assert caught.value is inner
    with pytest.raises(ClusterError, match="node 2 is gone; finished parts are kept"), on_ray._plain_errors():
        raise ConnectionError("many lines\nof Ray\nnode 2 is gone\n")
    with pytest.raises(ClusterError, match="RayError"), on_ray._plain_errors():
        raise ray.exceptions.RayError


def test_the_messages_of_ray_data_go_to_its_log_files_alone() -> None:
    logger, console, file = logging.getLogger("ray.data"), logging.StreamHandler(), logging.NullHandler()
    before = logger.handlers
    logger.handlers = [console, file]
    try:
        with on_ray._quiet():
            assert logger.handlers == [file]
        assert logger.handlers == [console, file]
    finally:
        logger.handlers = before


def sent(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.path / name).read_bytes() for name in ("manifest.json", "tokenizer.json", "model_int8.onnx")}


def test_a_bundle_that_arrives_damaged_is_refused(tiny_student: Bundle) -> None:
    files = sent(tiny_student)
    assert on_ray.opened(files, digest=tiny_student.digest, precision="int8").labels == tiny_student.labels
    files["model_int8.onnx"] = files["model_int8.onnx"][:-1] + b"x"
    with pytest.raises(BundleError, match=r"model_int8\.onnx has sha256"):
        on_ray.opened(files, digest=tiny_student.digest, precision="int8")


def test_a_bundle_that_another_user_planted_on_the_node_is_not_opened(
    tmp_path: Path, tiny_student: Bundle, tiny_fallback: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"potstill-{os.getuid()}-{tiny_student.digest[:32]}"  # where a shared copy could be
    shutil.copytree(tiny_fallback.path, planted)
    used: list[Path] = []
    opening = on_ray.OnnxClassifier.open

    def noting(bundle: Bundle, **settings: Any) -> Any:
        used.append(bundle.path)
        assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o700
        return opening(bundle, **settings)

    monkeypatch.setattr(on_ray.OnnxClassifier, "open", noting)
    classifier = on_ray.opened(sent(tiny_student), digest=tiny_student.digest, precision="int8")
    theirs = OnnxClassifier.of_graph(tiny_student.read_graph("int8"), tiny_student).predict_logits(["a film"])
    assert (classifier.predict_logits(["a film"]) == theirs).all()
    assert planted not in used
    assert not any(each.exists() for each in used)


def test_a_whole_bundle_that_is_not_the_one_of_the_job_is_refused(tiny_student: Bundle, tiny_fallback: Bundle) -> None:
    with pytest.raises(BundleError, match=f"a worker got the bundle {tiny_student.digest[:12]}"):
        on_ray.opened(sent(tiny_student), digest=tiny_fallback.digest, precision="int8")
