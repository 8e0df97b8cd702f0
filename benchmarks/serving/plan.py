"""How much the scenario does, on what, and which pieces of it are done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from benchmarks.harness.pieces import Pieces
from benchmarks.peers.servers import OURS, SERVERS
from distill.data import Dataset
from distill.settings import Settings

PEERS = tuple(name for name in SERVERS if name != OURS)
Phase = Literal["generator", "compare", "saturate", "half_load", "overload", "reload", "soak"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Plan(Settings):
    """What is measured, and how much."""

    student: Path | None = Field(
        None, description="exported student with PyTorch weights; default: the slim one of the scenario quality"
    )
    peers: tuple[str, ...] = Field(
        PEERS, description="servers to compare with; one that cannot be installed is skipped, and the result says why"
    )
    phases: tuple[Phase, ...] = Field(PHASES, description="run only these phases; finished ones are kept in --work")
    rounds: int = Field(
        5, ge=1, description="number of rounds, each with new servers: of turns, at half load, and at --fixed-rate"
    )
    connections: int = Field(32, ge=1, description="connections, each of which sends its next request after the last answer")
    warmup_s: float = Field(2.0, gt=0, description="seconds of load before each measurement")
    turn_s: float = Field(5.0, gt=0, description="seconds per turn, and per tried setting and load")
    half_s: float = Field(20.0, gt=0, description="seconds of each round at half load and at --fixed-rate")
    fixed_rate: float = Field(1160.0, gt=0, description="requests per second at which the tail is measured, besides half load")
    overload_s: float = Field(60.0, gt=0, description="seconds of the overload")
    overload_connections: int = Field(1024, ge=1, description="connections of the overload")
    reloads: int = Field(10, ge=1, description="number of reloads under load")
    soak_s: float = Field(1800.0, gt=0, description="seconds of the long run")
    soak_rate: float = Field(25.0, gt=0, description="long run: requests per second, each of one or a few texts")
    soak_reload_s: float = Field(60.0, gt=0, description="long run: seconds between reloads")


QUICK = {
    "rounds": 2,
    "connections": 8,
    "warmup_s": 0.2,
    "turn_s": 0.5,
    "half_s": 1.0,
    "fixed_rate": 100.0,
    "overload_s": 1.5,
    "overload_connections": 128,
    "reloads": 2,
    "soak_s": 3.0,
    "soak_rate": 50.0,
    "soak_reload_s": 1.0,
    "peers": (),
}


@dataclass(frozen=True)
class Task:
    """What is served.

    Attributes:
        bundle: The student's folder, without what answering in int8 does not need.
        other: The same student with its fp32 graph beside the int8 one, to reload to.
        stock: Folder with the stock int8 export of the same weights.
        test: Labelled texts.
        texts: What servers are asked: the texts, those too long for the student cut to what it reads.
        predicted: What the bundle's own runtime says, a label a text; `other` answers by the same graph.
    """

    bundle: Path
    other: Path
    stock: Path
    test: Dataset
    texts: tuple[str, ...]
    predicted: tuple[str, ...]


class DatedPieces(Pieces):
    """Finished pieces that say when they were measured."""

    def put(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a piece, in the place of an earlier one, and return it."""
        return dict(super().put(name, {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **content}))
