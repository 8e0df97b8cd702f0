"""Which code decides what: the files and folders that scenarios name in `decided_by`, so that a change there makes results old.

Code that only computes figures and draws tables, pictures and pages is not among them: those are made again from the rows.
Neither are modules of settings: each row keeps the settings that it was made with, and their help texts change often.
"""

from __future__ import annotations

from typing import Final

READING: Final = ("distill/batching.py", "distill/tokenization.py")
"""How texts become batches of tokens, in training and in answering."""

TRAINING: Final = (
    *READING,
    *("distill/losses", "distill/machine.py", "distill/models", "distill/recipes.py"),
    *("distill/students", "distill/teachers", "distill/training"),
)
"""What a teacher or a student has learnt."""

INT8: Final = ("distill/scales.py", "export/graph", "export/int8", "export/pipeline.py")
"""What a graph is, in fp32 and in int8."""

TIMING: Final = (
    *READING,
    *(f"export/measure/{name}.py" for name in ("candidates", "openers", "protocol", "rows", "statistics", "turns", "workers")),
    "export/runtime",
)
"""How long it takes to answer, of our own classifiers."""

SPEED: Final = (
    *(f"benchmarks/harness/{name}.py" for name in ("candidates", "peer", "quality", "speed", "weights")),
    "benchmarks/peers",
    *TIMING,
)
"""How good and how fast the rows of the speed scenarios are, peers included."""

LOAD: Final = tuple(f"benchmarks/serving/{name}.py" for name in ("comparing", "generator", "load", "plan", "servers"))
"""How servers are started and loaded."""

FITTING: Final = (
    "export/demo.py",
    *(f"export/fitting/{name}.py" for name in ("choose", "graphs", "job", "plan", "run", "scores", "training", "weighing")),
    "export/fitting/unsure.py",
)
"""What `potstill fit` tries and chooses."""
