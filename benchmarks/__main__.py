"""`python -m benchmarks`: a command for each scenario, and those that read result files.

Scenarios use the same functions as the command and the API; they add rows, never their own way of training or measuring.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from benchmarks.harness.running import RunSettings, run_all, run_scenario
from benchmarks.harness.scenario import Scenario, scenarios
from benchmarks.report import commands
from benchmarks.report.pages import fill_pages
from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import shown_default
from distill.cli.terminal import exiting
from distill.errors import PotstillError
from export.measure.children import stop_by_leaving

FLAT = Parameter(name="*")
HERE = RunSettings()

app = App(
    name="python -m benchmarks",
    help="Run a scenario and write benchmarks/results/SCENARIO.json. A row of a result is one thing that is "
    "measured: a bundle, a peer (another tool) or a server.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative=(), show_default=shown_default),
)
app.command(commands.list_rows, name=["list", "--list"])
for reading in (commands.readme, commands.refigure, commands.report, commands.compare):
    app.command(reading)


def command_for(scenario: Scenario) -> Any:
    """Return the command of a scenario; its flags are the fields of the scenario's settings."""
    defaults = scenario.settings()

    def command(*, settings: Any = defaults, run: Any = HERE) -> None:
        path = run_scenario(scenario, settings, run, reporter=reporter_for_terminal())
        if not run.quick and run.out == HERE.out:
            fill_pages()
        print(path)

    command.__annotations__ = {
        "settings": Annotated[scenario.settings, FLAT],
        "run": Annotated[RunSettings, FLAT],
        "return": None,
    }
    command.__doc__ = scenario.summary
    return command


for each in scenarios().values():
    needed = "--data FOLDER " if "data" in each.settings.model_fields else ""
    app.command(command_for(each), name=each.name, help_epilogue=f"Example: python -m benchmarks {each.name} {needed}--quick")


@app.command
def results(
    *,
    only: Annotated[tuple[str, ...], Parameter(help="run only these scenarios; default: all")] = (),
    most_min: Annotated[float | None, Parameter(help="begin no further scenario after so many minutes")] = None,
    run: Annotated[RunSettings, FLAT] = HERE,
) -> None:
    """Run every scenario, from nothing, and write all result files below --work (hours); finished pieces are kept.

    Example: python -m benchmarks results --quick
    """
    failed = run_all(run, only=only, most_min=most_min, reporter=reporter_for_terminal())
    if failed:
        raise PotstillError(f"{len(failed)} scenarios have no result: {', '.join(failed)}; the reasons are above")


def main() -> None:
    """Run the harness; exit codes are those of the `potstill` command."""
    stop_by_leaving()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with exiting():
        app(exit_on_error=False, print_error=False)


if __name__ == "__main__":
    main()
