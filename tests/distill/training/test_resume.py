"""Training that is killed with SIGKILL and run again ends with the same bits.

One process imports torch once and forks a process for every run. Kills come at a step, in a write, or at a line of Python
code chosen by number, so that they do not depend on the speed of the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked off one process that has torch loaded")

PROGRAM = '''
import hashlib, json, os, random, signal, sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import sklearn.metrics  # loaded here, once, and not in every run
import torch

from distill.cli.bars import SilentReporter
from distill.settings import TrainingSettings
from distill.training.checkpoints import Checkpoint
from distill.training.loop import Examples, Lesson, train
from distill.training.processes import open_accelerator
from distill.losses.logits import HardLabels, SoftTargets
from distill.losses.objective import Objective, mixed
from distill.models.loading import load_pretrained

MODEL, FOLDER = sys.argv[1], Path(sys.argv[2])
EPOCHS, TEXTS, BATCH = 3, 40, 8  # 5 steps an epoch
torch.set_num_threads(1)  # a pool of threads would not survive the forks; each run starts its own
student = load_pretrained(MODEL, labels=("negative", "positive"), max_length=32, seed=0)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(SilentReporter):
    def __init__(self, at_step):
        self.at_step = at_step

    @contextmanager
    def task(self, title, total):
        done = 0
        def advance(count=1, **figures):
            nonlocal done
            done += count
            if done == self.at_step:
                die()
        yield advance


def learn(folder, *, every_s, at_step=0, mixed_precision="no"):
    """Train the tiny model, with dropout, and write down the weights and figures it ends with."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 20, draw.integers(3, 20)) for _ in range(TEXTS)]
    lessons = Examples(rows, draw.integers(0, 2, TEXTS), draw.normal(size=(TEXTS, 2)).astype(np.float32))
    lesson = Lesson(
        "student",
        examples=lessons,
        validation=Examples(rows[:16], lessons.label_ids[:16]),
        objective=Objective(mixed(soft=SoftTargets(temperature=2.0), hard=HardLabels(), soft_weight=0.5)),
        settings=TrainingSettings(
            epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-3, patience=9, dropout=0.1,
            checkpoint_every_s=every_s, mixed_precision=mixed_precision,
        ),
    )
    with open_accelerator("cpu", mixed_precision=mixed_precision) as accelerator:
        epochs = train(
            student,
            lesson,
            checkpoint=Checkpoint(folder / "state", key="this run"),
            reporter=Killer(at_step),
            accelerator=accelerator,
        )
    digest = hashlib.sha256()
    for name, tensor in sorted(student.model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    figures = [[epoch.loss, epoch.macro_f1, sorted(epoch.terms.items())] for epoch in epochs]
    (folder / "end").write_text(json.dumps([digest.hexdigest(), figures]))


def forked(work):
    """Do the work in a process of its own; return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def counting_lines(kill_at=None):
    """Count the lines that potstill's modules execute; at the line of that number, kill the process."""
    lines = [0]
    def count(frame, event, argument):
        if "distill" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] == kill_at:
                die()
        return count
    sys.settrace(count)
    return lines


def half_written(call):
    """Die in the middle of the call-th checkpoint: half of its bytes are on the disk."""
    whole, calls = safetensors.torch.save_file, 0
    def save_file(tensors, path, **rest):
        nonlocal calls
        calls += 1
        whole(tensors, path, **rest)
        if calls == call:
            os.truncate(path, os.path.getsize(path) // 2)
            die()
    safetensors.torch.save_file = save_file


def unflushed(call):
    """Die when the call-th checkpoint is written, before it is flushed and renamed."""
    calls, whole = 0, os.fsync
    def fsync(file):
        nonlocal calls
        calls += 1
        die() if calls == call else whole(file)
    os.fsync = fsync


def new(name):
    folder = FOLDER / name
    folder.mkdir()
    return folder


def end_of(folder):
    return json.loads((folder / "end").read_text())


results = {}


def killed_then_resumed(name, *breaking, every_s=0.0, at_step=0):
    folder = new(name)
    def work():
        for broken in breaking:
            broken()
        learn(folder, every_s=every_s, at_step=at_step)
    killed = forked(work)
    left = sorted(path.name for path in folder.iterdir())
    assert not forked(lambda: learn(folder, every_s=every_s))
    results[name] = {"killed": killed, "left": left, "end": end_of(folder)}


for name, precision in (("unbroken", "no"), ("unbroken in bf16", "bf16")):
    folder = new(name)
    forked(lambda: learn(folder, every_s=1e9, mixed_precision=precision))
    results[name] = {"end": end_of(folder)}
for step in (1, 4, 5, 6, 11, 15):
    killed_then_resumed(f"killed at step {step}", at_step=step)
for step in (3, 9):
    killed_then_resumed(f"killed at step {step}, saved between epochs", every_s=1e9, at_step=step)
for call in (1, 2, 6):
    killed_then_resumed(f"killed in write {call}", lambda: half_written(call))
killed_then_resumed("killed before the flush", lambda: unflushed(8))

def count_lines():
    lines = counting_lines()
    learn(counted, every_s=0.0)
    sys.settrace(None)
    (counted / "lines").write_text(str(lines[0]))


counted = new("counted")
forked(count_lines)
num_lines = int((counted / "lines").read_text())
folder, draw, kills = new("killed again and again"), random.Random(0), 0


def killed_at_a_line():
    counting_lines(kill_at=draw.randrange(num_lines // 2))  # a resumed run executes fewer lines
    learn(folder, every_s=0.0)


for _ in range(6):
    kills += forked(killed_at_a_line)
    draw.random()  # in this process, so that the next fork draws another line
forked(lambda: learn(folder, every_s=0.0))
results["killed again and again"] = {"kills": kills, "end": end_of(folder)}
print(json.dumps(results))
'''


@pytest.fixture(scope="module")
def ends(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return what every run ended with, by its name."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model), str(folder)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_at_any_step_ends_in_the_same_bits(ends: dict[str, dict[str, object]]) -> None:
    broken = {name: run for name, run in ends.items() if name.startswith("killed at step")}
    assert len(broken) == 8
    for name, run in broken.items():
        assert run["killed"], name
        assert run["end"] == ends["unbroken"]["end"], name


def test_a_run_killed_while_it_saves_ends_in_the_same_bits(ends: dict[str, dict[str, object]]) -> None:
    broken = {name: run for name, run in ends.items() if name.startswith(("killed in write", "killed before"))}
    assert len(broken) == 4
    for name, run in broken.items():
        assert run["killed"], name
        assert any(file.endswith(".tmp") for file in run["left"]), name  # type: ignore[attr-defined]
        assert run["end"] == ends["unbroken"]["end"], name


def test_a_run_killed_again_and_again_at_random_moments_ends_in_the_same_bits(ends: dict[str, dict[str, object]]) -> None:
    assert ends["killed again and again"]["kills"] >= 2
    assert ends["killed again and again"]["end"] == ends["unbroken"]["end"]


def test_another_precision_ends_with_other_bits(ends: dict[str, dict[str, object]]) -> None:
    assert ends["unbroken in bf16"]["end"] != ends["unbroken"]["end"]  # else equal bits would prove nothing
