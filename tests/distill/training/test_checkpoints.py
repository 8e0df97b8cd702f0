"""The checkpoint of a run: complete or the earlier one, and the sums of an unfinished epoch resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from distill.errors import StorageError
from distill.training.checkpoints import Checkpoint, Learner, Partial, Progress


def a_learner(size: int = 4) -> Learner:
    """Return a model of size² weights that has taken one step."""
    model, objective = nn.Linear(size, size), nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()])
    (model(torch.ones(size)).sum() + objective(torch.ones(2)).sum()).backward()
    optimizer.step()
    return Learner(model, objective, optimizer)


def everything(learner: Learner) -> list[torch.Tensor]:
    moments = [tensor for state in learner.optimizer.state.values() for _, tensor in sorted(state.items())]
    return [*learner.model.state_dict().values(), *learner.objective.state_dict().values(), *moments]


def test_everything_that_a_step_changes_is_restored(tmp_path: Path) -> None:
    saved, other = a_learner(), a_learner()
    progress = Progress(step=7, best_weights=dict(saved.model.state_dict()))
    progress.partial.add(texts=3, loss=0.1, terms={"soft": 0.3})
    checkpoint = Checkpoint(tmp_path / "state", key="")
    checkpoint.save(saved, progress)
    assert not all(map(torch.equal, everything(saved), everything(other)))
    found = checkpoint.restore(other)
    assert all(map(torch.equal, everything(saved), everything(other)))
    assert (found.step, found.epochs, found.partial) == (7, [], progress.partial)
    assert all(torch.equal(found.best_weights[name], tensor) for name, tensor in saved.model.state_dict().items())


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "state", key="").restore(a_learner()) == Progress()


def test_an_epochs_figures_are_means_over_texts_and_not_over_steps() -> None:
    partial = Partial(seconds=2.0)
    partial.add(texts=4, loss=1.0, terms={"soft": 1.0, "hard": 0.5})
    partial.add(texts=2, loss=4.0, terms={"soft": 4.0})  # none of the two has a label
    epoch = partial.closed(epoch=1, macro_f1=0.5)
    assert (epoch.loss, epoch.texts_per_second) == (2.0, 3.0)
    assert epoch.figures() == {
        "epoch": 1,
        "loss": 2.0,
        "macro_f1": 0.5,
        "seconds": 2.0,
        "texts_per_second": 3.0,
        "loss_soft": 2.0,
        "loss_hard": 0.5,
    }


def test_the_best_weights_are_a_copy_of_those_of_the_first_best_epoch() -> None:
    model, progress = nn.Linear(2, 2), Progress()
    for value, score in ((1.0, 0.5), (2.0, 0.7), (3.0, 0.7)):
        nn.init.constant_(model.weight, value)
        progress.partial = Partial(steps=1, texts=1, seconds=1.0, count=1)
        progress.close(macro_f1=score, weights=model.state_dict())
    assert progress.best_weights["weight"].unique().tolist() == [2.0]


def test_weights_under_two_names_are_saved_under_both(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    learner = Learner(model, nn.Identity(), torch.optim.AdamW(model.parameters()))
    Checkpoint(tmp_path / "state", key="").save(learner, Progress())
    saved = safetensors.torch.load_file(tmp_path / "state")
    assert torch.equal(saved["model.0.weight"], model[0].weight)
    assert torch.equal(saved["model.1.weight"], model[0].weight)


def test_removing_a_checkpoint_removes_its_unfinished_copies(tmp_path: Path) -> None:
    (tmp_path / ".state.01ab.tmp").write_bytes(b"half")
    (tmp_path / "state.txt").write_bytes(b"another's")
    checkpoint = Checkpoint(tmp_path / "state", key="")
    checkpoint.save(a_learner(), Progress())
    checkpoint.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["state.txt"]


def test_a_full_disk_is_a_storage_error_and_keeps_the_earlier_checkpoint(small_disk: Path) -> None:
    checkpoint = Checkpoint(small_disk / "state", key="")
    small = a_learner()
    checkpoint.save(small, Progress(step=1))
    with pytest.raises(StorageError, match=str(small_disk / "state")):
        checkpoint.save(a_learner(300), Progress(step=2))
    assert checkpoint.restore(small).step == 1
    assert [path.name for path in small_disk.iterdir()] == ["state"]


def test_saving_takes_little_memory(tmp_path: Path, peak_growth_bytes: Callable[[Callable[[], object]], int]) -> None:
    learner = a_learner(3000)  # 36 MB of weights, three times that with Adam's moments
    checkpoint = Checkpoint(tmp_path / "state", key="")
    assert peak_growth_bytes(lambda: checkpoint.save(learner, Progress())) < 30 * 2**20
    assert (tmp_path / "state").stat().st_size > 100 * 2**20
