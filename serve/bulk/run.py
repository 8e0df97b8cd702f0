"""Run one scoring job: open its inputs and output, choose threads or Ray, and record the finished parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.errors import BundleError
from distill.progress import Reporter, SilentReporter
from serve.bulk.inputs import find_inputs, kept_schema
from serve.bulk.output import Ledger, Output
from serve.bulk.settings import ScoreSettings
from serve.bulk.work import Finished, Job, Runner, bundle_digest

_BYTES_PER_ROW = 100
"""A guess, for the progress bar of files that do not state their rows."""


def score(
    bundle: Bundle | Path | str,
    inputs: Sequence[str],
    output: str,
    *,
    settings: ScoreSettings | None = None,
    runner: Runner | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Label every row of the inputs; parts that an earlier run of the same job finished are not scored again.

    Args:
        bundle: A bundle with an ONNX graph.
        inputs: Files, folders or patterns; paths or fsspec URLs.
        output: A folder or URL, new or of the same job.
        settings: What is read and written.
        runner: Does the work; None uses Ray if `settings.ray` is set, else threads of this process.
        reporter: Receives progress.

    Returns:
        The totals (`num_rows`, `num_bad`, `num_cut`, `labels`, `mean_score`), and for this run `rows_scored`, `seconds`,
        `rows_per_second` and, if a price is set, `cost_per_million`.

    Raises:
        SettingsError: The output holds the parts of another job.
        DatasetError: An input cannot be read, or two inputs disagree.
        BundleError: The bundle is damaged, or changed during the job.
        StorageError: The output cannot be written. Finished parts are kept in every case.
    """
    settings, reporter = settings or ScoreSettings(), reporter or SilentReporter()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    sources = tuple(find_inputs(inputs))
    precision = settings.precision or opened.best_precision()
    job = Job(opened, precision, sources, kept_schema(sources, settings), Output(output), settings)
    ledger = Ledger(job.output, job.identity())
    before, started = ledger.num_rows, time.monotonic()
    if ledger.complete:
        reporter.say(f"score: all {before:,} rows are already scored")
    else:
        if before:
            reporter.say(f"score: {before:,} rows are already scored")
        _run(job, ledger, runner or _runner_of(settings), reporter)
    rows, seconds = ledger.num_rows - before, time.monotonic() - started
    rate = rows / seconds if rows else None
    price = settings.price_per_hour
    cost = None if rate is None or price is None else price / 3600 / rate * 1e6
    return {**ledger.totals(), "rows_scored": rows, "seconds": seconds, "rows_per_second": rate, "cost_per_million": cost}


def _run(job: Job, ledger: Ledger, runner: Runner, reporter: Reporter) -> None:
    digest, progress = bundle_digest(job.bundle), _Progress()
    total = sum(source.num_rows or max(1, source.size_bytes // _BYTES_PER_ROW) for source in job.sources)
    with reporter.task("rows", max(1, total - ledger.num_rows)) as advance:
        try:
            for finished in runner(job, done=ledger.done):
                ledger.add(finished.name, finished.part)
                advance(finished.num_rows, **progress.after(finished))
                if bundle_digest(job.bundle) != digest:
                    raise BundleError(
                        f"{job.bundle.path} changed during the job; finished parts are kept: restore the old bundle and run "
                        "the same command, or score into another folder"
                    )
        except BaseException:
            ledger.commit(complete=False)
            raise
    ledger.commit(complete=True)


def _runner_of(settings: ScoreSettings) -> Runner:
    if settings.ray is not None:
        from serve.bulk.on_ray import run_on_ray

        return run_on_ray
    from serve.bulk.threads import run_in_threads

    return run_in_threads


class _Progress:
    """Figures beside the progress bar: rows per second, share of bad rows, the slowest and the fastest worker."""

    def __init__(self) -> None:
        self._rows = self._bad = 0
        self._started = time.monotonic()
        self._workers: dict[str, tuple[int, float]] = {}

    def after(self, finished: Finished) -> dict[str, float]:
        """Count a part and return the figures."""
        self._rows += finished.num_rows
        self._bad += finished.part.num_bad
        done, took = self._workers.get(finished.worker, (0, 0.0))
        self._workers[finished.worker] = done + finished.num_rows, took + finished.seconds
        rates = [round(done / took) for done, took in self._workers.values() if took]
        return {
            "rows/s": round(self._rows / max(time.monotonic() - self._started, 1e-9)),
            "workers": len(self._workers),
            "slowest": min(rates, default=0),
            "fastest": max(rates, default=0),
            "bad": self._bad / max(self._rows, 1),
        }
