"""The runner for one machine: this process reads; as many threads as there are processors label and write."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from distill.errors import PotstillError
from distill.machine import available_cpus
from export.runtime.sessions import OnnxClassifier
from serve.bulk.parts import raw_parts
from serve.bulk.work import Finished, Job, make_part


def run_in_threads(job: Job, done: frozenset[str]) -> Iterator[Finished]:
    """Score the parts that are not done, and yield each when it is written.

    All threads share one session, which runs each call on one thread: no matrix multiplication is split.
    """
    classifier = OnnxClassifier.open(job.bundle, precision=job.precision, threads=1, verify=False)

    workers = job.settings.workers or available_cpus()
    pool = ThreadPoolExecutor(workers, "score")
    working: set[Future[Finished]] = set()
    try:
        for source in job.sources:
            for raw in raw_parts(source, source.number, job.schema, job.settings, done=done):
                working.add(pool.submit(make_part, raw, job=job, classifier=classifier))
                # One part more than there are workers: read while they work, but never far ahead.
                while len(working) > workers:
                    ended, working = wait(working, return_when=FIRST_COMPLETED)
                    yield from _results(ended)
        while working:
            ended, working = wait(working, return_when=FIRST_COMPLETED)
            yield from _results(ended)
    except PotstillError:  # the parts that other threads are working on are complete, and kept
        wait(working)
        yield from (future.result() for future in working if future.exception() is None)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _results(ended: set[Future[Finished]]) -> Iterator[Finished]:
    """Yield the parts that were made, and then raise the error of one that failed in the same moment."""
    yield from (future.result() for future in ended if future.exception() is None)
    for future in ended:
        future.result()
