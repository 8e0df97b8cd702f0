"""A process that loads one classifier, answers some texts and prints its peak memory.

`export.measure.latency` runs it as `python -m export.measure.probe` and measures the time from its start to its first answer.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import cast

from distill.bundle import Bundle
from export.measure.forms import open_form
from export.settings import Form


def main(bundle_path: str, form: str) -> None:
    """Answer the lines of stdin one by one, and print when the first was answered (monotonic clock) and the peak memory."""
    texts = sys.stdin.buffer.read().decode().splitlines()
    classifier = open_form(Bundle.open(bundle_path), cast(Form, form))
    classifier.predict_logits(texts[:1])
    answered_at = time.monotonic()
    for text in texts:
        classifier.predict_logits([text])
    print(json.dumps({"answered_at": answered_at, "peak_rss_bytes": _peak_rss_bytes()}), flush=True)


def _peak_rss_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the peak of the parent: Linux keeps it across fork and exec.
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
