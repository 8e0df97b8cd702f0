"""The other side of each interop test: optimum in its own environment, transformers.js in Node; made by the harness.

Making them costs a minute, so these tests run where `POTSTILL_INTEROP` is set, as `.ci/run` does.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.environments import node_folder, python_of

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("POTSTILL_INTEROP"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and "other_side" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="set POTSTILL_INTEROP=1 to install the other side and run it"))


@pytest.fixture(scope="session")
def in_optimum() -> Callable[..., Any]:
    """Return a function that runs a program in optimum's environment and reads the JSON it prints last."""
    return _running_in("optimum")


@pytest.fixture(scope="session")
def in_engines() -> Callable[..., Any]:
    """Return a function that runs a program beside Spark and Dask and reads the JSON it prints last."""
    return _running_in("engines")


def _running_in(name: str) -> Callable[..., Any]:
    python = python_of(name)

    def run(program: str, *arguments: object) -> Any:
        command = [str(python), "-W", "ignore", "-c", program, *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def in_node() -> Callable[..., Any]:
    """Return a function that runs a module in Node beside transformers.js and reads the JSON it prints last."""
    folder = node_folder()

    def run(program: str, *arguments: object) -> Any:
        script = folder / "program.mjs"
        script.write_text(program)
        command = ["node", str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
