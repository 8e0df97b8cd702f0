"""A command of anyone's that reads texts on stdin, one a line, and writes the label of each on a line of its own."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, cast

import numpy as np

from export.measure.protocol import Job, Logits, Peer


def open_peer(job: Job) -> Peer:
    """Start the command; no shell reads it."""
    command = job.options["command"]
    process = subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1
    )
    given, taken = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def give(texts: Sequence[str]) -> None:
        with suppress(BrokenPipeError):  # it has ended; reading its answer says with which code
            given.writelines(f"{' '.join(text.split())}\n" for text in texts)  # a text's own line ends become spaces

    def take() -> Logits:
        line = taken.readline()
        if not line:
            raise ValueError(f"the command ended with code {process.wait()} before it had answered every text")
        if line.strip() not in job.labels:
            raise ValueError(f"the command wrote {line.strip()[:60]!r}, wanted one of {', '.join(job.labels)} a line")
        return np.eye(len(job.labels))[job.labels.index(line.strip())]

    def one(text: str) -> Logits:
        give([text])
        return take()

    def many(texts: Sequence[str]) -> Logits:
        # Texts are written while the answers are read, as a pipe would have it; the last answer is there after the last text.
        threading.Thread(target=give, args=(texts,), daemon=True).start()
        return np.array([take() for _ in texts])

    return Peer(one, many, {"command": command}, "given with --external", gives="labels", processes=(process.pid,))
