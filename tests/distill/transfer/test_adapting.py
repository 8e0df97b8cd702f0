"""Adapting an encoder runs in the one training loop: it resumes after kill -9, and refuses a loss that is not finite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.data import Splits
from distill.errors import GateError, SettingsError
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.training.origin import Origin

PROGRAM = '''
import json, os, signal, sys
from contextlib import contextmanager
from pathlib import Path

import torch

from distill.data import load_splits
from distill.progress import SilentReporter
from distill.settings import DataSettings
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.training.origin import Origin

MODEL, DATA, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
torch.set_num_threads(1)  # a pool of threads would not survive the forks
splits = load_splits(DataSettings(train=(DATA,)))
train, validation = splits.train.take(range(24)), splits.validation.take(range(8))


class Killer(SilentReporter):
    def __init__(self, title, at_step):
        self.at, self.lines = (title, at_step), []

    def say(self, text):
        self.lines.append(text)

    @contextmanager
    def task(self, title, total):
        done = 0
        def advance(count=1, **figures):
            nonlocal done
            done += count
            if (title, done) == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance


def teach(name, title="", at_step=0):
    """Adapt and fine-tune in a process of its own; return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            killer = Killer(title, at_step)
            settings = TeacherSettings(
                epochs=1, max_length=32, adapt_epochs=2, adapt_learning_rate=3e-3, batch_size=8, checkpoint_every_s=0
            )
            bundle = fit_teacher(
                MODEL, train=train, validation=validation, out=FOLDER / name, settings=settings,
                origin=Origin(adapt_texts=splits.train.texts[24:64]), reporter=killer,
            )
            end = {"weights": bundle.manifest.files["model.safetensors"].sha256, "lines": killer.lines}
            end["left"] = sorted(path.name for path in (FOLDER / name).glob(".*"))
            (FOLDER / f"{name}.json").write_text(json.dumps(end))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


killed = [teach("unbroken")]
for name, title, step in (("adapting", "adapting", 7), ("tuning", "teacher", 2)):
    killed += [teach(name, title, step), teach(name)]
print(json.dumps([killed, *(json.loads((FOLDER / f"{name}.json").read_text()) for name in ("unbroken", "adapting", "tuning"))]))
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked off one process that has torch loaded")
def test_adapting_killed_at_any_step_ends_in_the_same_weights(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny_model), str(tiny_csv), str(tmp_path)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, unbroken, adapting, tuning = json.loads(done.stdout.splitlines()[-1])
    assert killed == [False, True, False, True, False]
    # 40 texts in batches of 8 are 5 steps an epoch: killed in the second one, it does not repeat the first.
    assert any(line.startswith("adapting: resuming after epoch 1 and") for line in adapting["lines"])
    assert not any(line.startswith("adapting: epoch 1") for line in adapting["lines"])
    # Killed in fine-tuning, it does not adapt again.
    assert not any(line.startswith("adapting: epoch") for line in tuning["lines"])
    assert unbroken["weights"] == adapting["weights"] == tuning["weights"]
    assert unbroken["left"] == adapting["left"] == tuning["left"] == []


def test_adapting_stops_when_the_loss_is_not_finite(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = TeacherSettings(epochs=1, max_length=32, adapt_learning_rate=1e30, batch_size=8)
    with pytest.raises(GateError, match=r"adapting.*1e\+30"):
        fit_teacher(
            str(tiny_model),
            train=tiny_splits.train.take(range(16)),
            validation=tiny_splits.validation,
            out=tmp_path,
            settings=settings,
            origin=Origin(adapt_texts=tiny_splits.train.texts[:64]),
        )


def test_texts_without_a_word_cannot_be_adapted_to(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    part = replace(tiny_splits.validation, label_ids=np.array(tiny_splits.validation.label_ids))
    with pytest.raises(SettingsError, match="--adapt"):
        fit_teacher(
            str(tiny_model),
            train=part,
            validation=part,
            out=tmp_path,
            settings=TeacherSettings(max_length=32),
            origin=Origin(adapt_texts=["   "]),
        )
