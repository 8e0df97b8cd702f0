"""Running one scoring job: open what is read and written, choose threads or Ray, and keep the ledger of finished parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.errors import BundleError
from distill.progress import Reporter, SilentReporter
from serve.bulk.inputs import InputFile, find_inputs, kept_schema
from serve.bulk.output import Ledger, Output
from serve.bulk.settings import ScoreSettings
from serve.bulk.work import Finished, Job, Runner, bundle_digest


def score(
    bundle: Bundle | Path | str,
    inputs: Sequence[str],
    output: str,
    *,
    settings: ScoreSettings | None = None,
    runner: Runner | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Label every row of the inputs, doing only what no earlier run of the same job has done.

    Args:
        bundle: A bundle with a graph.
        inputs: Files, folders or patterns; paths or fsspec URLs.
        output: A folder or URL, new or of the same job.
        settings: What is read and written.
        runner: Does the work; None uses Ray where `settings.ray` is set, else threads of this process.
        reporter: Told of progress.

    Returns:
        The totals (`num_rows`, `num_bad`, `num_cut`, `labels`, `mean_score`), and of this run `rows_per_second`, `seconds`,
        `rows_scored` and, where a price is given, `cost_per_million`.

    Raises:
        SettingsError: The output holds another job's parts.
        DatasetError: An input cannot be read, or two do not agree.
        BundleError: The bundle is not whole, or changed during the job.
        StorageError: The output cannot be written. In each case finished parts are kept.
    """
    settings, reporter = settings or ScoreSettings(), reporter or SilentReporter()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    sources = tuple(find_inputs(inputs))
    precision = settings.precision or opened.best_precision()
    job = Job(opened, precision, sources, kept_schema(sources, settings), Output(output), settings)
    ledger = Ledger(job.output, job.identity())
    before, started = ledger.num_rows, time.monotonic()
    if ledger.complete:
        reporter.say(f"score: all {before:,} rows were done already")
        return _summary(ledger, rows=0, seconds=time.monotonic() - started, settings=settings)
    digest = bundle_digest(opened)
    watch = _Watch(reporter, job, before)
    with watch.bar() as advance:
        try:
            for finished in (runner or _runner_of(settings))(job, done=ledger.done):
                ledger.add(finished.name, finished.part)
                rows, figures = watch.seen(finished)
                advance(rows, **figures)
                if bundle_digest(opened) != digest:
                    raise BundleError(
                        f"{opened.path} was changed during the job; the finished parts are kept: put the old bundle back and "
                        "run the same command, or score into another folder"
                    )
        except BaseException:
            ledger.commit(complete=False)
            raise
    ledger.commit(complete=True)
    return _summary(ledger, rows=ledger.num_rows - before, seconds=time.monotonic() - started, settings=settings)


def _runner_of(settings: ScoreSettings) -> Runner:
    if settings.ray is not None:
        from serve.bulk.on_ray import RayRunner

        return RayRunner(settings.ray)
    from serve.bulk.threads import run_in_threads

    return run_in_threads


def _summary(ledger: Ledger, *, rows: int, seconds: float, settings: ScoreSettings) -> dict[str, Any]:
    rate = rows / seconds if rows else None
    price = settings.price_per_hour
    cost = None if rate is None or price is None else price / 3600 / rate * 1e6
    return {**ledger.totals(), "rows_scored": rows, "seconds": seconds, "rows_per_second": rate, "cost_per_million": cost}


class _Watch:
    """Progress that one can watch: rows, rows a second, share of bad rows, the slowest and the fastest worker."""

    def __init__(self, reporter: Reporter, job: Job, before: int) -> None:
        self._reporter = reporter
        self._rows = self._bad = 0
        self._before = before
        self._started = time.monotonic()
        self._workers: dict[str, tuple[int, float]] = {}
        self._total = sum(source.num_rows or _guessed_rows(source) for source in job.sources)

    def bar(self) -> Any:
        """Open the bar; of text files the rows are a guess from their size."""
        if self._before:
            self._reporter.say(f"score: {self._before:,} rows are done already")
        return self._reporter.task("rows", max(1, self._total - self._before))

    def seen(self, finished: Finished) -> tuple[int, dict[str, Any]]:
        """Take in a part; return its rows and the figures that are shown beside the bar."""
        rows = finished.part.num_rows + finished.part.num_bad
        self._rows += rows
        self._bad += finished.part.num_bad
        done, took = self._workers.get(finished.worker, (0, 0.0))
        self._workers[finished.worker] = done + rows, took + finished.seconds
        rates = [round(done / took) for done, took in self._workers.values() if took]
        return rows, {
            "rows/s": round(self._rows / max(time.monotonic() - self._started, 1e-9)),
            "workers": len(self._workers),
            "slowest": min(rates, default=0),
            "fastest": max(rates, default=0),
            "bad": self._bad / max(self._rows, 1),
        }


def _guessed_rows(source: InputFile) -> int:
    return max(1, source.size_bytes // 100)
