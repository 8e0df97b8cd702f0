"""Running scenarios: what is written, what a quick run changes, what is done already, and the command line."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from benchmarks import __main__ as command
from benchmarks.harness import running
from benchmarks.harness.results import FOLDER, read_result
from benchmarks.harness.running import RunSettings, run_all, run_scenario, without_places
from benchmarks.harness.scenario import Context, Outcome, Scenario
from distill.errors import PotstillError
from distill.progress import SilentReporter
from distill.settings import Settings


class CountSettings(Settings):
    """How far to count."""

    count: int = Field(2, ge=1)
    share: float = 0.5
    bundle: Path | None = None
    names: tuple[str, ...] = ()
    loud: bool = False


class Said(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def counted(settings: CountSettings, context: Context) -> Outcome:
    return Outcome([{"name": "row", "count": settings.count}], {"made_in": context.folder.name})


def scenario(name: str, run: Callable[[Any, Context], Outcome] = counted, *, by_hand: str = "") -> Scenario:
    return Scenario(
        name=name,
        summary="Count.",
        settings=CountSettings,
        run=run,
        figures=lambda result: {"count": sum(row["count"] for row in result["rows"])},
        table=lambda result: f"{len(result['rows'])} row",
        decided_by=("benchmarks/harness/running.py",),
        minutes=1,
        quick={"count": 1},
        by_hand=by_hand,
    )


def growing(settings: CountSettings, context: Context) -> Outcome:
    """Find one of three and save it; if loud, fail then."""
    found = Outcome([{"name": f"row {settings.count}", "count": 1}], {"missing": [f"row {n}" for n in (1, 2, 3)]})
    found.parts["missing"].remove(f"row {settings.count}")
    context.save(found)
    if settings.loud:
        raise PotstillError("killed")
    return found


def test_a_run_that_is_stopped_leaves_what_it_found_and_the_next_one_adds_to_it(tmp_path: Path) -> None:
    where = RunSettings(work=tmp_path / "work", out=tmp_path / "out")
    with pytest.raises(PotstillError, match="killed"):
        run_scenario(scenario("grow", growing), CountSettings(count=1, loud=True), where, reporter=SilentReporter())
    first = read_result("grow", folder=tmp_path / "out")
    assert ([row["name"] for row in first["rows"]], first["missing"]) == (["row 1"], ["row 2", "row 3"])
    run_scenario(scenario("grow", growing), CountSettings(count=3), where, reporter=SilentReporter())
    both = read_result("grow", folder=tmp_path / "out")
    assert ([row["name"] for row in both["rows"]], both["missing"]) == (["row 1", "row 3"], ["row 2"])
    assert both["figures"] == {"count": 2}
    assert both["rows"][0]["made"]["measured_on"] == first["measured_on"]


def test_a_run_writes_figures_settings_and_a_command_without_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, made = tmp_path / "student", tmp_path / "work" / "quality" / "narrow-0"
    for place in (bundle, made):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
    names = ("a b", f"{made}:int8", str(FOLDER / "demo.json"), str(tmp_path))
    settings = CountSettings(count=3, share=0.25, bundle=bundle, names=names, loud=True)
    where = RunSettings(work=tmp_path / "work", out=tmp_path / "out")
    path = run_scenario(scenario("count"), settings, where, reporter=SilentReporter())
    assert path == tmp_path / "out" / "count.json"
    result = read_result("count", folder=tmp_path / "out")
    named = "'a b' .results/quality/narrow-0:int8 benchmarks/results/demo.json FOLDER"
    assert result["command"] == f"python -m benchmarks count --count 3 --share 0.25 --bundle BUNDLE --names {named} --loud"
    assert (result["figures"], result["made_in"]) == ({"count": 3}, "count")
    assert result["bundles"] == dict.fromkeys(("student", "narrow-0"), hashlib.sha256(b"{}").hexdigest())
    assert "bundle" not in result["settings"]
    assert without_places(CountSettings(bundle=tmp_path / "set"))["bundle"] == "set"
    assert capsys.readouterr().out == "1 row\n"


def test_a_quick_run_is_small_and_keeps_everything_below_the_work_folder(tmp_path: Path) -> None:
    where = RunSettings(work=tmp_path / "work", out=tmp_path / "out", quick=True)
    path = run_scenario(scenario("count"), CountSettings(), where, reporter=SilentReporter())
    folder = tmp_path / "work" / "quick" / "results"
    assert path == folder / "count.json"
    assert read_result("count", folder=folder)["figures"] == {"count": 1}
    assert not (tmp_path / "out").exists()


def test_a_quick_run_leaves_what_a_flag_names(tmp_path: Path) -> None:
    where = RunSettings(work=tmp_path / "work", quick=True)
    run_scenario(scenario("count"), CountSettings(count=3), where, reporter=SilentReporter())
    assert read_result("count", folder=tmp_path / "work" / "quick" / "results")["figures"] == {"count": 3}


def test_all_scenarios_are_run_but_those_that_are_done_and_failures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(settings: CountSettings, context: Context) -> Outcome:
        raise PotstillError("there is nothing to count")

    several = [
        scenario("good"),
        scenario("bad", fails),
        scenario("elsewhere", by_hand="a folder"),
    ]
    monkeypatch.setattr(running, "scenarios", lambda: {each.name: each for each in several})
    where, first, second = RunSettings(work=tmp_path, quick=True), Said(), Said()
    assert run_all(where, reporter=first) == ["bad"]
    assert "bad failed: there is nothing to count" in first.lines
    assert "3 of 3  elsewhere: left out, it needs a folder" in first.lines
    assert run_all(where, only=("good",), reporter=second) == []
    assert second.lines == ["1 of 1  good: already done"]
    late = Said()
    assert run_all(where, most_min=0, reporter=late) == []
    assert late.lines[:2] == ["1 of 3  good: already done", "2 of 3  bad: left out, the 0 minutes are over"]


pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # main reads sys.argv


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run the command with some words and return its exit code; signals and logging of the tests stay as they are."""
    monkeypatch.setattr(command, "stop_by_leaving", lambda: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def run(*words: str) -> object:
        monkeypatch.setattr("sys.argv", ["benchmarks", *words])
        try:
            command.main()
        except SystemExit as exc:
            return exc.code
        return 0

    return run


def test_a_scenario_is_a_command_whose_flags_are_its_settings(
    main: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def run_scenario(*given: Any, reporter: Any) -> Path:
        seen.append(given)
        return tmp_path / "ops.json"

    monkeypatch.setattr(command, "run_scenario", run_scenario)
    assert main("ops", "--rounds", "3", "--quick", "--work", str(tmp_path)) == 0
    ((found, settings, run),) = seen
    assert (found.name, settings.rounds, run.quick, run.work) == ("ops", 3, True, tmp_path)
    assert settings.model_fields_set == {"rounds"}  # so that --quick knows what it may change
    assert capsys.readouterr().out == f"{tmp_path / 'ops.json'}\n"


def test_the_help_of_every_command_has_an_example() -> None:
    for name in command.app:
        if not name.startswith("-"):
            shown = command.app[name]
            assert f"Example: python -m benchmarks {name}" in f"{shown.help}{shown.help_epilogue}", name


def test_what_is_wrong_is_said_in_a_line_with_the_exit_code_of_its_kind(
    main: Callable[..., object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("ops", "--rounds", "none") == 2
    assert main("tea") == 2
    monkeypatch.setattr(command, "run_all", lambda run, only, most_min, reporter: ["ops", "demo"])
    capsys.readouterr()
    assert main("results", "--quick") == PotstillError("").exit_code
    assert "2 scenarios have no result: ops, demo" in capsys.readouterr().err


def test_everything_that_can_be_a_row_is_listed(main: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("--peers stock ") and "nothing more than the harness (installed)" in line for line in lines)
    assert any(line.startswith("--floors ") and "TF-IDF" in line for line in lines)
