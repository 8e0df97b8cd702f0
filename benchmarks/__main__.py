"""`python -m benchmarks`: run a scenario and write its result file.

Uses the same functions as the command and the API; it adds rows, never its own way of training or measuring.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Parameter

from benchmarks.field.study import SST2, TREC6, FieldSettings, FieldStudy
from benchmarks.fitting.figures import SEEDS as FIT_SEEDS
from benchmarks.fitting.figures import fit_figures
from benchmarks.fitting.foreign import FOREIGN
from benchmarks.harness import speed_commands
from benchmarks.harness.results import demo_figures, write_result
from benchmarks.harness.texts import measured_on
from benchmarks.report import commands as report_commands
from benchmarks.report.pages import fill_pages
from benchmarks.scenarios.fit import COMMITTED, SAMPLE, run_fit, write_fit
from benchmarks.scenarios.fit import PARTS as FIT_PARTS
from benchmarks.scenarios.quality import run_quality, write_quality
from benchmarks.scenarios.training import run_training, write_training
from benchmarks.scenarios.transfer import PARTS, run_transfer, write_transfer
from benchmarks.training.arms import ARMS, SEEDS
from benchmarks.transfer.figures import SEEDS as TRANSFER_SEEDS
from distill.cli.bars import reporter_for_terminal
from distill.cli.terminal import fail, print_cells, words_of
from distill.errors import PotstillError
from distill.recipes import Effort
from distill.settings import DataSettings
from export.measure.children import stop_by_leaving
from export.settings import DemoSettings

app = App(
    name="python -m benchmarks",
    help="Run a scenario and write benchmarks/results/<scenario>.json.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative=()),
)
speed_commands.register(app)
report_commands.register(app)


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

    run_demo(out, settings, reporter=reporter_for_terminal())
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
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

    The result file is written each time; what it still lacks stands in it.

    Example: python -m benchmarks quality --arms 2_layers 2_layers_control
    """
    reporter = reporter_for_terminal()
    rows = run_quality(out, arms=arms, seeds=seeds, reporter=reporter)
    path = write_quality(out, rows, reporter=reporter)
    fill_pages()
    print(path)


@app.command
def fit(
    *,
    out: Annotated[Path, Parameter(help="work folder; finished rows in it are not made again")] = Path("fit"),
    parts: Annotated[tuple[str, ...], Parameter(help=f"make only these parts: {', '.join(FIT_PARTS)}")] = tuple(FIT_PARTS),
    seeds: Annotated[tuple[int, ...], Parameter(help="seeds of the parts demo and regret")] = FIT_SEEDS,
    sets: Annotated[tuple[str, ...], Parameter(help="foreign sets of the part foreign")] = tuple(FOREIGN),
    effort: Annotated[Effort, Parameter(help="effort on the foreign sets")] = "quick",
    quick: Annotated[bool, Parameter(help="200 texts of each split, to see that it works; no result is kept")] = False,
) -> None:
    """Fit students to the built-in task and to six foreign sets (many hours); see `benchmarks/scenarios/fit.py`.

    The result file is written each time; it names the rows that are missing.

    Example: python -m benchmarks fit --parts foreign --sets sms tomatoes
    """
    study = (SAMPLE if quick else COMMITTED).of_sets(sets, effort)
    rows = run_fit(out, parts=parts, seeds=seeds, study=study, reporter=reporter_for_terminal())
    print(json.dumps(fit_figures(rows), indent=1))
    if quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    print(write_fit(rows))
    fill_pages()


@app.command
def sst2(settings: Annotated[FieldSettings, Parameter(name="*")]) -> None:
    """Train a teacher of BERT's size and every kind of student on SST-2, and measure them together (many hours).

    Finished steps are kept in --work, so a run that was interrupted goes on. The extra mpnet brings the teacher's encoder.

    Example: python -m benchmarks sst2 --data sst2-data --work sst2
    """
    _field(SST2, settings)


@app.command
def trec6(settings: Annotated[FieldSettings, Parameter(name="*")]) -> None:
    """Do the same on the questions of TREC with six labels.

    Example: python -m benchmarks trec6 --data trec6-data --work trec6
    """
    _field(TREC6, settings)


def _field(study: FieldStudy, settings: FieldSettings) -> None:
    from benchmarks.scenarios.field import run_field

    path = run_field(study, settings, reporter=reporter_for_terminal())
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
def runtime(
    *,
    students: Annotated[
        tuple[Path, ...], Parameter(consume_multiple=True, help="exported students by seed, with weights; the first is timed")
    ],
    teacher: Annotated[Path, Parameter(help="the teacher's bundle")],
    peers: Annotated[
        tuple[str, ...],
        Parameter(consume_multiple=True, help="which peers; one that will not install is skipped, with the reason"),
    ] = (
        "stock",
        "optimum",
        "openvino",
        "ctranslate2",
    ),
    work: Annotated[Path, Parameter(help="folder for the peers' graphs; filled ones are used again")] = Path(".peers/work"),
    quick: Annotated[bool, Parameter(help="few texts, to see that it works; nothing is kept as a result")] = False,
) -> None:
    """Time the graph that ships against the stock recipe, three peers and the teacher, in one run.

    Example: python -m benchmarks runtime --students student-0 student-1 student-2 --teacher teacher-0
    """
    from benchmarks.scenarios.runtime import QUICK, Plan, run_runtime, runtime_figures, runtime_table
    from distill.data import load_splits
    from distill.machine import describe_environment

    environment = describe_environment()
    movies = load_splits(DataSettings(train=("builtin:movies",), test="builtin:movies"))
    rows = run_runtime(
        students,
        teacher,
        test=measured_on(movies),
        calibration=movies.validation,
        plan=QUICK if quick else Plan(),
        peers=peers,
        work=work,
        reporter=reporter_for_terminal(),
    )
    figures = runtime_figures(rows)
    print_cells(*runtime_table(rows))
    print(
        f"{environment['cpus_available']} processors ({environment['cpu']}, {environment['int8_instruction_set']}), load "
        f"{environment['load_average_1m']:.1f} before; single texts on one thread, many on two, all in turns, medians of rounds"
    )
    print(json.dumps(figures, indent=1))
    if quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    command = f"python -m benchmarks runtime --students ({len(students)} bundles) --teacher (its bundle)"
    print(write_result("runtime", command=command, environment=environment, rows=rows, figures=figures))


@app.command
def int8(
    *,
    bundle: Annotated[Path, Parameter(help="a bundle with weights, such as the teacher's")],
    texts: Annotated[int, Parameter(help="training texts to compare on, beside all validation texts")] = 1000,
) -> None:
    """Compare the ways of making an int8 graph with fp32, and a text alone with the same text in a batch; times nothing.

    Example: python -m benchmarks int8 --bundle teacher-0
    """
    from benchmarks.scenarios.int8 import int8_figures, int8_table, rows_of_movies
    from distill.machine import describe_environment

    rows = rows_of_movies(bundle, texts=texts, reporter=reporter_for_terminal())
    print_cells(*int8_table(rows))
    command = f"python -m benchmarks int8 --bundle {bundle.resolve().name}" + (f" --texts {texts}" if texts != 1000 else "")
    print(write_result("int8", command=command, environment=describe_environment(), rows=rows, figures=int8_figures(rows)))
    fill_pages()


@app.command
def ops() -> None:
    """Time single ops of ONNX Runtime on one core: the ways of doing each part of an encoder, in turns.

    Example: python -m benchmarks ops
    """
    from benchmarks.scenarios.ops import every_row, ops_figures, ops_table
    from distill.machine import describe_environment

    environment = describe_environment()
    rows = every_row()
    print_cells(*ops_table(rows))
    print(
        write_result("ops", command="python -m benchmarks ops", environment=environment, rows=rows, figures=ops_figures(rows))
    )
    fill_pages()


@app.command
def serving(
    *,
    student: Annotated[Path, Parameter(help="an exported student, with weights for the peers' own export")],
    peers: Annotated[
        tuple[str, ...],
        Parameter(consume_multiple=True, help="which servers; one that will not install is skipped, with the reason"),
    ] = ("infinity", "litserve", "mlserver"),
    phases: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, help="run only these; finished ones are kept in the work folder")
    ] = ("generator", "compare", "saturate", "half_load", "overload", "reload", "soak"),
    work: Annotated[Path, Parameter(help="folder for finished pieces and the peers' export")] = Path(".peers/serving"),
    quick: Annotated[bool, Parameter(help="seconds instead of an hour, to see that it works; no result is kept")] = False,
) -> None:
    """Load our server and three peers in turns; then ours at half load, in overload, through reloads and in a soak.

    Example: python -m benchmarks serving --student student
    """
    from benchmarks.scenarios.serving import PHASES, run_serving
    from benchmarks.serving.figures import serving_figures, serving_table, serving_words
    from benchmarks.serving.plan import QUICK, Plan
    from distill.data import load_splits
    from distill.machine import describe_environment

    environment = describe_environment()
    movies = load_splits(DataSettings(train=("builtin:movies",), test="builtin:movies"))
    rows = run_serving(
        student,
        test=measured_on(movies),
        plan=QUICK if quick else Plan(),
        peers=peers,
        phases=phases,
        work=work,
        reporter=reporter_for_terminal(),
    )
    figures = serving_figures(rows)
    print_cells(*serving_table(rows))
    print(serving_words(rows))
    print(json.dumps(figures, indent=1))
    if quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    there = {"compare" if row["kind"] == "server" else row["kind"] for row in rows}
    print(
        write_result(
            "serving",
            command="python -m benchmarks serving --student (its bundle)",
            environment=environment,
            rows=rows,
            figures=figures,
            missing=[name for name in PHASES if name not in there],
        )
    )


@app.command
def attacks(
    *,
    student: Annotated[Path, Parameter(help="an exported student")],
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True, help="run only these attacks; no result is kept")] = (),
    work: Annotated[Path, Parameter(help="folder for finished attacks")] = Path(".attacks"),
    quick: Annotated[bool, Parameter(help="two seconds for each, to see that it works; no result is kept")] = False,
) -> None:
    """Attack our server on this machine in every way there is, beside honest clients, with each guard and without it.

    Example: python -m benchmarks attacks --student student
    """
    from benchmarks.scenarios.attacks import QUICK, Plan, attacks_figures, attacks_table, run_attacks
    from benchmarks.serving.plan import Pieces
    from distill.data import load_splits
    from distill.machine import describe_environment

    environment = describe_environment()
    movies = load_splits(DataSettings(train=("builtin:movies",), test="builtin:movies"))
    rows = run_attacks(
        student,
        texts=measured_on(movies).single_texts()[:200],
        plan=QUICK if quick else Plan(),
        only=only,
        pieces=Pieces(work / ("quick" if quick else "full")),
        reporter=reporter_for_terminal(),
    )
    figures = attacks_figures(rows)
    print_cells(*attacks_table(rows))
    print(json.dumps(figures, indent=1))
    if quick or only:
        print("a sample: its figures are not kept as a result", file=sys.stderr)
        return
    command = "python -m benchmarks attacks --student (its bundle)"
    print(write_result("attacks", command=command, environment=environment, rows=rows, figures=figures))


@app.command
def ask(
    *,
    work: Annotated[Path, Parameter(help="folder for texts and answers; those of an earlier run are deleted")] = Path(".ask"),
    quick: Annotated[bool, Parameter(help="few texts, to see that it works; nothing is kept as a result")] = False,
) -> None:
    """Ask a scripted address through failures and kills, and simulate what a cascade promises.

    Example: python -m benchmarks ask
    """
    from benchmarks.scenarios.ask import QUICK, Plan, ask_figures, run_ask
    from distill.machine import describe_environment

    environment = describe_environment()
    rows = run_ask(work=work, plan=QUICK if quick else Plan(), reporter=reporter_for_terminal())
    figures = ask_figures(rows)
    print(json.dumps(figures, indent=1))
    if quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    print(write_result("ask", command="python -m benchmarks ask", environment=environment, rows=rows, figures=figures))


@app.command
def scale(
    *,
    student: Annotated[Path, Parameter(help="an exported student's bundle, with weights")],
    teacher: Annotated[Path, Parameter(help="the 6-layer teacher's bundle")],
    work: Annotated[Path, Parameter(help="folder for tables and steps; finished steps are not repeated")] = Path(".scale"),
    only: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, help="run only these steps; the file is written when all are there")
    ] = (),
    quick: Annotated[bool, Parameter(help="few rows, to see that it works; nothing is kept as a result")] = False,
) -> None:
    """Score a million rows on one machine, on Ray and through kills, and against the obvious scripts.

    Example: python -m benchmarks scale --student student-0 --teacher teacher-0
    """
    from benchmarks.scale.figures import scale_figures
    from benchmarks.scenarios.scale import QUICK, Plan, run_scale
    from distill.machine import describe_environment

    environment = describe_environment()
    rows = run_scale(student, teacher, work=work, plan=QUICK if quick else Plan(), only=only, reporter=reporter_for_terminal())
    if rows is None:
        print(f"some steps are still to be run; those that are done stand in {work}", file=sys.stderr)
        return
    figures = scale_figures(rows)
    print(json.dumps(figures, indent=1))
    if quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
        return
    command = "python -m benchmarks scale --student (its bundle) --teacher (its bundle)"
    path = write_result("scale", command=command, environment=environment, rows=rows, figures=figures)
    fill_pages()
    print(path)


@app.command
def transfer(
    *,
    out: Annotated[Path, Parameter(help="work folder; finished cells in it are not made again")] = Path("transfer"),
    parts: Annotated[tuple[str, ...], Parameter(consume_multiple=True, help="make only these parts")] = tuple(PARTS),
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True, help="only with these seeds")] = TRANSFER_SEEDS,
) -> None:
    """Carry every domain over to every other, with few labels and with none, and rank candidates (an hour or two).

    The result file is written each time; what it still lacks stands in it.

    Example: python -m benchmarks transfer --parts few --seeds 0
    """
    path = write_transfer(run_transfer(out, parts=parts, seeds=seeds, reporter=reporter_for_terminal()))
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
    stop_by_leaving()
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
