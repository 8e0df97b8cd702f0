"""What the rows of the scenario `ablations` say: the gain of each lever, with an interval over seeds and texts.

Pure functions over rows. The two arms of a lever are paired by seed and by resample of the test texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.ablations.levers import ARMS, LEVERS, MOVIES, SEEDS, Lever
from benchmarks.harness.answers import Answered
from benchmarks.harness.scenario import Columns, Result, Row, markdown_table, unfinished
from distill.evaluation.intervals import Estimate
from export.measure.drawing import GREY, svg_of
from export.measure.tables import ABSENT


@dataclass(frozen=True)
class Gain:
    """What a lever brings.

    Attributes:
        lever: The lever.
        num_seeds: Seeds that both arms were trained with.
        without: Mean macro-F1 of the control.
        gain: Macro-F1 with the lever minus that without it.
        before: The same difference on the task of the chain's teacher; None if there is no chain.
        times: Seconds of training with the lever over those without it.
    """

    lever: Lever
    num_seeds: int
    without: float
    gain: Estimate
    before: Estimate | None
    times: float

    @property
    def verdict(self) -> str:
        """What the intervals say; with fewer seeds than the committed result has, nothing."""
        if self.num_seeds < len(SEEDS):
            return "too few seeds"
        if self.gain.low > 0:
            return "helps"
        if self.gain.high < 0:
            return "harms"
        return "forgets less" if self.before is not None and self.before.low > 0 else "not shown"


def gains_of(result: Result) -> dict[str, Gain]:
    """Return the gain of every lever, on the seeds that its two arms were trained with; nothing where there is none."""
    runs: dict[str, dict[int, Row]] = {name: {} for name in ARMS}
    for row in result["rows"]:
        runs[row["arm"]][row["seed"]] = row
    found = {}
    for name, lever in LEVERS.items():
        seeds = sorted(runs[lever.arm].keys() & runs[lever.control].keys())
        if not seeds:
            continue
        arm, control = ([runs[each][seed] for seed in seeds] for each in (lever.arm, lever.control))
        differences = {}
        for key, task in (("predicted", ARMS[lever.arm].task), ("before", MOVIES)):
            if key in arm[0]:
                given = [[row[key] for row in each] for each in (arm, control)]
                answered = Answered(result["test_labels"][task], tuple(given[0] + given[1]))
                ours, theirs = (answered.figure(each) for each in given)
                differences[key] = (ours - theirs).estimate(), theirs.value
        gain, without = differences["predicted"]
        before, _ = differences.get("before", (None, 0.0))
        times = sum(row["seconds"] for row in arm) / sum(row["seconds"] for row in control)
        found[name] = Gain(lever, len(seeds), without, gain, before, times)
    return found


def ablation_figures(result: Result) -> dict[str, float]:
    """Return one gain per lever."""
    return {f"gain_{name}": found.gain.value for name, found in gains_of(result).items()}


def missing_of(rows: Sequence[Row]) -> list[str]:
    """Return which arms and seeds a result still needs, as ARM-SEED."""
    there = {(row["arm"], row["seed"]) for row in rows}
    return [f"{arm}-{seed}" for arm in ARMS for seed in SEEDS if (arm, seed) not in there]


def ablation_table(result: Result) -> str:
    """Return the gain of each lever beside what it costs, and what is missing."""
    said = unfinished(result, "runs")
    cells = [[shown(found) for _, shown in COLUMNS] for found in gains_of(result).values()]
    return "\n\n".join([markdown_table([head for head, _ in COLUMNS], cells, left=(0, 1, 7)), *said])


def _points(found: Estimate | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


COLUMNS: Columns = (
    ("lever", lambda found: found.lever.shown_as),
    ("where", lambda found: found.lever.where),
    ("seeds", lambda found: str(found.num_seeds)),
    ("macro-F1 without", lambda found: f"{found.without:.3f}"),
    ("gain in points, 95 %", lambda found: _points(found.gain)),
    ("on the earlier task", lambda found: _points(found.before)),
    ("training time", lambda found: f"{found.times:.1f}x"),
    ("verdict", lambda found: found.verdict),
)


def picture_of_gains(result: Result) -> str:
    """Return an SVG with a line for each lever: its gain and the interval, beside the line of no gain."""
    found = list(reversed(gains_of(result).values()))
    figure = Figure(figsize=(7.2, 0.9 + 0.27 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=1)
    colours = {"helps": "#0d9488", "harms": "#d97706"}
    for place, each in enumerate(found):
        value, low, high = (100 * number for number in (each.gain.value, each.gain.low, each.gain.high))
        axes.errorbar(
            value,
            place,
            xerr=[[value - low], [high - value]],
            fmt="o",
            markersize=5,
            color=colours.get(each.verdict, GREY),
            capsize=3,
        )
    axes.set_yticks(range(len(found)), [each.lever.shown_as for each in found])
    axes.set_xlabel("gain in macro-F1, in points, with 95 % interval over seeds and test texts")
    axes.grid(visible=True, axis="x", alpha=0.25)
    return svg_of(figure)
