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


class Command:
    """A running command; each text goes in on a line, each label comes out on one."""

    def __init__(self, command: str, labels: Sequence[str]) -> None:
        """Start it.

        Args:
            command: The command line; no shell reads it.
            labels: Names that it may answer.
        """
        self._columns = {label: column for column, label in enumerate(labels)}
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1
        )

    def one(self, text: str) -> Logits:
        """Return the answer to one text."""
        self._give([text])
        return self._take()

    def many(self, texts: Sequence[str]) -> Logits:
        """Return the answers to many texts; they are written while the answers are read, as a pipe would have it."""
        writer = threading.Thread(target=self._give, args=(texts,), daemon=True)
        writer.start()
        answers = [self._take() for _ in texts]
        writer.join()
        return np.array(answers)

    def _give(self, texts: Sequence[str]) -> None:
        given = cast(IO[str], self.process.stdin)  # it is flushed after each line
        with suppress(BrokenPipeError):  # it has ended; reading its answer says with which code
            for text in texts:
                given.write(" ".join(text.split()) + "\n")  # a text is a line: its own line ends become spaces

    def _take(self) -> Logits:
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            raise ValueError(f"the command ended with code {self.process.wait()} before it had answered every text")
        label = line.strip()
        if label not in self._columns:
            raise ValueError(f"the command wrote {label[:60]!r}, wanted one of {', '.join(self._columns)} a line")
        return np.eye(len(self._columns))[self._columns[label]]


def open_peer(job: Job) -> Peer:
    """Start the command."""
    command = Command(job.options["command"], job.labels)
    return Peer(
        one=command.one,
        many=command.many,
        settings={"command": job.options["command"]},
        source="given with --external",
        gives="labels",
        processes=(command.process.pid,),
    )
