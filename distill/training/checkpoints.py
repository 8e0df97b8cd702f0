"""Saving a training run between any two steps, so that a killed one goes on where it was.

One safetensors file holds everything that decides the rest of the run: weights, best weights, Adam's moments, what the
objective has learned, and how far the run is. No random state: what a step draws depends on the seed and its number
alone. The file carries a key of what it belongs to; another run's checkpoint is not taken.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from distill.errors import StorageError
from distill.storage import replacing, sweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training texts gave.

    Attributes:
        epoch: Its number, from 1.
        loss: Mean over its texts of what is minimised.
        macro_f1: On the validation texts, after it.
        seconds: Without validation.
        texts_per_second: Training texts.
        terms: Mean of each part of the loss, by name, before it is weighted.
    """

    epoch: int
    loss: float
    macro_f1: float
    seconds: float
    texts_per_second: float
    terms: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return all of it as one flat table row; the terms are called `loss_NAME`."""
        plain = {name: value for name, value in asdict(self).items() if name != "terms"}
        return plain | {f"loss_{name}": value for name, value in self.terms.items()}


@dataclass
class Partial:
    """Sums over the steps of the epoch that is under way."""

    steps: int = 0
    texts: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    term_texts: dict[str, int] = field(default_factory=dict)

    def add(self, *, texts: int, loss: float, terms: Mapping[str, float]) -> None:
        """Count one step, whose figures are means over its texts; a term that it had no texts for is absent."""
        self.steps += 1
        self.texts += texts
        self.loss += loss * texts
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * texts
            self.term_texts[name] = self.term_texts.get(name, 0) + texts

    def closed(self, *, epoch: int, macro_f1: float) -> Epoch:
        """Return the epoch these steps make."""
        return Epoch(
            epoch=epoch,
            loss=self.loss / self.texts,
            macro_f1=macro_f1,
            seconds=self.seconds,
            texts_per_second=self.texts / self.seconds,
            terms={name: total / self.term_texts[name] for name, total in self.terms.items()},
        )


@dataclass
class Progress:
    """How far a run is: steps taken in all, finished epochs, the one under way, and the weights of the best."""

    step: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    partial: Partial = field(default_factory=Partial)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation macro-F1, the earlier of equals."""
        return max(self.epochs, key=lambda epoch: (epoch.macro_f1, -epoch.epoch), default=None)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch

    def close(self, *, macro_f1: float) -> Epoch:
        """End the epoch under way and return it."""
        self.epochs.append(self.partial.closed(epoch=len(self.epochs) + 1, macro_f1=macro_f1))
        self.partial = Partial()
        return self.epochs[-1]

    def keep_best(self, weights: Mapping[str, Tensor]) -> None:
        """Copy these weights, over the former best ones."""
        if self.best_weights:
            for name, tensor in weights.items():
                self.best_weights[name].copy_(tensor)
        else:
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}


@dataclass(frozen=True)
class Learner:
    """Everything that a step changes."""

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer


class Checkpoint:
    """One file that holds the state of one run."""

    def __init__(self, path: Path | None, *, key: str) -> None:
        self._path = path
        self._key = key

    def save(self, learner: Learner, progress: Progress) -> None:
        """Write the state; the earlier one stays until this one is whole."""
        if self._path is None:
            return
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
            # safetensors writes by itself and hands the system's reason on inside a sentence of its own
            reason = re.sub(r"^.*I/O error: |\s*\(os error \d+\)$", "", str(exc))
            raise StorageError(f"cannot write {self._path}: {reason}; free some space or choose another folder") from exc

    def restore(self, learner: Learner) -> Progress:
        """Put the state back and return how far it was; a new `Progress` when there is no state of this very run."""
        if self._path is None or not self._path.is_file():
            return Progress()
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get("progress", "{}"))
                if said.get("key") != self._key:
                    return Progress()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        except safetensors.SafetensorError as exc:
            logger.warning("%s cannot be read (%s); the run starts from its beginning", self._path, exc)
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
            partial=Partial(**said["partial"]),
            best_weights=_under("best.", tensors),
        )

    def remove(self) -> None:
        """Delete the file, and what kills left of others like it; the run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            sweep(self._path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU and contiguous; copies only where two names share one memory, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        own[name] = value
    return own
