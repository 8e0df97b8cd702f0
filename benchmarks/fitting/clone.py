"""`make demo` in a new clone, its install included, timed as a user would with a watch."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from distill.errors import PotstillError
from distill.progress import Reporter
from export.measure.children import run_child

INSTALL: Final = ".venv/.installed-demo"


def clone_row(root: Path, *, kept: Path, reporter: Reporter) -> dict[str, Any]:
    """Clone a repository, install it and run its demo; return the minutes of each.

    What is not committed is not in a clone. pip uses its own cache, as it does for a user who has installed torch before;
    potstill finds no answers of an earlier teacher.

    Args:
        root: The repository.
        kept: Gets a copy of what the demo made, unless it is there already.
        reporter: Told of each step.

    Raises:
        PotstillError: A step failed; the message has the end of what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="potstill-clone-") as folder:
        clone = Path(folder, "clone")
        _run(["git", "clone", "--quiet", str(root), str(clone)], Path(folder), reporter)
        commit = _run(["git", "rev-parse", "HEAD"], clone, reporter).strip()
        minutes = {}
        for name, target in (("install", INSTALL), ("demo", "demo")):
            started = time.monotonic()
            _run(["make", target], clone, reporter)
            minutes[name] = (time.monotonic() - started) / 60
        if not kept.exists():
            shutil.copytree(clone / "demo", kept)
    return {"commit": commit, "minutes": minutes}


def _run(command: list[str], folder: Path, reporter: Reporter) -> str:
    reporter.say(f"clone: {' '.join(command[:2])}")
    # A clone makes its own environment; `make` of an outer run would pass its own flags on.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")}
    environment["POTSTILL_CACHE"] = str(folder.parent / "cache")  # not in the clone, which would no longer be as committed
    done = run_child(command, cwd=folder, env=environment)
    if done.returncode != 0:
        raise PotstillError(f"`{' '.join(command)}` in a new clone failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
