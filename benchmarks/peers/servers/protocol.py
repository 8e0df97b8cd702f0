"""What the scenario has to know of a server: its command line, its request for one text, and the label in its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """What a server is started with.

    Attributes:
        python: Interpreter of its environment.
        folder: For ours the bundle, for peers a folder with the stock int8 export.
        port: Where to listen, on 127.0.0.1.
        work: An empty folder of its own, also its working directory.
        setting: One of the peer's candidates.
    """

    python: Path
    folder: Path
    port: int
    work: Path
    setting: Setting


@dataclass(frozen=True)
class ServerPeer:
    """One server.

    Attributes:
        name: Name of its row.
        source: Where its settings come from.
        settings: Candidates; the fastest in a short try is the one that is measured.
        command: From what it is started with to its command line; may write files into `work`.
        path: Where it takes texts.
        body: From one text to the body of a request.
        label: From the body of an answer to the label.
        ready_path: A GET that answers 200 once it is ready.
        packages: Requirements of an environment of its own; none runs in the harness's.
        variables: Environment variables.
        has_tls: It expects TLS; its certificate is not checked.
    """

    name: str
    source: str
    settings: tuple[Setting, ...]
    command: Callable[[Start], list[str]]
    path: str
    body: Callable[[str], Any]
    label: Callable[[bytes], str]
    ready_path: str
    packages: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    has_tls: bool = False

    def request_body(self, text: str) -> bytes:
        """Return the body of a request for one text."""
        return json.dumps(self.body(text)).encode()


def best_label(choices: list[dict[str, Any]]) -> str:
    """Return the label with the highest score of `[{"label": …, "score": …}, …]`."""
    return str(max(choices, key=lambda choice: choice["score"])["label"])
