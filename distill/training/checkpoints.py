"""Saving the state of a training run between any two steps, so that a killed run resumes where it was.

One safetensors file holds everything that decides the rest of the run: weights, best weights, Adam's moments, the
parameters of the objective, and the progress. It holds no random state, because each step is seeded by its number. The file
contains the key of its run; a checkpoint with another key is not loaded, and is renamed instead of overwritten.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
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
        loss: Mean loss over the texts; while adapting, over the masked words.
        macro_f1: Macro-F1 on the validation texts after the epoch; None without validation texts.
        seconds: Duration without validation.
        texts_per_second: Training texts per second.
        terms: Mean of each loss term by name, unweighted.
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
        """The first epoch with the highest validation macro-F1; without validation texts, the last epoch."""
        return max(self.epochs, key=_rank, default=None)

    @property
    def epochs_without_gain(self) -> int:
        """Number of epochs since the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch

    def close(self, *, macro_f1: float | None, weights: Mapping[str, Tensor]) -> Epoch:
        """End the current epoch and return it; copy its weights if it is the best so far."""
        epoch = self.partial.closed(epoch=len(self.epochs) + 1, macro_f1=macro_f1)
        self.epochs.append(epoch)
        self.partial = Partial()
        if self.best is epoch:
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return epoch


def _rank(epoch: Epoch) -> tuple[float, int]:
    return (0.0, epoch.epoch) if epoch.macro_f1 is None else (epoch.macro_f1, -epoch.epoch)


@dataclass(frozen=True)
class Learner:
    """Everything that a training step updates."""

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class Checkpoint:
    """One file with the state of one run.

    Attributes:
        path: The file.
        key: Identifies the run: a digest of everything that decides its weights.
        reporter: Told when another run's checkpoint is renamed.
    """

    path: Path
    key: str
    reporter: Reporter = field(default_factory=SilentReporter)

    def save(self, learner: Learner, progress: Progress) -> None:
        """Write the state; the earlier file stays until the new one is complete.

        Raises:
            StorageError: The file cannot be written.
        """
        self._rename_another_runs()
        groups = {
            "model": learner.model.state_dict(),
            "objective": learner.objective.state_dict(),
            "best": progress.best_weights,
            **{f"optimizer.{index}": moments for index, moments in learner.optimizer.state_dict()["state"].items()},
        }
        tensors = {f"{group}.{name}": tensor for group, members in groups.items() for name, tensor in members.items()}
        metadata = {
            "key": self.key,
            "step": progress.step,
            "epochs": [asdict(epoch) for epoch in progress.epochs],
            "partial": asdict(progress.partial),
        }
        try:
            with replacing(self.path) as beside:
                safetensors.torch.save_file(_unshared(tensors), beside, metadata={"progress": json.dumps(metadata)})
        except safetensors.SafetensorError as exc:
            # safetensors writes the file itself and wraps the system's reason in a sentence of its own.
            reason = re.sub(r"^.*I/O error: |\s*\(os error \d+\)$", "", str(exc))
            raise StorageError(f"cannot write {self.path}: {reason}; free some space or choose another folder") from exc

    def restore(self, learner: Learner) -> Progress:
        """Load the state and return its progress; a new `Progress` if there is no state of this run."""
        saved = self._metadata()
        if saved.get("key") != self.key:
            return Progress()
        tensors = safetensors.torch.load_file(self.path)
        learner.model.load_state_dict(_under("model.", tensors))
        learner.objective.load_state_dict(_under("objective.", tensors))
        state: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            state[int(index)][moment] = tensor
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
        return Progress(
            step=int(saved["step"]),
            epochs=[Epoch(**epoch) for epoch in saved["epochs"]],
            partial=Partial(**{"count": saved["partial"]["texts"], **saved["partial"]}),
            best_weights=_under("best.", tensors),
        )

    def remove(self) -> None:
        """Delete the file, and the unfinished copies of killed runs."""
        self.path.unlink(missing_ok=True)
        sweep(self.path)

    def _metadata(self) -> dict[str, Any]:
        """Return the key and the progress in the file; empty if there is no file or it cannot be read."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                return json.loads((file.metadata() or {}).get("progress", '{"key": null}'))
        except FileNotFoundError:
            return {}
        except safetensors.SafetensorError as exc:
            logger.warning("%s cannot be read (%s) and is ignored", self.path, exc)
            return {}

    def _rename_another_runs(self) -> None:
        """Rename the file if another run has written it, so that this one does not overwrite it."""
        key = self._metadata().get("key", self.key)
        if key != self.key:
            renamed = self.path.with_name(f"{self.path.name}.{str(key)[:8]}")
            self.path.replace(renamed)
            self.reporter.say(
                f"{self.path} belongs to a run with other settings or data and was renamed to {renamed.name}; rename it back "
                "to resume that run, or delete it"
            )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU and contiguous; copied only where two names share memory, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        own[name] = value.clone() if value.numel() and memory in seen else value
        seen.add(memory)
    return own
