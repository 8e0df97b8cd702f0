"""Saving the state of a training run between any two steps, so that a killed run resumes where it was.

One safetensors file holds everything that decides the rest of the run: weights, best weights, Adam's moments, the
parameters of the objective, and the progress. No random state: each step is seeded by its number. The file carries the
key of its run; a checkpoint with another key is not loaded, and is renamed instead of overwritten.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from distill.errors import StorageError
from distill.progress import Reporter, SilentReporter
from distill.storage import replacing, sweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """The figures of one pass over the training texts.

    Attributes:
        epoch: Its number, from 1.
        loss: Mean of the loss over its texts; in adapting, over its masked words.
        macro_f1: On the validation texts, after it; None where there are none.
        seconds: Duration without validation.
        texts_per_second: Training texts.
        terms: Mean of each term of the loss, by name, before it is weighted.
    """

    epoch: int
    loss: float
    macro_f1: float | None
    seconds: float
    texts_per_second: float
    terms: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return all figures as one flat row; the terms are called `loss_NAME`."""
        plain = {name: value for name, value in asdict(self).items() if name != "terms"}
        return plain | {f"loss_{name}": value for name, value in self.terms.items()}


@dataclass
class Partial:
    """Sums over the finished steps of the current epoch."""

    steps: int = 0
    texts: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    count: float = 0
    terms: dict[str, float] = field(default_factory=dict)
    term_texts: dict[str, int] = field(default_factory=dict)

    def add(self, *, texts: int, loss: float, terms: Mapping[str, float], count: float | None = None) -> None:
        """Add one step.

        Args:
            texts: Texts of its batch.
            loss: Mean over `count`.
            terms: Means over its texts; a term without texts is absent.
            count: Items that the loss is a mean over; None means the texts.
        """
        count = texts if count is None else count
        self.steps += 1
        self.texts += texts
        self.loss += loss * count
        self.count += count
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * texts
            self.term_texts[name] = self.term_texts.get(name, 0) + texts

    def closed(self, *, epoch: int, macro_f1: float | None) -> Epoch:
        """Return the epoch that these steps make up."""
        return Epoch(
            epoch=epoch,
            loss=self.loss / self.count,
            macro_f1=macro_f1,
            seconds=self.seconds,
            texts_per_second=self.texts / self.seconds,
            terms={name: total / self.term_texts[name] for name, total in self.terms.items()},
        )


@dataclass
class Progress:
    """The progress of a run: total steps, finished epochs, the current epoch, and the weights of the best epoch."""

    step: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    partial: Partial = field(default_factory=Partial)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation macro-F1, the first of equals; the last epoch where nothing is validated."""
        last = self.epochs[-1:]
        if last and last[0].macro_f1 is None:
            return last[0]
        return max(self.epochs, key=lambda epoch: (epoch.macro_f1, -epoch.epoch), default=None)

    @property
    def epochs_without_gain(self) -> int:
        """Number of epochs since the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch

    def close(self, *, macro_f1: float | None) -> Epoch:
        """End the current epoch and return it."""
        self.epochs.append(self.partial.closed(epoch=len(self.epochs) + 1, macro_f1=macro_f1))
        self.partial = Partial()
        return self.epochs[-1]

    def keep_best(self, weights: Mapping[str, Tensor]) -> None:
        """Copy these weights over the earlier best ones."""
        if self.best_weights:
            for name, tensor in weights.items():
                self.best_weights[name].copy_(tensor)
        else:
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}


@dataclass(frozen=True)
class Learner:
    """Everything that a training step updates."""

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer


class Checkpoint:
    """One file with the state of one run.

    Args:
        path: The file; None saves nothing.
        key: Identifies the run: a digest of everything that decides its weights.
        reporter: Told when another run's checkpoint is renamed.
    """

    def __init__(self, path: Path | None, *, key: str, reporter: Reporter | None = None) -> None:
        self._path = path
        self._key = key
        self._reporter = reporter or SilentReporter()

    def save(self, learner: Learner, progress: Progress) -> None:
        """Write the state; the earlier file stays until the new one is complete.

        Raises:
            StorageError: The file cannot be written.
        """
        if self._path is None:
            return
        self._keep_another_runs()
        tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in learner.objective.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in progress.best_weights.items()}
        for index, moments in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        said = {
            "key": self._key,
            "step": progress.step,
            "epochs": [asdict(epoch) for epoch in progress.epochs],
            "partial": asdict(progress.partial),
        }
        try:
            with replacing(self._path) as beside:
                safetensors.torch.save_file(_each_its_own(tensors), beside, metadata={"progress": json.dumps(said)})
        except safetensors.SafetensorError as exc:
            # safetensors writes the file itself and wraps the system's reason in a sentence of its own.
            reason = re.sub(r"^.*I/O error: |\s*\(os error \d+\)$", "", str(exc))
            raise StorageError(f"cannot write {self._path}: {reason}; free some space or choose another folder") from exc

    def restore(self, learner: Learner) -> Progress:
        """Load the state and return its progress; a new `Progress` when there is no state of this run."""
        if self._path is None or not self._path.is_file():
            return Progress()
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get("progress", "{}"))
                if said.get("key") != self._key:
                    return Progress()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        except safetensors.SafetensorError as exc:
            logger.warning("%s cannot be read (%s); the run starts from the beginning", self._path, exc)
            return Progress()
        learner.model.load_state_dict(_under("model.", tensors))
        learner.objective.load_state_dict(_under("objective.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
        return Progress(
            step=int(said["step"]),
            epochs=[Epoch(**epoch) for epoch in said["epochs"]],
            partial=Partial(**{"count": said["partial"]["texts"], **said["partial"]}),
            best_weights=_under("best.", tensors),
        )

    def remove(self) -> None:
        """Delete the file, and what killed runs left of its unfinished copies."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            sweep(self._path)

    def _keep_another_runs(self) -> None:
        """Rename the file if another run has written it, so that this one does not overwrite it."""
        found = _metadata(self._path) if self._path is not None and self._path.is_file() else None
        if self._path is None or found is None or found.get("key") == self._key:
            return
        aside = self._path.with_name(f"{self._path.name}.{str(found.get('key'))[:8]}")
        self._path.replace(aside)
        self._reporter.say(
            f"{self._path} belongs to a run with other settings or data and was renamed to {aside.name}; rename it back to "
            "resume that run, or delete it"
        )


def _metadata(path: Path) -> dict[str, Any] | None:
    """Return the key and the progress that a checkpoint holds; None where the file cannot be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("progress", "{}"))
    except safetensors.SafetensorError:
        return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU and contiguous; copied only where two names share memory, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        own[name] = value
    return own
