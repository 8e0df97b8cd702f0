"""Programs that a scenario runs to their end, each in a process of its own; what they found is JSON in their last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from distill.errors import PotstillError
from export.measure.children import run_child
from export.measure.workers import ROOT


def found_by(module: str, *arguments: str, given: str = "", timeout_s: float | None = None, **variables: str) -> dict[str, Any]:
    """Run a module and return what it found; this process sleeps meanwhile.

    Args:
        module: What is run.
        arguments: Of its command line.
        given: Its standard input.
        timeout_s: Seconds after which it is ended.
        variables: Of its environment, beside those of this process.

    Raises:
        PotstillError: It died, or took longer.
    """
    try:
        done = run_child(
            [sys.executable, "-m", module, *arguments],
            given=given,
            timeout_s=timeout_s,
            cwd=ROOT,
            env={**os.environ, **variables},
        )
    except subprocess.TimeoutExpired as exc:
        raise PotstillError(f"{module} took more than {timeout_s} s and was ended; run the scenario again") from exc
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PotstillError(f"{module} died with {done.returncode}: {last}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
