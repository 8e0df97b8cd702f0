"""The `scale` scenario: a million rows on one machine, on Ray, through kills, and against the obvious scripts.

Each step keeps its rows in the work folder, so that a run goes on where it was stopped. The steps drive the same functions
as the command; a child process is measured from outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from benchmarks.harness.pieces import Pieces
from benchmarks.harness.programs import found_by
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Row, Scenario
from benchmarks.harness.weights import shipped
from benchmarks.peers.servers.inside.stock_folder import write_stock_folder
from benchmarks.scale.figures import capacity_rows, scale_figures, scale_markdown
from distill.classifier import predict
from distill.data import TextSources
from distill.errors import PotstillError
from distill.machine import available_cpus
from distill.settings import Settings, TextSettings
from distill.storage import replacing, sha256_of
from distill.texts import joined
from export.measure.children import child
from export.measure.protocol import status_bytes
from export.measure.workers import ROOT
from export.runtime.sessions import OnnxClassifier

SAMPLE = 20_000
"""Texts of the table that are timed in memory, and whose labels are checked."""

PART_ROWS = 512
DOMAINS = ("builtin:movies", "builtin:amazon", "builtin:tweets", "builtin:nyt")


class Plan(Settings):
    """How much is measured."""

    student: Path | None = Field(
        None, description="exported student with PyTorch weights; default: the narrow one of the scenario quality"
    )
    teacher: Path | None = Field(None, description="bundle of the teacher; default: that of the scenario quality")
    rows: int = Field(1_000_000, ge=1, description="rows of the table")
    pipeline_rows: int = Field(4_000, ge=1, description="rows that time the Hugging Face pipeline of the teacher")
    plain_rows: int = Field(40_000, ge=1, description="rows that time the plain script")
    node_rows: int = Field(200_000, ge=1, description="rows labelled with one Ray node and with two")
    kill_rows: int = Field(24_000, ge=1, description="rows of each run that is killed")
    kills: int = Field(20, ge=1, description="runs that are killed, each once")


def write_corpus(path: Path, count: int, *, seed: int = 0) -> None:
    """Write a table of `count` rows: the four domains' texts again and again, each time with two other words exchanged.

    Shuffled once: the sets differ in length, and steps that take the first rows must take the mixture of all.
    """
    texts = list(TextSources(DOMAINS, TextSettings()))
    draw = np.random.default_rng(seed)
    draw.shuffle(texts)
    places = draw.random((count, 2))
    noisy = [_noisy(joined(text), *where) for text, where in zip(cycle(texts), places, strict=False)]
    pq.write_table(pa.table({"id": range(count), "text": noisy}), path, row_group_size=50_000)


def _noisy(text: str, first: float, second: float) -> str:
    """Return the text with two of its words exchanged, which stand at these shares of it."""
    words = text.split()
    one, other = (int(place * len(words)) for place in (first, second))
    words[one], words[other] = words[other], words[one]
    return " ".join(words)


def run(plan: Plan, context: Context) -> Outcome:
    """Run the steps that the work folder has no rows of."""
    work = context.folder
    student, teacher = plan.student or context.trained("narrow"), plan.teacher or context.trained("teacher")
    bundle, pieces = shipped(student, work / "student", without=()), Pieces(work)
    steps: dict[str, Callable[[], list[Row]]] = {
        "runtime": lambda: [runtime_row(bundle, _table(work, plan.rows))],
        "threads": lambda: [job_row("threads", bundle, _table(work, plan.rows), work)],
        "ray": lambda: [job_row("ray", bundle, _table(work, plan.rows), work, "--ray", "local")],
        "same_answers": lambda: [_same_bytes(work), labels_row(bundle, _table(work, plan.rows), work / "out-threads")],
        "nodes": lambda: [node_row(nodes, bundle, _table(work, plan.node_rows), work) for nodes in (1, 2)],
        "kills": lambda: _kill_rows(bundle, _table(work, plan.kill_rows), work, plan.kills),
        "pipeline": lambda: [script_row("pipeline", _table(work, plan.pipeline_rows), teacher)],
        "plain_ort": lambda: [
            script_row("plain_ort", _table(work, plan.plain_rows), write_stock_folder(student, work / "stock"))
        ],
    }
    rows = list[Row]()
    for name, step in steps.items():
        context.reporter.say(f"scale: {name}")
        rows += pieces.get(name, step)
    return Outcome([*rows, *capacity_rows(rows)])


def runtime_row(bundle: Path, table: Path) -> Row:
    """Time the runtime alone on texts in memory; the best of five rounds is what streaming is compared with."""
    classifier = OnnxClassifier.open(bundle)
    sample = pq.read_table(table, columns=["text"]).column("text").slice(0, SAMPLE).to_pylist()
    parts = [sample[start : start + 2_000] for start in range(0, len(sample), 2_000)]
    classifier.predict_logits(parts[0])
    seconds = timeit.repeat(lambda: [classifier.predict_logits(part) for part in parts], repeat=5, number=1)
    rates = [len(sample) / each for each in seconds]
    return {"kind": "rate", "name": "runtime", "texts_per_second": max(rates), "rounds": rates, "threads": available_cpus()}


def job_row(name: str, bundle: Path, table: Path, work: Path, *more: str) -> Row:
    """Run the command on a table in a process of its own, from nothing, and return what it said and took."""
    out = work / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    with child(
        [*_command(bundle, table, out), *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        started, peak = time.perf_counter(), 0
        while process.poll() is None:
            peak = max(peak, status_bytes(process.pid, "VmHWM:"))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        lines = (process.stdout.read() if process.stdout else "").splitlines()
    if process.returncode or not lines:
        raise PotstillError(
            f"potstill score ended with {process.returncode} before it had labelled {table}; run it by hand to see why"
        )
    said = json.loads(lines[-1])
    return {
        "kind": "rate",
        "name": name,
        "num_rows": said["num_rows"],
        "seconds": said["seconds"],
        "process_seconds": seconds,
        "rows_per_second": said["num_rows"] / said["seconds"],
        "peak_rss_bytes": peak,
        "threads": available_cpus(),
        "labels": said["labels"],
        "digest": digest_of(out),
    }


def script_row(kind: str, table: Path, folder: Path) -> Row:
    """Time one of the obvious scripts on a table."""
    threads = available_cpus()
    said = found_by("benchmarks.scale.scripts", kind, str(table), str(folder), str(threads), HF_HUB_OFFLINE="1")
    return {"kind": "rate", "name": kind, "threads": threads, "rows_per_second": said["num_rows"] / said["seconds"], **said}


def digest_of(folder: Path) -> str:
    """Return one digest of all files of an output and their names."""
    lines = (f"{path.relative_to(folder)} {sha256_of(path)}" for path in sorted(folder.rglob("*")) if path.is_file())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _same_bytes(work: Path) -> Row:
    digests = [json.loads((work / f"{name}.json").read_text())[0]["digest"] for name in ("threads", "ray")]
    return {"kind": "check", "name": "ray writes the bytes of one machine", "holds": digests[0] == digests[1]}


def labels_row(bundle: Path, table: Path, out: Path) -> Row:
    """Compare the labels in an output's first rows with those that `predict` gives the same texts."""
    given = pq.read_table(out, columns=["id", "label"]).slice(0, SAMPLE)
    asked = pq.read_table(table).slice(0, len(given))
    answers = predict(OnnxClassifier.open(bundle), asked.column("text").to_pylist())
    holds = given.column("id").equals(asked.column("id")) and given.column("label").to_pylist() == [
        answer.label for answer in answers
    ]
    return {"kind": "check", "name": "the labels are those of predict", "num_rows": len(given), "holds": holds}


def _command(bundle: Path, table: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "distill",
        "score",
        str(bundle),
        "--input",
        str(table),
        "--output",
        str(out),
        "--key",
        "id",
        "--json",
    ]


def _table(work: Path, rows: int) -> Path:
    path = work / f"rows-{rows}.parquet"
    if not path.is_file():
        with replacing(path) as beside:
            write_corpus(beside, rows)
    return path


@contextmanager
def _cluster(nodes: int) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def _of_ray(word: str, ask: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield what each process of a cluster that this one started says, if its command has a word and it has not ended."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word in part for part in process.cmdline()[:3]):
                yield ask(process)


def _engine_seconds() -> float:
    """Return the processor time of Ray's own processes of this cluster so far."""
    return float(sum(_of_ray("/ray/", lambda process: sum(process.cpu_times()[:2]))))


def node_row(nodes: int, bundle: Path, table: Path, work: Path) -> Row:
    """Run the command on a cluster of one or two nodes, and add the processor time that Ray's own processes took meanwhile."""
    with _cluster(nodes) as cluster:
        before = _engine_seconds()
        row = job_row(f"{nodes} node{'s' * (nodes > 1)}", bundle, table, work, "--ray", cluster.address)
        return {**row, "engine_processor_seconds": _engine_seconds() - before}


def _kill_rows(bundle: Path, table: Path, work: Path, kills: int) -> list[Row]:
    """Kill a worker, the driver or a node at a random moment of each run, and run the command until it is done."""
    wanted = job_row("unbroken", bundle, table, work, "--part-rows", str(PART_ROWS))["digest"]
    parts, out = -(-pq.read_metadata(table).num_rows // PART_ROWS), work / "out-kill"
    draw, rows = random.Random(0), list[Row]()  # noqa: S311  (moments, not secrets)
    with _cluster(2) as cluster:
        command = [*_command(bundle, table, out), "--part-rows", str(PART_ROWS), "--ray", cluster.address]
        for victim in islice(cycle(("worker", "driver", "node")), kills):
            shutil.rmtree(out, ignore_errors=True)
            after = draw.randrange(1, parts - 4)
            runs, killed = run_and_kill(command, out, partial(_kill, victim, cluster), after=after)
            lossless = killed and digest_of(out) == wanted
            rows.append({"kind": "kill", "victim": victim, "after_parts": after, "runs": runs, "lossless": lossless})
    return rows


def run_and_kill(command: list[str], out: Path, kill: Callable[[Any], bool], *, after: int) -> tuple[int, bool]:
    """Run a command until it ends well, five times at most, and kill something once.

    Args:
        command: Writes parts to a folder; it goes on where an earlier run stopped.
        out: The folder.
        kill: Kills, given the process of the command; returns whether there was something to kill.
        after: Parts that are there before.

    Returns:
        The number of runs, and whether something was killed.
    """
    killed = False
    for runs in range(1, 6):
        with child(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                killed = killed or (len(list(out.glob("part-*"))) >= after and kill(process))
                time.sleep(0.02)
        if process.returncode == 0:
            return runs, killed
    return runs, killed


def _kill(victim: str, cluster: Any, driver: subprocess.Popen[Any]) -> bool:
    """Kill the driver, the node beside the head, or an actor of the cluster; return whether there was one."""
    if victim == "worker":
        return next(_of_ray("MapWorker", lambda worker: worker.kill() or True), False)
    if victim == "driver":
        driver.kill()
    else:
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
    return True


SCENARIO = Scenario(
    name="scale",
    summary="Label a million rows on one machine, on Ray and through kills, and compare with plain scripts.",
    settings=Plan,
    run=run,
    figures=scale_figures,
    table=scale_markdown,
    decided_by=(
        *("benchmarks/scenarios/scale.py", "benchmarks/scale/scripts.py", "benchmarks/harness/weights.py"),
        *("benchmarks/peers/stock.py", "benchmarks/peers/servers/inside/stock_folder.py", "serve/bulk", "export/runtime"),
    ),
    minutes=60,
    quick={"rows": 2_000, "pipeline_rows": 64, "plain_rows": 640, "node_rows": 1_000, "kill_rows": 3_072, "kills": 1},
    needs=(QUALITY,),
)
