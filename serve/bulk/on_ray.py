"""The runner for a Ray cluster: Ray Data reads the files as a stream of parts and labels them in a pool of actors.

Workers run the same functions as on one machine, so names and bytes of the parts are the same. The part of a lost actor or
node is scored again by another one, which overwrites a written file with the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import MANIFEST, Bundle
from distill.errors import ClusterError, PotstillError, requires
from distill.machine import available_cpus
from distill.storage import write_atomically
from export.runtime.sessions import OnnxClassifier
from serve.bulk.parts import raw_parts
from serve.bulk.work import Finished, Job, make_part

with requires("scoring on a Ray cluster"):
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

# An actor computes on one processor; the rest of it is for the tasks that read.
_ACTOR_CPUS, _READER_CPUS = 0.9, 0.05
# In every process on the cluster: an actor is one thread, and there are as many actors as processors.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# Smaller than any part, so that each part is its own block and goes to whichever actor is free.
_BLOCK_BYTES = 1


def run_on_ray(job: Job, *, done: frozenset[str]) -> Iterator[Finished]:
    """Score the parts that are not done, and yield each when it is written.

    `job.settings.ray` is the address of the cluster; "auto" is the one this machine belongs to, "local" starts one for the job.

    Raises:
        ClusterError: The cluster cannot be reached, is lost, or its workers write where this process cannot see it.
        PotstillError: A worker failed with it.
    """
    with _plain_errors(), _quiet(), _connected(job.settings.ray or "auto", workers=job.settings.workers):
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
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    shipped = ray.put({name: (job.bundle.path / name).read_bytes() for name in (*job.bundle.manifest.files, MANIFEST)})
    present = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = job.settings.workers or present
    numbers = ray.data.from_items(
        [{"number": number} for number in range(len(job.sources))], override_num_blocks=len(job.sources)
    )
    parts = numbers.map_batches(
        _read, batch_size=1, batch_format="numpy", fn_kwargs={"job": job, "done": done}, num_cpus=_READER_CPUS
    )
    return parts.map_batches(
        _Worker,
        batch_size=1,
        batch_format="numpy",
        fn_constructor_kwargs={"job": job, "shipped": [shipped]},
        compute=ActorPoolStrategy(min_size=min(present, most), max_size=most),
        num_cpus=_ACTOR_CPUS,
    )


def _read(batch: Mapping[str, np.ndarray], *, job: Job, done: frozenset[str]) -> Iterator[dict[str, np.ndarray]]:
    for number in batch["number"]:
        for raw in raw_parts(job.sources[number], int(number), job.schema, job.settings, done=done):
            yield {"part": _boxed(raw)}


class _Worker:
    """An actor: one session on one thread."""

    def __init__(self, *, job: Job, shipped: list[Any]) -> None:
        bundle = unpacked(ray.get(shipped[0]))
        self._job = replace(job, bundle=bundle)
        self._classifier = OnnxClassifier.open(bundle, precision=job.precision, threads=1, verify=False)
        self._name = f"{ray.get_runtime_context().get_node_id()[:8]}-{os.getpid()}"

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        [raw] = batch["part"]
        return {"finished": _boxed(make_part(raw, job=self._job, classifier=self._classifier, worker=self._name))}


def unpacked(files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle's files to a folder that the actors of this node share, open it and check every sha256.

    Raises:
        BundleError: A file differs from its sha256.
    """
    digest = hashlib.sha256(files[MANIFEST]).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"potstill-{os.getuid()}-{digest[:32]}"
    if not (folder / MANIFEST).is_file():
        for name, content in files.items():  # the manifest last; two actors write the same bytes
            write_atomically(folder / name, content)
    return Bundle.open(folder)


def _boxed(value: object) -> np.ndarray:
    box = np.empty(1, dtype=object)
    box[0] = value
    return box


@contextmanager
def _connected(address: str, *, workers: int | None) -> Iterator[None]:
    """Join or start a cluster for the length of the block; an existing connection is used and kept."""
    if ray.is_initialized():
        yield
        return
    _require_answer(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no usage reports
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # on stderr, beside our own lines
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": _ONE_THREAD}}
    folder = None
    if address == "local":
        folder = tempfile.mkdtemp(prefix="ray-")
        options |= {"num_cpus": workers or available_cpus(), "include_dashboard": False, "_temp_dir": folder}
    try:
        ray.init(address=address, **options)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's messages out of the terminal; they are still in its log files."""
    console = [each for each in logging.getLogger("ray.data").handlers if isinstance(each, logging.StreamHandler)]
    levels = [each.level for each in console]
    for each in console:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(console, levels, strict=True):
            each.setLevel(level)


def _require_answer(address: str) -> None:
    """Refuse an address where nothing listens; Ray would try for a minute and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as exc:
        raise ClusterError(f"no cluster answers at {address}: {exc.strerror or exc}; check --ray") from exc


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the `PotstillError` behind an error of Ray, or a `ClusterError`."""
    try:
        yield
    except (RayError, ConnectionError, RuntimeError) as exc:
        if isinstance(exc, PotstillError):
            raise
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, PotstillError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise ClusterError(
            f"the cluster failed: {str(exc).strip().splitlines()[-1]}; finished parts are kept: run the same command again"
        ) from exc
