"""`potstill bench`: quality and speed of a bundle against its teacher, saved in the bundle with the environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from distill.bundle import BENCHMARK, Bundle
from distill.data import Dataset
from distill.progress import Reporter
from distill.storage import require_writable, write_atomically
from export.measure.candidates import Candidate
from export.measure.rows import SCHEMA, measure
from export.settings import BenchSettings


def bench_bundle(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    teacher: Candidate | None,
    settings: BenchSettings,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure the candidates, write the result into the bundle as `benchmark.json`, and return it.

    Args:
        bundle: The bundle to save the result in.
        candidates: The bundle itself and the classifiers it is compared with.
        test: Labelled texts.
        teacher: The candidate that ratios refer to; None: no ratios.
        settings: Rounds, threads, batch size.
        reporter: Shows progress.
    """
    require_writable(bundle.path)
    report = {
        "schema": SCHEMA,
        "test_fingerprint": test.fingerprint(),
        "settings": settings.model_dump(mode="json"),
        **measure(candidates, test, teacher=teacher, settings=settings, reporter=reporter),
    }
    with bundle.staging() as staged:
        write_atomically(staged / BENCHMARK, json.dumps(report, indent=1, allow_nan=False) + "\n")
        bundle.adding({BENCHMARK: staged / BENCHMARK})
    return report
