"""Two processes that share each batch end where one does; killed in between, a run goes on with more of them, or fewer."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from launched import run_program
from tiny_task import tiny_texts, write_csv

from distill.bundle import Bundle
from distill.settings import TrainingSettings
from distill.training import processes
from distill.training.processes import mean_figures, open_accelerator
from distill.training.sealing import training_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked off one process that has torch loaded")

PROGRAM = '''
import json, os, signal, sys
from pathlib import Path

import sklearn.metrics
import torch
from launched import exit_codes
from transformers import BertForSequenceClassification

from distill.cli.main import main
import distill.training.distillation
from distill.training import loop

MODEL, TEACHER, TRAIN, FOLDER, PART = *sys.argv[1:4], Path(sys.argv[4]), sys.argv[5]
torch.set_num_threads(1)


def watched(until_step):
    """Write down which texts each step learns from; when as many steps are taken and saved, kill this process."""
    gradients, save = loop._gradients, loop._Run.save

    def noted(run, texts, **share):
        with (FOLDER / "learnt").open("a") as file:  # short lines, so that those of two processes do not mix
            file.write(json.dumps([run.checkpoint.path.parent.name, texts.tolist()]) + "\\n")
        return gradients(run, texts, **share)

    def saved(run):
        save(run)
        if run.progress.step == until_step:
            os.kill(os.getpid(), signal.SIGKILL)

    loop._gradients, loop._Run.save = noted, saved


def command(*arguments, processes, until_step=None, train=TRAIN):
    def work(rank):
        watched(until_step)
        main([*map(str, arguments), "--train", str(train), "--max-length", "32", "--device", "cpu", *COMMON, "--json"])

    wanted = 0 if until_step is None else -signal.SIGKILL
    assert exit_codes(work, processes=processes) == [wanted] * processes


# 108 texts to train with: in batches of 11 the shares are 6 and 5, in the last one 5 and 4; in batches of 107, 1 and 0.
COMMON = ["--epochs", "2", "--learning-rate", "1e-3", "--max-grad-norm", "0.5", "--dropout", "0", "--mixed-precision", "no"]
for processes in (2, 1) if PART == "unbroken" else ():
    command("teacher", "--model", MODEL, "--batch-size", 107, "--out", FOLDER / f"teacher-{processes}", processes=processes)
    command(
        "distill", TEACHER, "--num-layers", 1, "--batch-size", 11, "--out", FOLDER / f"student-{processes}", processes=processes
    )

# 10 steps an epoch: both are killed after the third of the second epoch.
for before, after in ((1, 2), (2, 1)) if PART == "resumed" else ():
    student = "distill", TEACHER, "--num-layers", 1, "--batch-size", 11, "--out", FOLDER / f"student-{before}-then-{after}"
    command(*student, "--checkpoint-every-s", 0, processes=before, until_step=13)
    command(*student, processes=after)

if PART == "resumed":
    teacher = "--teacher-logits-column", "scores", "--student", MODEL
    student = "distill", TEACHER, *teacher, "--num-layers", 1, "--batch-size", 11, "--control", "--out", FOLDER / "compared"
    command(*student, processes=2, train=FOLDER / "scored.jsonl")
'''


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where teachers and students of one and of two processes stand, with what was said in `said`."""
    folder = tmp_path_factory.mktemp("processes")
    train = write_csv(folder / "train.csv", tiny_texts(120, seed=2))
    done = run_program(PROGRAM, tiny_model, tiny_teacher.path, train, folder, "unbroken")
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def resumed(folder: Path, tiny_model: Path, tiny_teacher: Bundle) -> Path:
    """Return the same folder, where students stand that were killed and went on with another number of processes."""
    sides = {"negative": (1, -1), "positive": (-1, 1)}
    rows = [{"text": text, "label": label, "scores": sides[label]} for text, label in tiny_texts(120, seed=2)]
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_program(PROGRAM, tiny_model, tiny_teacher.path, folder / "train.csv", folder, "resumed")
    assert done.returncode == 0, done.stderr
    (folder / "said-later").write_text(done.stdout)
    return folder


@pytest.mark.parametrize("run", ["teacher-2", "student-2"])
def test_however_many_processes_end_where_one_does(run: str, folder: Path) -> None:
    require_end_of_one(run, folder)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["student-1-then-2", "student-2-then-1"])
def test_a_killed_run_that_goes_on_with_more_or_fewer_ends_there_too(run: str, resumed: Path) -> None:
    require_end_of_one(run, resumed)


def require_end_of_one(run: str, folder: Path) -> None:
    one, two = (Bundle.open(folder / name) for name in (f"{run.partition('-')[0]}-1", run))
    weights = [safetensors.torch.load_file(bundle.weights()) for bundle in (one, two)]
    for name, tensor in weights[0].items():
        if name.endswith("key.bias"):  # it moves all scores of a row alike, which softmax undoes: its gradient is noise
            continue
        np.testing.assert_allclose(weights[1][name], tensor, atol=2e-6, err_msg=name)
    for ours, theirs in zip(one.manifest.history, two.manifest.history, strict=True):
        assert {name for name in ours if name.startswith("loss_")} == {name for name in theirs if name.startswith("loss_")}
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["macro_f1"] == theirs["macro_f1"]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["student-1", "student-1-then-2", "student-2-then-1"])
def test_every_text_is_learnt_once_an_epoch_whoever_goes_on(run: str, resumed: Path) -> None:
    steps = [json.loads(line) for line in (resumed / "learnt").read_text().splitlines()]
    learnt = Counter(text for name, texts in steps if name == run for text in texts)
    assert learnt == dict.fromkeys(range(108), 2)  # two epochs


def test_the_weights_moved_by_more_than_the_tolerance(folder: Path, tiny_model: Path) -> None:
    before = safetensors.torch.load_file(tiny_model / "model.safetensors")
    after = safetensors.torch.load_file(Bundle.open(folder / "teacher-1").weights())
    name = "bert.encoder.layer.0.output.dense.weight"
    assert (after[name] - before[name]).abs().max() > 500 * 2e-6  # else it would hide everything


def test_one_process_speaks_for_all(folder: Path) -> None:
    said = [json.loads(line) for line in (folder / "said").read_text().splitlines()]
    assert [bundle["role"] for bundle in said] == ["teacher", "student", "teacher", "student"]


@pytest.mark.slow
def test_two_processes_train_a_student_and_its_control_and_one_says_how_they_compare(resumed: Path) -> None:
    *_, compared = [json.loads(line) for line in (resumed / "said-later").read_text().splitlines()]
    report = json.loads((resumed / "compared" / "report.json").read_text())
    assert compared == {"bundle": str(resumed / "compared"), **report}
    assert Bundle.open(resumed / "compared").manifest.lineage.ensemble[1] not in ("", "RecordedLogits")
    assert sorted(file.name for file in resumed.glob("compared/.*")) == []  # nothing of theirs is left


def test_a_run_that_nothing_launched_is_one_process() -> None:
    with open_accelerator("cpu") as accelerator:
        assert (accelerator.num_processes, accelerator.is_main_process, accelerator.device.type) == (1, True, "cpu")


def test_the_callers_accelerate_state_is_left_as_it_was() -> None:
    for state in (AcceleratorState, PartialState, GradientState):
        state._shared_state.clear()
    callers = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    with open_accelerator("cpu") as ours:
        assert ours.mixed_precision == "no"
        with open_accelerator("cpu", mixed_precision="bf16") as inner:
            assert inner.mixed_precision == "bf16"
        assert ours.mixed_precision == "no"
    assert callers.mixed_precision == AcceleratorState().mixed_precision == "bf16"
    assert callers.gradient_accumulation_steps == 4
    for state in (AcceleratorState, PartialState, GradientState):
        state._shared_state.clear()
    with open_accelerator("cpu"):
        pass
    assert not AcceleratorState._shared_state  # without a state before, there is none afterwards


def test_a_bundle_in_the_current_folder_has_its_logs_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student").mkdir()
    monkeypatch.chdir(tmp_path / "student")
    with training_run(".", TrainingSettings(device="cpu", mixed_precision="no"), None) as run:
        assert str(run.accelerator.logging_dir) == str(tmp_path / "student-logs")
        assert run.computed == {"device": "cpu", "mixed_precision": "no"}


def test_each_run_of_a_process_may_compute_in_numbers_of_its_own() -> None:
    for asked in ("no", "bf16", "no"):
        with open_accelerator("cpu", mixed_precision=asked) as accelerator:
            assert accelerator.mixed_precision == asked


def test_a_mean_over_processes_is_weighted_by_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    others = (0.25, {"loss": 4.0, "hard": 1.0})
    monkeypatch.setattr(processes, "gather_object", lambda own: [*own, others, (0.0, {})])
    with open_accelerator("cpu") as accelerator:
        assert mean_figures({"loss": 2.0}, accelerator, share=0.75) == {"loss": 2.5, "hard": 1.0}
