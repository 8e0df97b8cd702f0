"""The output folder: parts, the quarantine, and the manifest that says which of them count.

A part counts when the manifest lists it. Files go in whole: beside and renamed on a disk, in one put behind a URL; the
manifest is replaced after the parts that it lists. It holds nothing that differs between two runs of one job.
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
from serve.bulk.scoring import ScoredPart
from serve.bulk.settings import QUARANTINE

with requires("bulk scoring"):
    import fsspec

SCHEMA = 1
MANIFEST = "_manifest.json"
"""With an underscore, so that readers of a Parquet folder pass it over."""

# Writing the manifest of a job of many parts may take this share of the time.
_MANIFEST_SHARE = 0.05


@dataclass(frozen=True)
class Committed:
    """A part as the manifest has it: what it holds, and its files' sizes and digests."""

    num_rows: int
    num_bad: int
    labels: dict[str, int]
    score_sum: float
    num_cut: int
    files: dict[str, tuple[int, str]]


class Output:
    """A folder that parts are written to, by any number of workers; one process at a time keeps its manifest."""

    def __init__(self, url: str) -> None:
        """Name a folder, local or behind an fsspec URL."""
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as exc:
            raise SettingsError(f"cannot write to {url}: {exc}") from exc
        self._local = Path(self._root) if "file" in _protocols(self._fs) else None

    def write_part(self, part: ScoredPart) -> Committed:
        """Write the files of a part, the quarantine first.

        Raises:
            StorageError: They cannot be written.
        """
        files: dict[str, tuple[int, str]] = {}
        named = ((f"{QUARANTINE}/{part.name}.parquet", part.quarantine), (f"{part.name}.parquet", part.answers))
        for name, content in named:
            if content is not None:
                self._write(name, content)
                files[name] = len(content), hashlib.sha256(content).hexdigest()
        return Committed(part.num_rows, part.num_bad, part.labels, part.score_sum, part.num_cut, files)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return what the manifest says; None where there is none yet."""
        try:
            content = self._fs.cat_file(f"{self._root}/{MANIFEST}")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {self.url}/{MANIFEST}: {exc.strerror or exc}") from exc
        try:
            values = json.loads(content)
            if values.pop("sha256") != hashlib.sha256(_spelled(values)).hexdigest():
                raise ValueError("its sha256 is not its own")
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise StorageError(f"{self.url}/{MANIFEST} is damaged ({exc}); remove it to score everything again") from exc
        return dict(values)

    def write_manifest(self, values: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        self._write(MANIFEST, _spelled({**values, "sha256": hashlib.sha256(_spelled(values)).hexdigest()}))

    def has(self, name: str, size: int) -> bool:
        """Return whether a file is there in this size."""
        try:
            return bool(self._fs.info(f"{self._root}/{name}")["size"] == size)
        except OSError:
            return False

    def names(self) -> list[str]:
        """Return the names of everything that stands in the folder."""
        try:
            return sorted(path.removeprefix(self._root).lstrip("/") for path in self._fs.find(self._root))
        except OSError:
            return []

    def sweep(self) -> None:
        """Remove what killed writers left beside their files."""
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
    """Which parts are done, and the manifest that says so."""

    def __init__(self, output: Output, job: Mapping[str, Any]) -> None:
        """Take up the job where an earlier run left it; `complete` says that it left nothing to do.

        Raises:
            SettingsError: The folder holds another job's parts, or files of somebody else.
            StorageError: It cannot be written, or its manifest is damaged.
        """
        self._output = output
        self._job = dict(job)
        self._done: dict[str, Committed] = {}
        self.complete = False
        self._next_write = 0.0
        manifest = output.read_manifest()
        if manifest is None:
            strangers = [name for name in output.names() if not _may_be_ours(name)]
            if strangers:
                raise SettingsError(f"{output.url} is not empty and holds no job: {strangers[0]}; choose another folder")
            self.commit(complete=False)
        else:
            self._require_same(manifest)
            self._done = {name: Committed(**entry) for name, entry in manifest["parts"].items() if self._is_there(entry)}
            self.complete = manifest["complete"] and len(self._done) == len(manifest["parts"])
        output.sweep()

    @property
    def done(self) -> frozenset[str]:
        """Names of the parts that are written and listed."""
        return frozenset(self._done)

    @property
    def num_rows(self) -> int:
        """Rows of the parts that are done, bad ones included."""
        return sum(part.num_rows + part.num_bad for part in self._done.values())

    def add(self, name: PartName, part: Committed) -> None:
        """Note a part that is written; the manifest follows, at the latest with the next one that finds it worth it."""
        self._done[str(name)] = part
        if time.monotonic() >= self._next_write:
            self.commit(complete=False)

    def commit(self, *, complete: bool) -> dict[str, Any]:
        """Write the manifest and return what it says."""
        started = time.monotonic()
        parts = {name: vars(self._done[name]) for name in sorted(self._done)}
        values = {"schema": SCHEMA, "complete": complete, "job": self._job, "totals": self.totals(), "parts": parts}
        self._output.write_manifest(values)
        ended = time.monotonic()
        self._next_write = ended + (ended - started) / _MANIFEST_SHARE
        return values

    def totals(self) -> dict[str, Any]:
        """Return counts over all parts, and the mean score."""
        parts = [self._done[name] for name in sorted(self._done)]
        rows = sum(part.num_rows for part in parts)
        labels: Counter[str] = Counter()
        for part in parts:
            labels.update(part.labels)
        mean = math.fsum(part.score_sum for part in parts) / rows if rows else None
        return {
            "num_rows": rows,
            "num_bad": sum(part.num_bad for part in parts),
            "num_cut": sum(part.num_cut for part in parts),
            "labels": dict(sorted(labels.items())),
            "mean_score": mean,
        }

    def _is_there(self, entry: Mapping[str, Any]) -> bool:
        return all(self._output.has(name, size) for name, (size, _) in entry["files"].items())

    def _require_same(self, manifest: Mapping[str, Any]) -> None:
        if manifest.get("schema") != SCHEMA:
            raise SettingsError(
                f"{self._output.url} was written with schema {manifest.get('schema')!r}, this version has {SCHEMA}; "
                "choose another folder"
            )
        theirs, ours = manifest["job"], json.loads(_spelled(self._job))
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                raise SettingsError(
                    f"{self._output.url} holds the parts of another job: its {name} is {_short(theirs.get(name))}, "
                    f"this one's {_short(ours.get(name))}; choose another folder, or remove that one"
                )


def _may_be_ours(name: str) -> bool:
    plain = name.removeprefix(f"{QUARANTINE}/")
    return plain.startswith("part-") or plain.rpartition("/")[2].startswith(".")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
