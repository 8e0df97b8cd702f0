"""Finished pieces of a scenario, a JSON file each: a piece that is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.storage import write_atomically


class Pieces:
    """The finished pieces in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Any:
        """Return a piece; None if it is not there, or not whole."""
        try:
            return json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a piece, made now unless it is there."""
        found = self.find(name)
        return self.put(name, make()) if found is None else found

    def put(self, name: str, content: Any) -> Any:
        """Keep a piece, in the place of an earlier one, and return it."""
        write_atomically(self._folder / f"{name}.json", json.dumps(content, allow_nan=False))
        return content

    def all(self) -> list[Any]:
        """Return every piece, in the order of the names."""
        return [self.find(path.stem) for path in sorted(self._folder.glob("*.json"))]
