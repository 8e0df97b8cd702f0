"""Print, as pip constraints, the lowest version that pyproject.toml allows of each package it names.

The patch level is left open where the bound does not name one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

EXACT_IN_PRACTICE = {"torch": "2.13.0"}  # the build that comes without accelerator packages


def main(path: str) -> None:
    """Read the file and print one constraint a line; the `dev` tools are not part of the promise."""
    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(entry for extra, entries in extras.items() if extra != "dev" for entry in entries)]
    for entry in named:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[a-z]+\])?>=([0-9.]+)(?:; .*)?", entry)
        if match:
            name, bound = match.groups()
            print(f"{name}=={EXACT_IN_PRACTICE.get(name) or (bound if bound.count('.') > 1 else f'{bound}.*')}")


main(*sys.argv[1:])
