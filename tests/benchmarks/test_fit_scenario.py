"""The fit scenario: its rows on the tiny task, resuming, and the minutes of a clone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_task import tiny_texts, write_csv
from waiting import wait_until

from benchmarks.fitting.clone import clone_row
from benchmarks.fitting.figures import fit_figures, missing_of
from benchmarks.fitting.foreign import ForeignSet
from benchmarks.harness.pieces import Rows
from benchmarks.scenarios.fit import COMMITTED, Study, run_fit
from distill.bundle import Bundle
from distill.data.releases import Release
from distill.errors import PotstillError, SettingsError
from distill.progress import SilentReporter
from distill.settings import DataSettings
from export.demo import Profile
from export.settings import FitSettings

QUIET = SilentReporter()


def repository(folder: Path, makefile: str) -> Path:
    folder.mkdir()
    (folder / "Makefile").write_text(makefile)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def test_a_clone_is_installed_before_its_demo_runs(tmp_path: Path) -> None:
    install = "\t@test ! -e .venv && mkdir .venv && touch $@"
    demo = "\t@test -e .venv/.installed-demo && mkdir demo && echo $$POTSTILL_CACHE > demo/fit.json"
    root = repository(tmp_path / "root", f".venv/.installed-demo:\n{install}\ndemo:\n{demo}\n")
    (root / ".venv").mkdir()  # what is not committed is not in the clone
    row = clone_row(root, kept=tmp_path / "kept", reporter=QUIET)
    cache = Path((tmp_path / "kept" / "fit.json").read_text().strip())  # of its own, outside the clone
    assert (cache.name, cache.parent.name.startswith("potstill-clone-")) == ("cache", True)
    assert row["minutes"].keys() == {"install", "demo"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    assert row["commit"] == head.stdout.strip()


def test_a_step_that_fails_in_a_clone_is_reported_with_its_words(tmp_path: Path) -> None:
    root = repository(tmp_path / "root", ".venv/.installed-demo:\n\t@echo no such torch >&2; exit 1\n")
    with pytest.raises(PotstillError, match=r"`make .venv/.installed-demo` in a new clone failed: .*no such torch"):
        clone_row(root, kept=tmp_path / "kept", reporter=QUIET)


KILLED = """
from pathlib import Path
from benchmarks.fitting.clone import clone_row
from distill.progress import SilentReporter
from export.measure.children import stop_by_leaving
stop_by_leaving()
clone_row(Path({root!r}), kept=Path({kept!r}), reporter=SilentReporter())
"""


def test_a_clone_that_is_stopped_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    # What `make` starts goes on when only `make` is killed, and writes its folder anew.
    writing = f"\t@touch {tmp_path}/begun; while true; do mkdir -p $(CURDIR)/more; done"
    root, scratch = repository(tmp_path / "root", f".venv/.installed-demo:\n{writing}\n"), tmp_path / "scratch"
    scratch.mkdir()
    code = KILLED.format(root=str(root), kept=str(tmp_path / "kept"))
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)}) as process:
        wait_until((tmp_path / "begun").exists)
        assert list(scratch.iterdir())
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(scratch.iterdir())


def test_unknown_parts_and_sets_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'speed'; there are clone, quick, demo, regret, foreign"):
        run_fit(tmp_path, Rows(tmp_path), parts=("speed",), reporter=QUIET)
    with pytest.raises(SettingsError, match="'imdb'; there are drugs, topics"):
        COMMITTED.of_sets(("imdb",), "quick")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("short_fits")
def test_every_part_has_a_row_and_a_second_run_makes_none(
    tiny_teacher: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_csv(tmp_path / "train.csv", tiny_texts(400))
    test = write_csv(tmp_path / "test.csv", tiny_texts(100, seed=1))
    release = Release("tiny", "1.0", "tiny-1.0-py3-none-any.whl", "", "1 kB")
    monkeypatch.setattr(Release, "kept", lambda self: train.read_bytes())
    tiny = ForeignSet("good or bad", release, "", "none", lambda content, inside: {"train.csv": content})
    static = FitSettings(effort="quick", recipes=("static",))
    study = Study(
        demo=Profile(DataSettings(train=(str(train),), test=str(test)), (), static),
        teacher=str(tiny_teacher.path),
        regret_recipes=("3-layers", "2-layers", "1-layer", "static"),
        foreign={"tiny": tiny},
        foreign_settings=static,
    )
    parts, rows = ("quick", "demo", "regret", "foreign"), Rows(tmp_path / "work" / "rows")
    made = run_fit(tmp_path / "work", rows, parts=parts, seeds=(0,), study=study, reporter=QUIET)
    by_name = {row["name"]: row for row in made}
    assert by_name.keys() == {"quick", "demo-0", "halved-0", "regret-0", "foreign-tiny"}
    assert not [row for row in made if "failed" in row]
    assert (tmp_path / "demo" / "report.json").is_file()  # where the scenario `demo` finds it done
    demo, halved, regret = by_name["demo-0"], by_name["halved-0"], by_name["regret-0"]
    # Four recipes: two of them are stopped, and only then trained in full.
    assert len([name for name in halved["halved_s"] if name.startswith("quarter/")]) == 4
    assert set(regret["full_s"]) - set(halved["halved_s"])
    assert not [name for name in regret["full_s"] if name.startswith("quarter/")]
    assert regret["halved"] == halved["student"]
    assert demo["student"]["low"] <= demo["student"]["value"] <= demo["student"]["high"]
    figures = fit_figures(made)
    assert figures["retention"] == pytest.approx(demo["student"]["value"] / demo["teacher"]["value"], abs=1e-5)
    assert missing_of(made)[:2] == ["clone", "demo-1"]
    again = run_fit(tmp_path / "work", rows, parts=parts, seeds=(0,), study=study, reporter=QUIET)
    assert again == made
