"""The runner for a Ray cluster: Ray Data reads the files as a stream of parts and labels them in a pool of actors.

Workers run the same functions as on one machine, so names and bytes of the parts are the same. The part of a lost actor or
node is scored again by another one, which overwrites a written file with the same bytes.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.bundle import GRAPH_OF_PRECISION, MANIFEST, TOKENIZER, Bundle
from distill.errors import BundleError, ClusterError, PotstillError, requires
from distill.machine import available_cpus
from distill.settings import Precision
from export.runtime.sessions import OnnxClassifier
from serve.bulk.parts import RawPart, raw_parts
from serve.bulk.work import Finished, Job, make_part

with requires("scoring on a Ray cluster"):
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

# In every process on the cluster: an actor is one thread, and there are as many actors as processors.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def run_on_ray(job: Job, done: frozenset[str]) -> Iterator[Finished]:
    """Score the parts that are not done, and yield each when it is written.

    `job.settings.ray` is the address of the cluster; "auto" is the one this machine belongs to, "local" starts one for the job.

    Raises:
        ClusterError: The cluster cannot be reached, is lost, or its workers write where this process cannot see it.
        PotstillError: A worker failed with it.
    """
    with _plain_errors(), _quiet(), _own_context(), _connected(job.settings.ray or "auto", workers=job.settings.workers):
        for row in _dataset(job, done).iter_rows():
            finished: Finished = row["finished"]
            for name, (size, _) in finished.part.files.items():
                if not job.output.has(name, size):
                    raise ClusterError(
                        f"a worker wrote {name}, but this machine does not see it in {job.output.url}; "
                        "use an output that all machines share, or a URL"
                    )
            yield finished


def _dataset(job: Job, done: frozenset[str]) -> Any:
    needed = (TOKENIZER, GRAPH_OF_PRECISION[job.precision])
    shipped = ray.put({MANIFEST: (job.bundle.path / MANIFEST).read_bytes(), **{name: job.bundle.read(name) for name in needed}})
    present = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = job.settings.workers or present
    # An actor computes on one CPU; the rest of it is for the tasks that read.
    # Not `ray.data.range`: its tasks wait for a whole CPU, which the actors hold.
    files = ray.data.from_items([{"place": place} for place in range(len(job.sources))], override_num_blocks=len(job.sources))
    return files.flat_map(_read, fn_kwargs={"job": job, "done": done}, num_cpus=0.05).map(
        _Worker,
        fn_constructor_kwargs={"job": job, "shipped": [shipped]},
        compute=ActorPoolStrategy(min_size=min(present, most), max_size=most),
        num_cpus=0.9,
    )


def _read(row: Mapping[str, Any], *, job: Job, done: frozenset[str]) -> Iterator[dict[str, RawPart]]:
    source = job.sources[row["place"]]
    for raw in raw_parts(source, source.number, job.schema, job.settings, done=done):
        yield {"part": raw}


class _Worker:
    """An actor: one session on one thread."""

    def __init__(self, *, job: Job, shipped: list[Any]) -> None:
        self._job = job
        self._classifier = opened(ray.get(shipped[0]), digest=job.bundle.digest, precision=job.precision)
        self._name = f"{ray.get_runtime_context().get_node_id()[:8]}-{os.getpid()}"

    def __call__(self, row: Mapping[str, RawPart]) -> dict[str, Finished]:
        return {"finished": make_part(row["part"], job=self._job, classifier=self._classifier, worker=self._name)}


def opened(files: Mapping[str, bytes], *, digest: str, precision: Precision) -> OnnxClassifier:
    """Open a graph that was sent as files, by way of a folder that only this user and this actor know.

    Args:
        files: Content of the manifest, the tokenizer and the graph.
        digest: That of the bundle that the job names.
        precision: Which graph.

    Raises:
        BundleError: It is another bundle, or a file differs from its sha256.
    """
    with TemporaryDirectory(prefix="potstill-") as folder:  # new, and with mode 0700: nobody else can have put a file there
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        bundle = Bundle.of_manifest(Path(folder), files[MANIFEST])
        if bundle.digest != digest:
            raise BundleError(f"a worker got the bundle {bundle.digest[:12]}…, the job is for {digest[:12]}…; run it again")
        return OnnxClassifier.open(bundle, precision=precision, threads=1)


@contextmanager
def _connected(address: str, *, workers: int | None) -> Iterator[None]:
    """Join or start a cluster for the length of the block; an existing connection is used and kept."""
    if ray.is_initialized():
        yield
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # an address where nothing listens: Ray would try for a minute and then end the process
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as exc:
            raise ClusterError(f"no cluster answers at {address}: {exc.strerror or exc}; check --ray") from exc
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no usage reports
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # on stderr, beside our own lines
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": _ONE_THREAD}}
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if address == "local":
            options |= {"num_cpus": workers or available_cpus(), "include_dashboard": False, "_temp_dir": folder}
        try:
            ray.init(address=address, **options)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _own_context() -> Iterator[None]:
    """Set what this job needs in Ray Data's context, which is one for the process, and restore the caller's values."""
    context = DataContext.get_current()
    before = context.enable_progress_bars, context.target_max_block_size
    # A block smaller than any part, so that each part is its own block and goes to a free actor.
    context.enable_progress_bars, context.target_max_block_size = False, 1
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's messages out of the terminal; they are still in its log files."""
    logger = logging.getLogger("ray.data")
    handlers = logger.handlers
    logger.handlers = [each for each in handlers if not isinstance(each, logging.StreamHandler)]
    try:
        yield
    finally:
        logger.handlers = handlers


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the `PotstillError` behind an error of Ray, or a `ClusterError`."""
    try:
        yield
    except (RayError, ConnectionError, RuntimeError) as exc:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, PotstillError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        what = (str(exc).strip() or repr(exc)).splitlines()[-1]
        raise ClusterError(f"the cluster failed: {what}; finished parts are kept: run the same command again") from exc
