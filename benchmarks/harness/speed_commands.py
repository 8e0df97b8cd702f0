"""The commands of the speed scenarios: from flags to rows, a printed table, and a result file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import Field

from benchmarks.harness.candidates import (
    PEERS,
    Candidate,
    Task,
    bundle_candidates,
    command_candidates,
    floor_candidates,
    peer_candidates,
    teacher_candidate,
    url_candidates,
)
from benchmarks.harness.fresh import FreshScenario, fresh_figures, run_fresh
from benchmarks.harness.results import FOLDER, write_result
from benchmarks.harness.sessions import QUICK, SpeedSettings
from benchmarks.harness.speed import Scenario, run_speed, speed_figures
from benchmarks.report.pages import fill_pages
from benchmarks.report.tables import first_words, terminal_table
from benchmarks.scenarios.instrument import SHORT, TRIALS, instrument_figures, run_self_check
from benchmarks.scenarios.server import RateSettings, rate_figures, run_rate_search
from distill.cli.bars import reporter_for_terminal
from distill.cli.reading import measuring_texts
from distill.cli.terminal import print_cells
from distill.data import limited, load_splits
from distill.errors import SettingsError
from distill.labels import require_single_label
from distill.settings import DataSettings, Settings
from export.measure.circumstances import circumstances

MOVIES = DataSettings(train=("builtin:movies",), test="builtin:movies")


class RowSettings(Settings):
    """What the rows are."""

    bundles: tuple[str, ...] = Field(
        (), description="bundles, PATH or PATH:fp32|int8|pytorch; the first lends peers its weights"
    )
    teacher: Path | None = Field(None, description="the teacher's bundle, which all are compared with; else the first row is")
    peers: tuple[str, ...] = Field((), description=f"peers, or all: {', '.join(PEERS)}")
    weights: Path | None = Field(None, description="the bundle whose weights peers run, if not the first of --bundles")
    floors: bool = Field(False, description="also TF-IDF with logistic regression, and the commonest label")
    external: tuple[str, ...] = Field(
        (), description="commands that read texts line by line and write labels; NAME=CMD names one"
    )
    url: tuple[str, ...] = Field((), description="addresses that answer {'inputs': text} with labels and scores; NAME=URL")


class RunSettings(Settings):
    """Where things go, and how much."""

    work: Path = Field(Path(".peers/work"), description="folder for what peers make and for finished rows")
    out: Path = Field(FOLDER, description="folder of the result file")
    quick: bool = Field(False, description="few texts, to see that it works; the file goes into --work")


Flat = Parameter(name="*")
Rows = Annotated[RowSettings, Flat]
Data = Annotated[DataSettings, Flat]
Speed = Annotated[SpeedSettings, Flat]
Run = Annotated[RunSettings, Flat]
Rate = Annotated[RateSettings, Flat]


def register(app: App) -> None:
    """Give the app the commands of this module."""
    app.command(single_stream, name="single-stream")
    app.command(offline)
    app.command(cold_start, name="cold-start")
    app.command(memory)
    app.command(instrument)
    app.command(server)


def single_stream(
    *, rows: Rows = RowSettings(), data: Data = DataSettings(), speed: Speed = SpeedSettings(), run: Run = RunSettings()
) -> None:
    """Time single texts, all rows taking turns, with the quality of the same answers; without data flags on the movies.

    Example: python -m benchmarks single-stream --bundles student --teacher teacher --peers stock openvino
    """
    run_scenario("single-stream", rows, data, speed, run)


def offline(
    *, rows: Rows = RowSettings(), data: Data = DataSettings(), speed: Speed = SpeedSettings(), run: Run = RunSettings()
) -> None:
    """Time all texts at once on all processors, all rows taking turns, with the quality of the same answers.

    Example: python -m benchmarks offline --bundles student --teacher teacher --external "mine=./classify --fast"
    """
    run_scenario("offline", rows, data, speed, run)


def cold_start(
    *, rows: Rows = RowSettings(), data: Data = DataSettings(), speed: Speed = SpeedSettings(), run: Run = RunSettings()
) -> None:
    """Time fresh processes from their start to the first answer, all rows taking turns, with their quality.

    Example: python -m benchmarks cold-start --bundles student --teacher teacher
    """
    run_scenario("cold-start", rows, data, speed, run)


def memory(
    *, rows: Rows = RowSettings(), data: Data = DataSettings(), speed: Speed = SpeedSettings(), run: Run = RunSettings()
) -> None:
    """Weigh fresh processes when ready, after all texts alone and at once, and at most, with their quality.

    Example: python -m benchmarks memory --bundles student --teacher teacher
    """
    run_scenario("memory", rows, data, speed, run)


def server(
    *, rows: Rows = RowSettings(), data: Data = DataSettings(), rate: Rate = RateSettings(), run: Run = RunSettings()
) -> None:
    """Find the highest rate of single texts that a server takes while 99 of 100 answers keep a bound, with its quality.

    Bundles are served by `potstill serve`; --url names a server on this machine that takes {'inputs': text}.

    Example: python -m benchmarks server --bundles student:int8 --bound-ms 10
    """
    environment = circumstances(seed=0)
    candidates = bundle_candidates(rows.bundles)
    if candidates:
        candidates += url_candidates(rows.url, student=candidates[0].bundle)
    if not candidates or rows.teacher or rows.peers or rows.floors or rows.external:
        raise SettingsError("a server is a bundle with a graph (--bundles, at least one: it says the labels) or a --url")
    task = task_of(rows, data, run.work)
    if run.quick:
        task = replace(task, test=limited(task.test, 200, seed=data.split_seed))
        rate = RateSettings(**{**rate.model_dump(), "steps": 1, "probe_s": 0.5})
    measured, sessions = run_rate_search(candidates, task.test, rate, reporter=reporter_for_terminal())
    finish("server", measured, sessions, rate_figures(measured), environment, (rows, data, rate, run), task)


def instrument(
    *,
    bundle: Annotated[str, Parameter(help="a bundle with a graph, PATH:fp32|int8")],
    trials: Annotated[int, Parameter(help="short comparisons of each kind")] = TRIALS,
    data: Data = DataSettings(),
    run: Run = RunSettings(),
) -> None:
    """Put a bundle against itself many times, then against itself held back by 5 %; finished trials are not run again.

    Example: python -m benchmarks instrument --bundle student:int8
    """
    environment = circumstances(seed=0)
    (candidate,) = bundle_candidates((bundle,))
    task = task_of(RowSettings(bundles=(bundle,)), data, run.work)
    task = replace(task, test=limited(task.test, SHORT.texts, seed=data.split_seed))
    kept = run.work / f"instrument-{candidate.digest(environment['git_commit'])[:16]}.json"
    found = run_self_check(candidate, task, trials=trials, kept=kept, reporter=reporter_for_terminal())
    figures = instrument_figures(found)
    path = write_result(
        "instrument",
        command=f"python -m benchmarks instrument --bundle {Path(bundle).name}",
        environment=environment,
        rows=found,
        figures=figures,
        folder=run.work if run.quick or trials < TRIALS else run.out,
        settings=SHORT.model_dump(mode="json"),
    )
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    print(path)


def run_scenario(
    scenario: Scenario | FreshScenario, rows: RowSettings, data: DataSettings, speed: SpeedSettings, run: RunSettings
) -> None:
    """Measure, print what was found, and write the result file."""
    reporter = reporter_for_terminal()
    environment = circumstances(seed=speed.seed)
    candidates = candidates_of(rows)
    task = task_of(rows, data, run.work)
    speed = quickened(speed, run)
    task = replace(task, test=limited(task.test, speed.texts or None, seed=data.split_seed))
    if scenario == "cold-start" or scenario == "memory":
        measured, sessions = run_fresh(scenario, candidates, task, speed, reporter=reporter)
        figures = fresh_figures(scenario, measured)
    else:
        commit = None if environment["git_dirty"] else environment["git_commit"]
        measured, sessions = run_speed(scenario, candidates, task, speed, commit=commit, reporter=reporter)
        figures = speed_figures(scenario, measured)
    finish(scenario, measured, sessions, figures, environment, (rows, data, speed, run), task)


def finish(
    scenario: str,
    measured: Sequence[dict[str, Any]],
    sessions: Sequence[dict[str, Any]],
    figures: Mapping[str, float],
    environment: Mapping[str, Any],
    flags: tuple[RowSettings, DataSettings, Settings, RunSettings],
    task: Task,
) -> None:
    """Print a scenario's table, what must be said first, and write its file."""
    _, _, how, run = flags
    for line in first_words(measured):
        print(line)
    print_cells(*terminal_table(scenario, measured))
    path = write_result(
        scenario,
        command=command_of(scenario, flags),
        environment=environment,
        rows=measured,
        figures=figures,
        folder=run.work if run.quick else run.out,
        settings=how.model_dump(mode="json"),
        sessions=sessions,
        test_fingerprint=task.test.fingerprint(),
        labels=task.test.labels,
        truth=task.test.label_ids.tolist(),
        reads=words_of_data(task),
    )
    if run.out == FOLDER and not run.quick:
        fill_pages()
    if run.quick:
        print("the quick form is a sample: its figures are not kept as a result", file=sys.stderr)
    print(path)


def quickened(speed: SpeedSettings, run: RunSettings) -> SpeedSettings:
    """Return the settings of a run, those of --quick where that is asked for."""
    return SpeedSettings(**{**speed.model_dump(), **QUICK}) if run.quick else speed


def candidates_of(rows: RowSettings) -> list[Candidate]:
    """Return the candidates in the order of the table, the reference first.

    Raises:
        SettingsError: There is none, two have one name, or peers have no weights to run.
    """
    bundles = bundle_candidates(rows.bundles)
    own = rows.weights or (bundles[0].bundle if bundles else rows.teacher)
    found = [teacher_candidate(rows.teacher)] if rows.teacher else []
    found += bundles
    if own is None:
        raise SettingsError("name at least one bundle with --bundles or --teacher: it says labels and max_length")
    if rows.floors:
        found += floor_candidates(own)
    names = PEERS if rows.peers == ("all",) else rows.peers
    found += peer_candidates(names, student=own, base=_base)
    found += command_candidates(rows.external, student=own) + url_candidates(rows.url, student=own)
    twice = next((each.name for each in found if [other.name for other in found].count(each.name) > 1), None)
    if twice:
        raise SettingsError(f"two rows are called {twice!r}; give one another name")
    return found


def task_of(rows: RowSettings, data: DataSettings, work: Path) -> Task:
    """Return the texts that are measured on: the movie sentences unless data flags name others.

    Raises:
        SettingsError: Texts have several labels, which these scenarios do not measure.
    """
    from distill.bundle import Bundle

    if not data.train and data.test is None:
        data = data.model_copy(update={"train": MOVIES.train, "test": MOVIES.test})
    own = rows.teacher or rows.weights or Path(rows.bundles[0].rpartition(":")[0] or rows.bundles[0])
    if not own.is_dir():
        own = Path(rows.bundles[0])
    labels = Bundle.open(own, verify=False).labels
    test = measuring_texts(data, labels)
    require_single_label(test.problem_type, "the speed scenarios")
    splits = load_splits(data, labels=labels) if data.train else None
    return Task(
        test=test,
        train=splits.train if splits else None,
        validation=splits.validation if splits else None,
        teacher=rows.teacher,
        work=work,
    )


def words_of_data(task: Task) -> str:
    """Return in words what was measured on."""
    lengths = sorted(len(text.split()) for text in task.test.single_texts())
    middle, most = lengths[len(lengths) // 2], lengths[-1]
    return f"{len(task.test):,} test texts of {middle} words in the median and {most} at most, {len(task.test.labels)} labels"


def command_of(scenario: str, flags: tuple[RowSettings, DataSettings, Settings, RunSettings]) -> str:
    """Return the command with folder names instead of paths: results name no place on this machine."""
    rows, data, how, run = flags
    words = ["python -m benchmarks", scenario]
    if rows.bundles:
        words += ["--bundles", *(Path(each).name for each in rows.bundles)]
    if rows.teacher:
        words += ["--teacher", rows.teacher.resolve().name]
    if rows.weights:
        words += ["--weights", rows.weights.resolve().name]
    if rows.floors:
        words.append("--floors")
    for name in ("peers", "external", "url"):
        if given := getattr(rows, name):
            words += [f"--{name}", *(f"'{each}'" if " " in each else each for each in given)]
    for name in ("train", "test"):
        given = getattr(data, name)
        if given:
            words += [f"--{name}", *(Path(each).name for each in ((given,) if isinstance(given, str) else given))]
    if run.quick:
        return " ".join([*words, "--quick"])  # which sets the rest
    for name, field in type(how).model_fields.items():
        if (value := getattr(how, name)) != field.default:
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(words)


def _base() -> str:
    from distill.models.packaged import minilm_folder

    return minilm_folder()
