"""Ctrl-C and kill in every stage: one line, exit code 130, no incomplete file is used, and the same command resumes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes")

Run = Callable[..., Outcome]
ROOT = Path(__file__).parents[1]
# The command with progress after every step instead of every ten seconds. A test run in the background of a shell inherits
# an ignored SIGINT, so the default handler is set again.
SCRIPT = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "import distill.cli.bars\n"
    "distill.progress.LineReporter.__init__.__kwdefaults__['interval_s'] = 0.0\n"
    "from distill.cli.main import main\n"
    "main()"
)
EPOCHS = 12
END_WITHIN_S = 20.0
LONG = ("--epochs", EPOCHS, "--patience", EPOCHS, "--batch-size", 8, "--learning-rate", 1e-3)


def interrupted(
    *arguments: object,
    when: str,
    on: Literal["stdout", "stderr"] = "stderr",
    by: signal.Signals = signal.SIGINT,
    after_s: float = 0.0,
) -> Outcome:
    """Run the command in a new process and, once a line matches `when`, signal its process group, as a terminal does.

    A process that does not end soon is killed, which its exit code shows.
    """
    with subprocess.Popen(
        [sys.executable, "-u", "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE if on == "stdout" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        watched = process.stdout if on == "stdout" else process.stderr
        assert watched is not None
        lines = []
        for line in watched:
            lines.append(line)
            if re.search(when, line):
                time.sleep(after_s)
                os.killpg(process.pid, by)
                break
        else:
            pytest.fail(f"the command ended without a line that matches {when!r}: {''.join(lines)} {process.stderr.read()}")
        late = threading.Timer(END_WITHIN_S, process.kill)
        late.start()
        rest = watched.read()
        err = process.stderr.read() if on == "stdout" else "".join(lines) + rest
        process.wait()
        late.cancel()
    return Outcome(process.returncode, "", err)


def require_quiet_end(done: Outcome) -> None:
    assert done.code == 130, done.err
    assert done.complaint.startswith("interrupted")


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("interrupt") / "train.csv", tiny_texts(160, seed=2))


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that takes a while to label."""
    return write_csv(tmp_path_factory.mktemp("interrupt") / "much.csv", 20_000 * tiny_texts(2))


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_teacher_resumes_after_its_last_complete_epoch(
    by: signal.Signals, potstill: Run, tiny_model: Path, train: Path, tmp_path: Path
) -> None:
    out = tmp_path / "teacher"
    command = ("teacher", "--model", tiny_model, "--train", train, "--out", out, "--max-length", 32, *LONG)
    done = interrupted(*command, when=r"teacher: epoch 2\b", by=by)
    if by == signal.SIGINT:
        require_quiet_end(done)
    assert potstill("inspect", out).code == 3
    again = potstill(*command)
    assert again.code == 0
    (resumed_after,) = map(int, re.findall(r"after epoch (\d+)", again.err))
    assert 2 <= resumed_after < EPOCHS
    assert not re.search(rf": epoch {resumed_after}\b", again.err)
    bundle = Bundle.open(out)
    assert [epoch["epoch"] for epoch in bundle.manifest.history] == [*range(1, EPOCHS + 1)]
    assert set(listing(out)) == {*bundle.manifest.files, "manifest.json"}


@pytest.mark.slow
def test_a_student_resumes_after_its_last_complete_epoch(
    potstill: Run, tiny_teacher: Bundle, train: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    command = ("distill", tiny_teacher.path, "--train", train, "--out", out, "--num-layers", 2, *LONG)
    require_quiet_end(interrupted(*command, when=r"student: epoch 1\b"))
    assert potstill("inspect", out).code == 3
    again = potstill(*command)
    assert again.code == 0
    assert re.search(r"after epoch \d+", again.err)
    assert re.search(r"\b144 texts\b", again.err)  # their answers are stored
    assert Bundle.open(out).manifest.role == "student"


def test_an_interrupted_teacher_leaves_the_earlier_bundle(
    tiny_model: Path, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], train: Path
) -> None:
    bundle = copied(tiny_student)
    before = listing(bundle.path)
    command = ("teacher", "--model", tiny_model, "--train", train, "--out", bundle.path, "--max-length", 32, *LONG)
    require_quiet_end(interrupted(*command, when=r"teacher: epoch 1\b"))
    after = listing(bundle.path)
    assert {name: after[name] for name in before} == before
    Bundle.open(bundle.path)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["fp32 graph", "quantizing"])
def test_an_interrupted_export_leaves_the_bundle_and_runs_again(
    when: str, potstill: Run, tiny_unexported: Bundle, copied: Callable[[Bundle], Bundle], tiny_csv: Path
) -> None:
    bundle = copied(tiny_unexported)
    before = listing(bundle.path)
    command = ("export", bundle.path, "--validation", tiny_csv)
    require_quiet_end(interrupted(*command, when=when))
    assert listing(bundle.path) == before
    if when == "fp32 graph":
        assert potstill(*command).code == 0
        assert Bundle.open(bundle.path).manifest.precisions == ("fp32", "int8")


def test_interrupted_measuring_changes_nothing(tiny_student: Bundle, copied: Callable[[Bundle], Bundle], much: Path) -> None:
    bundle = copied(tiny_student)
    before = listing(bundle.path)
    require_quiet_end(interrupted("eval", bundle.path, "--test", much, when="quality: 9/"))
    assert listing(bundle.path) == before


@pytest.mark.parametrize(("when", "after_s"), [("latency: 1/", 0.0), ("throughput: 3/3", 0.2)])
def test_an_interrupted_bench_keeps_no_result_and_ends_at_once(
    when: str, after_s: float, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], tiny_csv: Path
) -> None:
    bundle = copied(tiny_student)
    before = listing(bundle.path)
    quick = ("--rounds", 50, "--texts-per-round", 5, "--settle-s", 0.1, "--throughput-rounds", 3, "--limit", 8)
    # After the throughput come processes of their own; a moment later the first of them is waited for.
    require_quiet_end(interrupted("bench", bundle.path, "--test", tiny_csv, *quick, when=when, after_s=after_s))
    assert listing(bundle.path) == before


def test_interrupted_labelling_is_one_line(tiny_student: Bundle, much: Path) -> None:
    done = interrupted("predict", tiny_student.path, "--input", much, when="\t", on="stdout")
    require_quiet_end(done)
    assert len(done.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fit_that_is_killed_in_every_stage_goes_on(potstill: Run, tiny_teacher: Bundle, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipes = ("--effort", "quick", "--recipes", "2-layers", "static")
    command = ("fit", "--teacher", tiny_teacher.path, "--train", train, "--out", out, *recipes)
    killed_at = {
        "weighing": r"weighing untrained students: 1/2",
        "students": r"student: epoch 2\b",
        "graphs": r"export: static/int4",
        "choice": r"6 of 8  choice",
        "control": r"7 of 8  control",
        "measuring": r"8 of 8  measuring",
    }
    for stage, when in killed_at.items():
        done = interrupted(*command, when=when, by=signal.SIGKILL)
        assert done.code == -signal.SIGKILL, stage
        assert not (out / "report.json").exists(), stage
        for manifest in out.rglob("manifest.json"):
            Bundle.open(manifest.parent)  # what has a manifest is whole
    last = potstill(*command)
    assert last.code == 0, last.err
    assert ": training" not in last.err  # all that was left is measuring
    assert Bundle.open(out / "student").manifest.precisions == ("fp32", "int8")
