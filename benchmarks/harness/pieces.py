"""Finished pieces of a scenario, a JSON file each: a piece that is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from distill.storage import write_atomically
from export.measure.circumstances import circumstances

CIRCUMSTANCES: Final = ("git_commit", "git_dirty", "cpu", "int8_instruction_set", "affinity", "load_average_1m")
"""Of each row that is kept: rows of one result may be made on different days."""


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


def processor_of(found: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the kind of processor that circumstances name; rows of two kinds are never in one table."""
    return found.get("cpu"), found.get("int8_instruction_set")


@cache
def _this_processor() -> tuple[str | None, str | None]:
    return processor_of(circumstances())


def is_of_here(row: Mapping[str, Any]) -> bool:
    """Tell whether a row that was kept was made on this kind of processor."""
    return processor_of(row.get("made", {})) == _this_processor()


def made_now() -> dict[str, Any]:
    """Return the day and the circumstances, which each row has that may stand beside rows of another day."""
    now = circumstances()
    return {"measured_on": datetime.now(UTC).date().isoformat(), **{name: now[name] for name in CIRCUMSTANCES}}


class Rows(Pieces):
    """Finished rows by their names, each with the day and the circumstances under which it was made.

    A row that another kind of processor made is as good as not there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        earlier: Sequence[Mapping[str, Any]] = (),
        saved: Callable[[list[Any]], object] | None = None,
    ) -> None:
        """Take over the rows of an earlier result that are not finished here.

        Args:
            folder: Of the files.
            earlier: Those rows, each with its circumstances; the failed ones are left out, and can be made again.
            saved: Called with all rows once a further one is finished.
        """
        super().__init__(folder)
        self._saved = saved
        for row in earlier:
            if "failed" not in row and not self.has(row["name"]):
                self.put(row["name"], row)

    def find(self, name: str) -> Any:
        """Return a row; None if it is not there, not whole, or was made on another kind of processor."""
        found = super().find(name)
        return found if found and is_of_here(found) else None

    def has(self, name: str) -> bool:
        """Tell whether a row is finished."""
        return self.find(name) is not None

    def keep(self, row: Mapping[str, Any]) -> None:
        """Keep a finished row under its name."""
        self.put(row["name"], {**row, "made": made_now()})
        if self._saved is not None:
            self._saved(self.all())

    def all(self) -> list[Any]:
        """Return every row, in the order of the names."""
        return [row for row in super().all() if row is not None]
