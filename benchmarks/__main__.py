"""`python -m benchmarks`: run a scenario and write its result file.

Uses the same functions as the command and the API; it adds rows, never its own way of training or measuring.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Parameter

from benchmarks.pages import fill_pages
from benchmarks.quality import missing_runs, run_quality, write_quality
from benchmarks.quality_arms import ARMS, SEEDS
from benchmarks.results import demo_figures, write_result
from benchmarks.training import run_training, write_training
from distill.errors import PotstillError
from distill.progress import reporter_for_terminal
from distill.terminal import fail, words_of
from export.settings import DemoSettings

app = App(
    name="python -m benchmarks",
    help="Run a scenario and write benchmarks/results/<scenario>.json.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="folder of the demo; finished steps are not repeated")] = Path("demo"),
    settings: Annotated[DemoSettings, Parameter(name="*")] = DemoSettings(),
) -> None:
    """Run `potstill demo` and write its figures, its picture and the README's table.

    Example: python -m benchmarks demo
    """
    from export.demo import run_demo

    report = run_demo(out, settings, reporter=reporter_for_terminal())
    if settings.profile != "full":
        print("the quick profile is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    path = write_result(
        "demo",
        command="python -m benchmarks demo",
        environment=report["environment"],
        rows=report["rows"],
        figures=demo_figures(report["rows"]),
    )
    fill_pages()
    print(path)


@app.command
def quality(
    *,
    out: Annotated[Path, Parameter(help="work folder; finished arms in it are not trained again")] = Path("quality"),
    arms: Annotated[tuple[str, ...], Parameter(help="train only these arms")] = tuple(ARMS),
    seeds: Annotated[tuple[int, ...], Parameter(help="train only with these seeds")] = SEEDS,
) -> None:
    """Train every kind of student over three seeds and write its quality against the reference teachers (hours).

    The result file is written once no arm of any seed is missing in the work folder.

    Example: python -m benchmarks quality --arms 2_layers 2_layers_control
    """
    reporter = reporter_for_terminal()
    rows = run_quality(out, arms=arms, seeds=seeds, reporter=reporter)
    if missing := missing_runs(rows):
        print(f"no result file yet: {len(missing)} runs are missing, the first is {missing[0]}", file=sys.stderr)
        return
    path = write_quality(out, rows, reporter=reporter)
    fill_pages()
    print(path)


@app.command
def training(
    *,
    out: Annotated[Path, Parameter(help="work folder of the quality scenario, with its reference teachers")] = Path("quality"),
    seeds: Annotated[tuple[int, ...], Parameter(help="one pair of runs each")] = SEEDS,
) -> None:
    """Time distilling against a Trainer that asks the teacher in every step, the two taking turns.

    Example: python -m benchmarks training
    """
    path = write_training(run_training(out, seeds=seeds, reporter=reporter_for_terminal()))
    fill_pages()
    print(path)


@app.command
def readme() -> None:
    """Make the tables and the pictures in the READMEs anew from the result files.

    Example: python -m benchmarks readme
    """
    fill_pages()


def main() -> None:
    """Run the harness; exit codes are those of the `potstill` command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app(exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as exc:
        sys.exit(fail(words_of(exc), 2))
    except PotstillError as exc:
        sys.exit(fail(str(exc), exc.exit_code))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted; finished steps are kept", 130))


if __name__ == "__main__":
    main()
