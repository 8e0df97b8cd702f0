"""Run one scoring job: open its inputs and output, choose threads or Ray, and record the finished parts."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.errors import BundleError, DatasetError, SettingsError
from distill.progress import Reporter, SilentReporter
from export.trust.pins import require_trusted
from serve.bulk.inputs import InputFile, find_inputs, kept_schema
from serve.bulk.output import Ledger, Output
from serve.bulk.settings import ScoreSettings
from serve.bulk.threads import run_in_threads
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
    opened = require_trusted(bundle if isinstance(bundle, Bundle) else Bundle.open(bundle), settings)
    place = Output(output)
    sources, known = _numbered(find_inputs(inputs, follow_links=settings.follow_links), place, settings)
    precision, schema = settings.precision or opened.best_precision(), kept_schema(sources, settings)
    job = Job(opened, precision, sources, known, schema, place, settings)
    ledger = Ledger(place, job.identity(), may_grow=settings.incremental)
    if settings.incremental:
        job = replace(job, sources=_unfinished(job, ledger))
    before, started = ledger.num_rows, time.monotonic()
    if before:
        reporter.say(f"score: {'all ' if ledger.complete else ''}{before:,} rows are already scored")
    if not ledger.complete:
        _run(job, ledger, runner or _runner_of(settings), reporter)
    rows, seconds = ledger.num_rows - before, time.monotonic() - started
    return {
        **ledger.totals(),
        "rows_scored": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds if rows else None,
        "cost_per_million": settings.price_per_hour / 3600 * seconds / rows * 1e6
        if rows and settings.price_per_hour is not None
        else None,
    }


def _numbered(
    found: Sequence[InputFile], output: Output, settings: ScoreSettings
) -> tuple[tuple[InputFile, ...], tuple[tuple[str, str], ...]]:
    """Return the input files, and name and fingerprint of all files by number: those of an earlier run keep their numbers."""
    manifest = output.read_manifest() if settings.incremental else None
    known = dict(manifest["job"]["inputs"]) if manifest else {}
    numbers = {name: number for number, name in enumerate(known)}
    for source in found:
        if known.get(source.name, source.fingerprint) != source.fingerprint:
            raise source.error(" changed since it was labelled; restore it, or score all files into another folder")
        numbers.setdefault(source.name, len(numbers))
    if settings.incremental and len({source.name for source in found}) != len(found):
        raise SettingsError("two input files have the same name, so --incremental cannot tell which is new; name one folder")
    if not settings.incremental:
        return tuple(found), tuple((source.name, source.fingerprint) for source in found)
    ordered = sorted((replace(source, number=numbers[source.name]) for source in found), key=lambda source: source.number)
    new = ((source.name, source.fingerprint) for source in ordered if source.name not in known)
    return tuple(ordered), (*known.items(), *new)


def _unfinished(job: Job, ledger: Ledger) -> tuple[InputFile, ...]:
    """Return the files to read, and require that those which an earlier run did not finish are there."""
    left = tuple(source for source in job.sources if source.number >= ledger.finished_inputs)
    if len(left) != len(job.inputs) - ledger.finished_inputs:
        gone = sorted({name for name, _ in job.inputs[ledger.finished_inputs :]} - {source.name for source in left})
        raise DatasetError(f"{gone[0]} is gone, but an earlier run did not label it to the end; restore it", path=gone[0])
    return left


def _run(job: Job, ledger: Ledger, runner: Runner, reporter: Reporter) -> None:
    progress = _Progress()
    total = sum(source.expected_rows() for source in job.sources)
    complete = False
    try:
        with reporter.task("rows", max(1, total - ledger.num_rows)) as advance:
            for finished in runner(job, ledger.done):
                ledger.add(finished.name, finished.part)
                advance(finished.num_rows, **progress.after(finished))
                if bundle_digest(job.bundle) != job.bundle.digest:
                    raise BundleError(
                        f"{job.bundle.path} changed during the job; finished parts are kept: restore the old bundle and run "
                        "the same command, or score into another folder"
                    )
        complete = True
    finally:
        ledger.commit(complete=complete)


def _runner_of(settings: ScoreSettings) -> Runner:
    if settings.ray is None:
        return run_in_threads
    from serve.bulk.on_ray import run_on_ray

    return run_on_ray


class _Progress:
    """Figures beside the progress bar: rows per second, share of bad rows, the slowest and the fastest worker."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._bad, self._started = 0, time.monotonic()

    def after(self, finished: Finished) -> dict[str, float]:
        """Count a part and return the figures."""
        self._rows[finished.worker] += finished.num_rows
        self._seconds[finished.worker] += finished.seconds
        self._bad += finished.part.num_bad
        rates = [round(rows / self._seconds[worker]) for worker, rows in self._rows.items() if self._seconds[worker]]
        total = self._rows.total()
        return {
            "rows/s": round(total / max(time.monotonic() - self._started, 1e-9)),
            "workers": len(self._rows),
            "slowest": min(rates, default=0),
            "fastest": max(rates, default=0),
            "bad": self._bad / max(total, 1),
        }
