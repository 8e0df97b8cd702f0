"""The output folder: parts, the quarantine, and the manifest that lists the finished parts.

Only a part that the manifest lists is finished. Writes are atomic: a local file is renamed into place, a file behind a URL
is one put. The manifest is replaced after the parts it lists, and two runs of one job write the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import SettingsError, StorageError, requires
from distill.storage import write_atomically, writing_to
from serve.bulk.parts import PartName
from serve.bulk.scoring import Figures, ScoredPart
from serve.bulk.settings import QUARANTINE

with requires("bulk scoring"):
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

SCHEMA = 1
MANIFEST = "_manifest.json"
"""With an underscore, so that readers of a Parquet folder ignore it."""

_MANIFEST_SHARE = 0.05
"""Share of the run time that rewriting the manifest may take."""


@dataclass(frozen=True)
class Committed(Figures):
    """A part as the manifest lists it: its counts, and the size and sha256 of each of its files."""

    files: dict[str, tuple[int, str]]


class Output:
    """A folder that any number of workers write parts to; one process at a time writes its manifest."""

    def __init__(self, url: str) -> None:
        """Use a folder, local or behind an fsspec URL."""
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as exc:
            raise SettingsError(f"cannot write to {url}: {exc}") from exc
        self._local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def write_part(self, name: PartName, part: ScoredPart) -> Committed:
        """Write the files of a part, the quarantine first.

        Raises:
            StorageError: They cannot be written.
        """
        files: dict[str, tuple[int, str]] = {}
        for path, content in ((f"{QUARANTINE}/{name}.parquet", part.quarantine), (f"{name}.parquet", part.answers)):
            if content is not None:
                self._write(path, content)
                files[path] = len(content), hashlib.sha256(content).hexdigest()
        return Committed(**vars(part.figures), files=files)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest; None when there is none yet."""
        try:
            content = self._fs.cat_file(f"{self._root}/{MANIFEST}")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {self.url}/{MANIFEST}: {exc.strerror or exc}") from exc
        try:
            values = json.loads(content)
            if values.pop("sha256") != hashlib.sha256(_spelled(values)).hexdigest():
                raise ValueError("its sha256 does not match")
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise StorageError(f"{self.url}/{MANIFEST} is damaged ({exc}); remove it to score everything again") from exc
        return dict(values)

    def write_manifest(self, values: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        self._write(MANIFEST, _spelled({**values, "sha256": hashlib.sha256(_spelled(values)).hexdigest()}))

    def has(self, name: str, size: int) -> bool:
        """Return whether a file exists and has this size."""
        try:
            return bool(self._fs.info(f"{self._root}/{name}")["size"] == size)
        except OSError:
            return False

    def foreign_file(self) -> str | None:
        """Return the name of a file in the folder that no job writes; None when there is none."""
        try:
            names = sorted(path.removeprefix(self._root).lstrip("/") for path in self._fs.find(self._root))
        except OSError:
            return None
        return next((name for name in names if not _may_be_ours(name)), None)

    def sweep(self) -> None:
        """Remove temporary files of killed writers."""
        if self._local is not None and self._local.is_dir():
            for left in self._local.rglob(".*.tmp"):
                left.unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        if self._local is not None:
            write_atomically(self._local / name, content)
            return
        with writing_to(Path(self.url) / name):
            self._fs.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{name}", content)


class Ledger:
    """The finished parts of a job, and the manifest that lists them."""

    def __init__(self, output: Output, job: Mapping[str, Any]) -> None:
        """Continue the job where an earlier run stopped; `complete` means that nothing is left to do.

        Raises:
            SettingsError: The folder holds the parts of another job, or other files.
            StorageError: It cannot be written, or its manifest is damaged.
        """
        self._output = output
        self._job = dict(job)
        self._parts: dict[str, Committed] = {}
        self.complete = False
        self._next_write = 0.0
        manifest = output.read_manifest()
        if manifest is None:
            foreign = output.foreign_file()
            if foreign is not None:
                raise SettingsError(f"{output.url} is not empty and holds no job: {foreign}; choose another folder")
            self.commit(complete=False)
        else:
            self._require_same(manifest)
            for name, entry in manifest["parts"].items():
                if all(output.has(file, size) for file, (size, _) in entry["files"].items()):
                    self._parts[name] = Committed(**entry)
            self.complete = manifest["complete"] and len(self._parts) == len(manifest["parts"])
        output.sweep()

    @property
    def done(self) -> frozenset[str]:
        """Names of the finished parts."""
        return frozenset(self._parts)

    @property
    def num_rows(self) -> int:
        """Rows of the finished parts, bad ones included."""
        return sum(part.num_rows + part.num_bad for part in self._parts.values())

    def add(self, name: PartName, part: Committed) -> None:
        """Record a written part; the manifest is rewritten now or after a later part, as often as its share of time allows."""
        self._parts[str(name)] = part
        if time.monotonic() >= self._next_write:
            self.commit(complete=False)

    def commit(self, *, complete: bool) -> None:
        """Write the manifest."""
        started = time.monotonic()
        parts = {name: vars(part) for name, part in self._parts.items()}
        self._output.write_manifest(
            {"schema": SCHEMA, "complete": complete, "job": self._job, "totals": self.totals(), "parts": parts}
        )
        ended = time.monotonic()
        self._next_write = ended + (ended - started) / _MANIFEST_SHARE

    def totals(self) -> dict[str, Any]:
        """Return counts over all parts, and the mean score."""
        parts = self._parts.values()
        rows = sum(part.num_rows for part in parts)
        labels: Counter[str] = Counter()
        for part in parts:
            labels.update(part.labels)
        return {
            "num_rows": rows,
            "num_bad": sum(part.num_bad for part in parts),
            "num_cut": sum(part.num_cut for part in parts),
            "labels": dict(sorted(labels.items())),
            # fsum is exact, so the order in which parts finish does not matter.
            "mean_score": math.fsum(part.score_sum for part in parts) / rows if rows else None,
        }

    def _require_same(self, manifest: Mapping[str, Any]) -> None:
        url = self._output.url
        if manifest.get("schema") != SCHEMA:
            raise SettingsError(
                f"{url} was written with schema {manifest.get('schema')!r}, this version writes {SCHEMA}; choose another folder"
            )
        theirs, ours = manifest["job"], json.loads(_spelled(self._job))
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                raise SettingsError(
                    f"{url} holds the parts of another job: its {name} is {_short(theirs.get(name))}, "
                    f"this job's is {_short(ours.get(name))}; choose another folder, or remove that one"
                )


def _may_be_ours(name: str) -> bool:
    plain = name.removeprefix(f"{QUARANTINE}/")
    return plain.startswith("part-") or plain.rpartition("/")[2].startswith(".")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
