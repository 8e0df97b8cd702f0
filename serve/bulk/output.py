"""The output folder: parts, the quarantine, and the manifest that lists the finished parts.

Only a part that the manifest lists is finished. Writes are atomic: a local file is renamed into place, a file behind a URL
is one put. The manifest is replaced after the parts it lists, and two runs of one job write the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from distill.errors import SettingsError, StorageError, requires
from distill.storage import write_atomically, writing_to
from serve.bulk.scoring import ScoredPart
from serve.bulk.settings import QUARANTINE

with requires("bulk scoring"):
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

SCHEMA = 1
MANIFEST = "_manifest.json"
"""With an underscore, so that readers of a Parquet folder ignore it."""

_MANIFEST_SHARE = 0.05
"""Share of the run time that rewriting the manifest may take."""

LISTED = "_listed"
"""Folder with an entry of each part that was finished since the manifest was written."""

# A part, its quarantine, its entry, or a hidden file such as what a killed writer left. Spark's parts have other names.
_OURS = re.compile(rf"({QUARANTINE}/)?part-\d{{5}}-\d{{6}}\.parquet$|{LISTED}/|(.*/)?\.")


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

    def write(self, name: str, content: bytes) -> None:
        """Write a file, its folder included.

        Raises:
            StorageError: It cannot be written.
        """
        if self._local is not None:
            write_atomically(self._local / name, content)
            return
        with writing_to(Path(self.url) / name):
            self._fs.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest; None when there is none yet."""
        try:
            return _unsealed(self._fs.cat_file(f"{self._root}/{MANIFEST}"))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {self.url}/{MANIFEST}: {exc.strerror or exc}") from exc
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise StorageError(f"{self.url}/{MANIFEST} is damaged ({exc}); remove it to score everything again") from exc

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return the entries of the parts that were finished since the manifest was written; a damaged one is left out."""
        found = {}
        with suppress(OSError):  # there are none
            for path in self._fs.find(f"{self._root}/{LISTED}"):
                with suppress(ValueError, KeyError, AttributeError, TypeError):
                    entry = _unsealed(self._fs.cat_file(path))
                    found[entry["name"]] = entry["part"]
        return found

    def clear_listed(self) -> None:
        """Remove these entries, when the manifest has them."""
        with suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{LISTED}", recursive=True)

    def has(self, name: str, size: int) -> bool:
        """Return whether a file exists and has this size."""
        with suppress(OSError):
            return bool(self._fs.info(f"{self._root}/{name}")["size"] == size)
        return False

    def require_no_other_files(self) -> None:
        """Refuse a folder that holds a file which no job writes.

        Raises:
            SettingsError: It holds one.
        """
        with suppress(OSError):  # there is no such folder yet
            for path in sorted(self._fs.find(self._root)):
                name = path.removeprefix(self._root).lstrip("/")
                if not _OURS.match(name):
                    raise SettingsError(f"{self.url} is not empty and holds no job: {name}; choose another folder")

    def sweep(self) -> None:
        """Remove temporary files of killed writers."""
        for left in self._local.rglob(".*.tmp") if self._local else ():
            left.unlink(missing_ok=True)


class Ledger:
    """The finished parts of a job, and the manifest that lists them.

    Attributes:
        complete: Nothing is left to do.
        finished_inputs: Input files, by number, that an earlier run labelled to the end.
    """

    def __init__(self, output: Output, job: Mapping[str, Any], *, may_grow: bool = False) -> None:
        """Continue the job where an earlier run stopped.

        Args:
            output: The folder.
            job: The identity of the job.
            may_grow: The job may have more input files than the one in the folder.

        Raises:
            SettingsError: The folder holds the parts of another job, or other files.
            StorageError: It cannot be written, or its manifest is damaged.
        """
        self._output = output
        self._job = dict(job)
        self._parts: dict[str, ScoredPart] = {}
        self.complete, self.finished_inputs = False, 0
        self._next_write = 0.0
        manifest = output.read_manifest()
        if manifest is None:
            output.require_no_other_files()
            self.commit(complete=False)
        else:
            self._require_same(manifest, may_grow=may_grow)
            entries = {**manifest["parts"], **output.listed()}
            self._parts = {
                name: ScoredPart(**entry)
                for name, entry in entries.items()
                if all(output.has(file, size) for file, (size, _) in entry["files"].items())
            }
            if manifest["complete"] and len(self._parts) == len(manifest["parts"]):
                self.finished_inputs = len(manifest["job"]["inputs"])
                self.complete = self.finished_inputs == len(self._job["inputs"])
        output.sweep()

    @property
    def done(self) -> frozenset[str]:
        """Names of the finished parts."""
        return frozenset(self._parts)

    @property
    def num_rows(self) -> int:
        """Rows of the finished parts, bad ones included."""
        return sum(part.num_rows + part.num_bad for part in self._parts.values())

    def add(self, name: str, part: ScoredPart) -> None:
        """List a written part: in the manifest, as often as rewriting may take of the time, else in a file of its own."""
        self._parts[name] = part
        if time.monotonic() >= self._next_write:
            self.commit(complete=False)
        else:
            self._output.write(f"{LISTED}/{name.removeprefix('part-')}.json", _sealed({"name": name, "part": vars(part)}))

    def commit(self, *, complete: bool) -> None:
        """Write the manifest."""
        started = time.monotonic()
        parts = {name: vars(part) for name, part in self._parts.items()}
        values = {"schema": SCHEMA, "complete": complete, "job": self._job, "totals": self.totals(), "parts": parts}
        self._output.write(MANIFEST, _sealed(values))
        self._output.clear_listed()
        self._next_write = time.monotonic() + (time.monotonic() - started) / _MANIFEST_SHARE

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

    def _require_same(self, manifest: Mapping[str, Any], *, may_grow: bool) -> None:
        if manifest.get("schema") != SCHEMA:
            raise SettingsError(
                f"{self._output.url} was written with schema {manifest.get('schema')!r}, this version writes {SCHEMA}; "
                "choose another folder"
            )
        theirs, ours = manifest["job"], json.loads(_spelled(self._job))
        if may_grow:
            ours = {**ours, "inputs": ours["inputs"][: len(theirs["inputs"])]}
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                raise SettingsError(
                    f"{self._output.url} holds the parts of another job: its {name} is {_short(theirs.get(name))}, "
                    f"this job's is {_short(ours.get(name))}; choose another folder, or remove that one"
                )


def _short(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 120, placeholder="...")


def _sealed(values: Mapping[str, Any]) -> bytes:
    return _spelled({**values, "sha256": hashlib.sha256(_spelled(values)).hexdigest()})


def _unsealed(content: bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(content)
    if values.pop("sha256") != hashlib.sha256(_spelled(values)).hexdigest():
        raise ValueError("its sha256 does not match")
    return values


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
