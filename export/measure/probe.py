"""A process that loads one classifier, answers some texts and prints its peak memory.

`export.measure.latency` runs it as `python -m export.measure.probe` and measures the time from its start to its first line of
output.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main(bundle_path: str, runtime: str) -> None:
    """Answer the first line of stdin at once, then the rest, and print the peak memory."""
    texts = sys.stdin.buffer.read().decode().splitlines()
    if runtime == "pytorch":
        from distill.bundle import Bundle
        from distill.models.eager import EagerClassifier

        classify = EagerClassifier(Bundle.open(bundle_path)).predict_logits
    else:
        from export.runtime.sessions import OnnxClassifier

        classify = OnnxClassifier.open(bundle_path, precision="int8" if runtime == "int8" else "fp32").predict_logits
    classify(texts[:1])
    print("answered", flush=True)
    for text in texts:
        classify([text])
    print(json.dumps({"peak_rss_bytes": _peak_rss_bytes()}), flush=True)


def _peak_rss_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the peak of the parent: Linux keeps it across fork and exec.
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(*sys.argv[1:])
