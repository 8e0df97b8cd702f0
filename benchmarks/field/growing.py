"""The rows of a field's result, which grows over several runs: those of earlier runs, and new ones in their place."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.field.figures import INT8, QUALITY, SINGLE
from benchmarks.harness.pieces import made_now

Row = Mapping[str, Any]


class FieldRows:
    """Rows by what they measure, name, seed and precision."""

    def __init__(self, earlier: Iterable[Row], texts: Mapping[str, str]) -> None:
        """Take over the earlier rows that are of these texts.

        Args:
            earlier: Made by the same code.
            texts: The fingerprint of each set that measures.
        """
        self._texts, self._made = dict(texts), made_now()
        self._rows = {_key(row): dict(row) for row in earlier if row["test_fingerprints"] == self._texts}

    def keep(self, *rows: Row) -> None:
        """Keep rows that were made now, each with when and on what, in the place of earlier ones that say something else."""
        for row in rows:
            new = json.loads(json.dumps({**row, "test_fingerprints": self._texts}))  # as an earlier one is read from its file
            if {**self._rows.get(_key(row), {}), "made": None} != {**new, "made": None}:
                self._rows[_key(row)] = {**new, "made": self._made}

    def all(self) -> list[dict[str, Any]]:
        """Return every row."""
        return list(self._rows.values())

    def weights_of(self, name: str) -> str | None:
        """Return the sha256 of the weights of the teacher's, or a student's, row of quality."""
        found = (row for row in self.all() if (row["measured"], row["name"]) == (QUALITY, name))
        return next((row.get("weights_sha256") for row in found), None)

    def has_student(self, name: str, seed: int, *, teacher: str | None = None) -> bool:
        """Return whether a student has an int8 row, if a teacher is named one of a student that learnt from it."""
        row = self._rows.get((QUALITY, name, seed, INT8), {"failed": "not made"})
        return "failed" not in row and teacher in (None, row["teacher_sha256"])

    def are_timed(self, names: Collection[str]) -> bool:
        """Return whether each of these students has a row of speed."""
        rows = [self._rows.get((SINGLE, f"{name} {INT8}", None, INT8)) for name in names]
        return all(row is not None and "failed" not in row for row in rows)

    def missing(self, names: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Return which students of which seeds have no int8 graph."""
        return [f"{name}-{seed}" for name in names for seed in seeds if not self.has_student(name, seed)]


def _key(row: Row) -> tuple[str, str, int | None, str]:
    return row["measured"], row["name"], row.get("seed"), row["precision"]
