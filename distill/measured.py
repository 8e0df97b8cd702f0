"""What the named students brought when they were measured: for help texts and reports; nothing is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Measured(NamedTuple):
    """What a recipe brought on the built-in task: macro-F1 as a share of the teacher's; speed-up and size in int8."""

    kept: float
    times_faster: float
    megabytes: float


MEASURED: Final[Mapping[str, Measured]] = {
    "3-layers": Measured(0.992, 13.0, 9.7),
    "2-layers": Measured(0.98, 23.3, 7.9),
    "slim": Measured(0.984, 34.0, 6.1),
    "narrow": Measured(0.98, 44.1, 3.1),
    "1-layer": Measured(0.971, 43.2, 6.5),
    "static": Measured(0.961, 91.9, 8.1),
}
"""By name, from `benchmarks/results/quality.json`, whose students were trained with effort `thorough`; a test compares them.

In a module of its own: new figures must not make old the results that the recipes decide.
"""
