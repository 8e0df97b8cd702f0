"""Saving a training run between epochs, so that an interrupted one goes on where it was.

One safetensors file holds everything that decides the rest of the run: weights, best weights, Adam's moments and
torch's random state. It carries a key of what it belongs to; another run's checkpoint is not taken.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from distill.storage import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training texts gave."""

    epoch: int
    loss: float
    macro_f1: float
    seconds: float
    texts_per_second: float


@dataclass
class Progress:
    """How far a run is: finished epochs, and the weights of the best one."""

    epochs: list[Epoch]
    best_weights: dict[str, Tensor]

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation macro-F1, the earlier of equals."""
        return max(self.epochs, key=lambda epoch: (epoch.macro_f1, -epoch.epoch), default=None)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch


class Checkpoint:
    """One file that holds the state of one run."""

    def __init__(self, path: Path | None, *, key: str) -> None:
        self._path = path
        self._key = key

    def save(self, *, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, progress: Progress) -> None:
        """Write the state; the earlier one stays until this one is whole."""
        if self._path is None:
            return
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in progress.best_weights.items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        tensors["random"] = torch.get_rng_state()
        said = {"key": self._key, "step": step, "epochs": [asdict(epoch) for epoch in progress.epochs]}
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_atomically(self._path, safetensors.torch.save(own, metadata={"progress": json.dumps(said)}))

    def restore(self, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, Progress] | None:
        """Put the state back and return (steps done, progress); None when there is no state of this very run."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get("progress", "{}"))
                if said.get("key") != self._key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        except safetensors.SafetensorError as exc:
            logger.warning("%s cannot be read (%s); the run starts from its beginning", self._path, exc)
            return None
        model.load_state_dict(_under("model.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        progress = Progress([Epoch(**epoch) for epoch in said["epochs"]], _under("best.", tensors))
        return int(said["step"]), progress

    def remove(self) -> None:
        """Delete the file; the run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
