"""The scenario `runtime`: what ships against the stock recipe, three peers and the teacher.

Its candidates are rows as in `single-stream` and in `offline`, by the same turns. Beside them the int8 graph's own quality over
seeds, alone and in padded batches, and what it takes of a processor's peak, of memory and of a disk.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from benchmarks.harness import footprint
from benchmarks.harness.candidates import Candidate, RowSettings, Task, bundle_candidate, peer_candidates, task_of
from benchmarks.harness.deciding import INT8, SPEED
from benchmarks.harness.scenario import QUALITY, Columns, Context, Outcome, Result, Row, Scenario, table_of, value_of
from benchmarks.harness.speed import QUICK, SpeedSettings, kept_rows
from benchmarks.harness.weights import shipped
from benchmarks.report.tables import first_words, notes_of
from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset
from distill.settings import DataSettings
from export.int8.invariance import compare_alone_and_in_batches
from export.measure.candidates import bundle_candidate as graph_candidate
from export.measure.rows import measure_quality
from export.measure.turns import fresh_process
from export.runtime.sessions import OnnxClassifier
from export.settings import TurnSettings

OURS, TEACHER = "potstill", "teacher"
PEERS = ("stock", "optimum", "openvino", "ctranslate2")
SEEDS = (0, 1, 2)
STARTS = 3


class RuntimeSettings(TurnSettings):
    """What is measured."""

    students: tuple[Path, ...] = Field(
        (), description="students, one per seed; the first is timed; default: the slim ones of the scenario quality"
    )
    teacher: Path | None = Field(None, description="bundle of the teacher; default: that of the scenario quality")
    peers: tuple[str, ...] = Field(
        PEERS, description="peers to compare with; one that cannot be installed is skipped, and the result says why"
    )
    rounds: int = Field(0, ge=0, description="number of rounds; 0: as in single-stream and offline")
    texts: int = Field(0, ge=0, description="number of test texts; 0: all")


def run(settings: RuntimeSettings, context: Context) -> Outcome:
    """Measure the candidates, each student's quality, and the footprint."""
    arm, seeds = ("2_layers", SEEDS[:1]) if context.quick else ("2_layers_slim", SEEDS)
    students = settings.students or tuple(context.trained(arm, seed) for seed in seeds)
    teacher = settings.teacher or context.trained("teacher")
    task = task_of(RowSettings(teacher=teacher), DataSettings(), context, texts=settings.texts)
    ours = replace(bundle_candidate(Bundle.open(shipped(students[0], context.folder / "shipped")), "int8"), name=OURS)
    candidates = [
        ours,
        *peer_candidates(settings.peers, student=students[0]),
        replace(bundle_candidate(Bundle.open(teacher), "pytorch"), name=TEACHER),
    ]
    how = SpeedSettings(**settings.model_dump(include=set(SpeedSettings.model_fields) - {"peers", "teacher"}))
    one, many = (kept_rows(kind, candidates, task, how, context) for kind in ("single", "many"))
    rows = [_candidate_row(*pair) for pair in zip(one, many, strict=True)]
    for path in students:
        context.reporter.say(f"runtime: quality of {path.name}, alone and in batches of 32")
        rows.append(_quality_row(path, task.test))
    context.reporter.say("runtime: the processor's int8 peak, and what the [serve] extra installs")
    return Outcome([*rows, _footprint_row(ours, task, one[0], students[0], settings)])


def figures(result: Result) -> dict[str, float]:
    """Return the figures; a peer that was skipped has none."""
    candidates = {row["name"]: row for row in _of_kind(result, "candidate") if "skipped" not in row}
    quality, (taken,) = _of_kind(result, "quality"), _of_kind(result, "footprint")
    ratios: dict[str, Any] = {
        f"{ratio}_{name}": value_of(candidates[name][ratio])
        for name in (*PEERS, TEACHER)
        for ratio in ("p50_ratio", "throughput_ratio")
        if name in candidates
    }
    least_ms = 1000 * taken["multiply_adds_per_text"] / taken["peak_multiply_adds_per_second"]
    return {
        **ratios,
        "size_ratio_teacher": candidates[TEACHER]["size_bytes"] / candidates[OURS]["size_bytes"],
        "int8_drop": float(np.mean([row["fp32_macro_f1"] - row["int8_macro_f1"] for row in quality])),
        **{name: max(row[name] for row in quality) for name in ("labels_changed_by_batch", "probability_change_by_batch")},
        **{name: taken[name] for name in ("cold_start_s", "peak_rss_bytes", "install_bytes")},
        "peak_share": least_ms / taken["mean_ms_per_text"],
    }


def table(result: Result) -> str:
    """Return a line per candidate."""
    rows = _of_kind(result, "candidate")
    said = [*first_words(rows), "Ratios compare ours with the row in the same rounds; above 1 ours is faster."]
    return f"{table_of(rows, COLUMNS)}\n\n{' '.join(said)}"


def _of_kind(result: Result, kind: str) -> list[Row]:
    return [row for row in result["rows"] if row["kind"] == kind]


def _interval(row: Row) -> str:
    """Return the interval of a ratio; an older result has the range over its rounds."""
    found = row["p50_ratio"]
    low, high = (found["low"], found["high"]) if isinstance(found, dict) else row["p50_ratio_range"]
    return f"{low:.2f} - {high:.2f}"


COLUMNS: Columns = (
    ("against", lambda row: row["name"]),
    ("p50 ms", lambda row: f"{value_of(row['p50_ms']):.3f}"),
    ("ours faster", lambda row: f"{value_of(row['p50_ratio']):.2f}x"),
    ("interval", _interval),
    ("texts/s", lambda row: f"{value_of(row['texts_per_second']):,.0f}"),
    ("ours faster", lambda row: f"{value_of(row['throughput_ratio']):.2f}x"),
    ("macro-F1", lambda row: f"{row['macro_f1']:.4f}"),
    ("ships MB", lambda row: f"{(row['size_bytes'] or 0) / 1e6:.1f}"),
    ("note", notes_of),
)


def _candidate_row(one: Row, many: Row) -> dict[str, Any]:
    """Return single texts and many of one candidate as a row; ratios say how much faster ours is."""
    reason = one.get("failed") or many.get("failed")
    if reason:
        return {"kind": "candidate", "name": one["name"], "skipped": reason}
    return {
        **one,
        "kind": "candidate",
        "p50_ratio": _turned(one["p50_ratio"]),
        "throughput_ratio": _turned(many["rate_ratio"]),
        **{name: many[name] for name in ("texts_per_second", "texts_per_second_rounds")},
        "marks": [*one["marks"], *(mark for mark in many["marks"] if mark not in one["marks"])],
        "sessions": {"single": one["session"], "many": many["session"]},
        "warmup": {"single": one["warmup"], "many": many["warmup"]},
    }


def _turned(ratio: Row) -> dict[str, float]:
    return {"value": 1 / ratio["value"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}


def _quality_row(path: Path, test: Dataset) -> dict[str, Any]:
    bundle = Bundle.open(path)
    graphs = [graph_candidate(bundle, name=path.name, form=precision) for precision in bundle.manifest.precisions]
    classifier = OnnxClassifier.open(bundle, precision="int8", threads=1)
    batches = compare_alone_and_in_batches(classifier, test.texts, max_texts=len(test))
    return {
        "kind": "quality",
        "name": path.name,
        "seed": bundle.manifest.lineage.seed,
        "num_texts": len(test),
        **{f"{row['precision']}_macro_f1": row["macro_f1"] for row in measure_quality(graphs, test, teacher=None).values()},
        "labels_changed_by_batch": batches.labels_changed_by_batch,
        "probability_change_by_batch": batches.probability_change_by_batch,
        "size_bytes": bundle.size_bytes("int8"),
        "student_sha256": bundle.manifest.files[WEIGHTS].sha256 if WEIGHTS in bundle.manifest.files else None,
        "teacher_sha256": bundle.manifest.lineage.teacher_sha256,
    }


def _footprint_row(ours: Candidate, task: Task, row: Row, student: Path, settings: RuntimeSettings) -> dict[str, Any]:
    contender, texts = task.contender(ours, threads=1), task.test.single_texts()
    fresh = [fresh_process(contender, texts[:200], timeout_s=settings.timeout_s, at_once=False) for _ in range(STARTS)]
    bundle = Bundle.open(student, verify=False)
    config = json.loads(bundle.file("config.json").read_text())
    multiply_adds = [footprint.multiply_adds(config, num_tokens=len(ids)) for ids in bundle.tokenizer().encode(texts)]
    return {
        "kind": "footprint",
        "cold_start_s": float(np.median([each.first_answer_s for each in fresh])),
        "peak_rss_bytes": int(np.median([each.peak_rss_bytes or 0 for each in fresh])),
        "install_bytes": footprint.install_bytes(),
        "peak_multiply_adds_per_second": footprint.int8_peak_multiply_adds_per_second(),
        "multiply_adds_per_text": float(np.mean(multiply_adds)),
        "mean_ms_per_text": float(np.concatenate(row["latency_us"]).mean()) / 1000,
        "p50_ms_per_text": row["p50_ms"]["value"],
    }


SCENARIO = Scenario(
    name="runtime",
    summary="Time the exported graph against the stock recipe of ONNX Runtime, three peers and the teacher, all taking turns.",
    settings=RuntimeSettings,
    run=run,
    figures=figures,
    table=table,
    decided_by=("benchmarks/scenarios/runtime.py", "benchmarks/harness/footprint.py", *SPEED, *INT8),
    minutes=30,
    quick={**QUICK, "peers": ("stock",)},
    needs=(QUALITY,),
)
