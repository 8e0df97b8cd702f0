"""torchdistill: loads here and has no adapter, because there was no environment in which one could be tried."""

from __future__ import annotations

from benchmarks.harness.peer import Needs

PEER = Needs(
    "teacher",
    ("torchdistill==1.1.5",),
    loads="torchdistill.core.distillation",
    missing="it loads here, and has no adapter: nowhere could one be tried",
)
