"""Attacks by tables: files that are made to fill the memory, to run without end or to be others, scored beside a server."""

from __future__ import annotations

import asyncio
import gzip
import json
import lzma
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.attacks.trials import Attack
from benchmarks.attacks.wire import Seen, Target
from export.measure.workers import ROOT

MOST_PEAK_BYTES = 256 << 20
"""More than the peak of a usual table; a dictionary alone may have 64 MB."""
LIMIT_BYTES = 8 << 30
"""Of address space: a bomb ends itself, not the machine."""
PATIENCE_S = 60.0
DONE, REFUSED = 0, 3
MEGABYTE = 1 << 20
ROW = json.dumps({"text": "a fine film"}).encode() + b"\n"

Make = Callable[[Path], None]
"""Writes the table of an attack, a file or several, into a folder."""


class Scored(NamedTuple):
    """What came of `potstill score`: its exit code, None if it was ended; the peak of its memory; its last words."""

    code: int | None
    peak_bytes: int
    said: str


async def score_table(target: Target, *, make: Make, wanted: int) -> Seen:
    """Score a usual table and then the attacker's, and judge exit code and memory of the second by the first."""
    usual, planted = target.work / "usual", target.work / "planted"
    for folder, write in ((usual, _usual), (planted, make)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        await asyncio.to_thread(write, folder)
    seen = Seen()
    before = await asyncio.to_thread(_score, target, usual)
    if before.code != DONE:
        seen.broken[f"a usual table was not scored: {before.said}"] += 1
        return seen
    found = await asyncio.to_thread(_score, target, planted)
    if found.code is None:
        seen.broken[f"the job went on for {PATIENCE_S:.0f} s"] += 1
    elif found.code != wanted:
        seen.broken[f"the job ended with code {found.code}, not {wanted}"] += 1
    if found.peak_bytes - before.peak_bytes > MOST_PEAK_BYTES:
        seen.broken[f"the job took {(found.peak_bytes - before.peak_bytes) / MEGABYTE:.0f} MB more than a usual one"] += 1
    return seen


def _score(target: Target, table: Path) -> Scored:
    output = table.with_name(f"{table.name}-labels")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", *target.program("distill"), "score", str(target.folder), "--workers", "1"]
    command += ["--input", str(table), "--output", str(output)]
    process = subprocess.Popen(
        command, cwd=target.work, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    resource.prlimit(process.pid, resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    peak, until = 0, time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        # Not from `wait4`: that one counts the memory of the process that started it.
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max(peak, *(1024 * int(size) for size in re.findall(r"VmHWM:\s+(\d+)", status)), 0)
        time.sleep(0.02)
    code = process.poll()
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip().rpartition("\n")[2]
    return Scored(code, peak, said)


def _usual(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(ROW * 100)


def long_line(folder: Path) -> None:
    """Write a line of 400 MB."""
    with (folder / "in.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(400):
            file.write(b"a" * MEGABYTE)
        file.write(b'"}\n')


def expanding_file(folder: Path) -> None:
    """Write a file that becomes a thousand times as large when it is decompressed."""
    row = json.dumps({"text": "a fine film", "other": "a" * 900_000}).encode() + b"\n"
    with gzip.open(folder / "in.jsonl.gz", "wb") as file:
        for _ in range(120):
            file.write(row)


def greedy_decompressor(folder: Path) -> None:
    """Write a file of a few bytes whose header asks the decompressor for a gigabyte."""
    content = bytearray(lzma.compress(ROW))
    start, size = 12, (content[12] + 1) * 4  # the block header: its size, flags, then the filter, its sizes and a checksum
    content[start + 4] = 36  # a dictionary of 2^30 bytes
    content[start + size - 4 : start + size] = zlib.crc32(content[start : start + size - 4]).to_bytes(4, "little")
    (folder / "in.jsonl.xz").write_bytes(content)


def huge_dictionary(folder: Path) -> None:
    """Write a value of 80 MB once, that every row refers to."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), pa.array(["x" * 80_000_000]))
    options = {"compression": "zstd", "dictionary_pagesize_limit": 2**30, "store_schema": False}
    pq.write_table(pa.table({"text": shared}), folder / "in.parquet", **options)


def deep_rows(folder: Path) -> None:
    """Write a row of a hundred thousand nested lists among others."""
    deep = b'{"text": "a", "other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    (folder / "in.jsonl").write_bytes(ROW * 50 + deep + ROW * 50)


def linked_table(folder: Path) -> None:
    """Put a link to a file elsewhere among the files of the folder."""
    outside = folder.with_name("secrets.jsonl")
    outside.write_bytes(ROW)
    (folder / "in.jsonl").symlink_to(outside)


TABLES = tuple(
    Attack(name, "tables", tries, guard, partial(score_table, make=make, wanted=wanted))
    for name, tries, guard, make, wanted in (
        ("long_line", "a table of one line of 400 MB", "line_chars", long_line, REFUSED),
        ("expanding_file", "a table that becomes a thousand times as large", "expansion", expanding_file, REFUSED),
        ("greedy_decompressor", "a table whose header asks for a gigabyte", "decompressor", greedy_decompressor, REFUSED),
        ("huge_dictionary", "a table whose rows share a value of 80 MB", "dictionaries", huge_dictionary, REFUSED),
        ("deep_rows", "a row of a hundred thousand nested lists among others", "bad_rows", deep_rows, DONE),
        ("linked_table", "a link in a folder of tables to a file elsewhere", "table_links", linked_table, REFUSED),
    )
)
