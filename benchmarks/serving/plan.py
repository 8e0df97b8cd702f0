"""How much the scenario does, on what, and which pieces of it are done already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.servers.protocol import ServerPeer
from distill.storage import write_atomically


@dataclass(frozen=True)
class Plan:
    """How much is measured; names end in their unit.

    Attributes:
        rounds: Rounds; in each, every server takes its turn.
        connections: Connections of the closed loop.
        settings: Candidate settings that a peer may try, at most.
        try_s: Length of a try.
        warmup_s: Load before each that is measured.
        turn_s: Length of a turn.
        half_rounds: Rounds at half load.
        half_s: Length of each.
        overload_s: Length of the overload.
        overload_connections: Connections it comes over.
        reloads: Reloads under load.
        soak_s: Length of the soak.
        soak_rate: Its requests a second, of one to several texts.
    """

    rounds: int = 5
    connections: int = 32
    settings: int = 9
    try_s: float = 3.0
    warmup_s: float = 2.0
    turn_s: float = 5.0
    half_rounds: int = 4
    half_s: float = 15.0
    overload_s: float = 60.0
    overload_connections: int = 1024
    reloads: int = 10
    soak_s: float = 1800.0
    soak_rate: float = 25.0


QUICK = Plan(
    rounds=2,
    connections=8,
    settings=1,
    try_s=0.5,
    warmup_s=0.2,
    turn_s=0.5,
    half_rounds=2,
    half_s=1.0,
    overload_s=1.5,
    overload_connections=128,
    reloads=2,
    soak_s=3.0,
    soak_rate=50.0,
)


@dataclass(frozen=True)
class Task:
    """What is served.

    Attributes:
        bundle: The student's folder, without what answering in int8 does not need.
        other: The same student with its fp32 graph alone, to reload to.
        stock: Folder with the stock int8 export of the same weights.
        texts: Test texts.
        cut_texts: The same, those too long for the student cut to what it reads.
        label_ids: Their labels, shape (texts,).
        labels: Label names.
        predicted: What the bundle's own runtime says, a label a text.
        predicted_other: What that of `other` says.
    """

    bundle: Path
    other: Path
    stock: Path
    texts: tuple[str, ...]
    cut_texts: tuple[str, ...]
    label_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    predicted_other: tuple[str, ...]

    def folder_of(self, peer: ServerPeer) -> Path:
        """Return what a server serves: the bundle for ours, the stock export for a peer."""
        return self.bundle if peer.environment is None else self.stock

    def texts_for(self, peer: ServerPeer) -> tuple[str, ...]:
        """Return the texts as a server can take them."""
        return self.texts if peer.cuts_texts else self.cut_texts


class Pieces:
    """Finished pieces, a JSON file each in a folder; a piece that is there is not measured again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, name: str) -> dict[str, Any] | None:
        """Return a piece, or None."""
        path = self._folder / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def get(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a piece, measured now unless it is there."""
        if found := self.find(name):
            return found
        return self.put(name, measure())

    def put(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a piece, in the place of an earlier one."""
        piece = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **content}
        write_atomically(self._folder / f"{name}.json", json.dumps(piece) + "\n")
        return piece
