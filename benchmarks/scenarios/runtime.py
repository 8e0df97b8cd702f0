"""The `runtime` scenario: what ships against the stock recipe, three peers and the teacher, taking turns in one run.

Knows how figures follow from rows; each candidate's own ways stand in `benchmarks/peers`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import footprint
from benchmarks.harness.environments import REQUIREMENTS, python_of
from benchmarks.harness.weights import write_portable
from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset
from distill.evaluation.metrics import evaluate
from distill.labels import task_of
from distill.progress import Reporter
from export.measure.latency import NOISY_SPREAD, Latency, measure_process
from export.measure.protocol import Job, Logits
from export.measure.workers import PeerError, Worker, started
from export.runtime.sessions import OnnxClassifier

OURS, TEACHER = "potstill", "teacher"
PEERS = ("stock", "optimum", "openvino", "ctranslate2")
CALIBRATION_TEXTS = 300  # what nncf's documentation takes


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Rounds; in each, every candidate takes its turn.
        singles: Texts answered one at a time in a turn.
        many: Texts answered at once in a turn.
        quality: Texts that quality and batch invariance are taken on.
        threads: Threads for many texts; single texts have one.
    """

    rounds: int = 7
    singles: int = 150
    many: int = 2000
    quality: int = 2000
    threads: int = 2


QUICK = Plan(rounds=5, singles=20, many=64, quality=64)


@dataclass(frozen=True)
class Turns:
    """What one candidate did: single texts on one thread, then many on several; a list or a number per round."""

    latency: Latency
    texts_per_second: tuple[float, ...]
    logits: Logits
    about: Mapping[str, Any]


def run_runtime(
    students: Sequence[Path],
    teacher: Path,
    *,
    test: Dataset,
    calibration: Dataset,
    plan: Plan,
    peers: Sequence[str],
    work: Path,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Measure and return the rows: one per candidate, one per student's quality, and the footprint.

    Args:
        students: Bundles of one shape by seed; the first is measured for speed, all for quality.
        teacher: Its bundle.
        test: Labelled texts.
        calibration: Texts for peers that calibrate; not the test texts.
        plan: How much.
        peers: Which of `PEERS`.
        work: A folder for what peers make of the weights; filled ones are used again.
        reporter: Told of progress.
    """
    with _shipped(students[0]) as shipped:
        turns, skipped = _all_turns(
            shipped,
            students[0],
            teacher,
            texts=test.single_texts(),
            calibration=calibration,
            plan=plan,
            peers=peers,
            work=work,
            reporter=reporter,
        )
        process = measure_process(shipped, "int8", test.single_texts())
    ours = turns[OURS]
    rows = [_candidate_row(name, found, ours, test, plan) for name, found in turns.items()]
    rows += [{"kind": "candidate", "name": name, "skipped": reason} for name, reason in skipped.items()]
    for path in students:
        reporter.say(f"runtime: quality of {path.name}, alone and in batches of 32")
        rows.append(_quality_row(path, test, plan))
    reporter.say("runtime: the processor's int8 peak, and what the [serve] extra installs")
    peak = footprint.int8_peak_multiply_adds_per_second()
    work_of_text = _mean_multiply_adds(students[0], _single_texts(test.single_texts(), plan))
    rows.append(
        {
            "kind": "footprint",
            **asdict(process),
            "install_bytes": footprint.install_bytes(),
            "peak_multiply_adds_per_second": peak,
            "multiply_adds_per_text": work_of_text,
            "mean_ms_per_text": float(ours.latency.samples_ms.mean()),
            "p50_ms_per_text": ours.latency.p50_ms,
        }
    )
    return rows


def runtime_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures that DESIGN names from the rows; a peer that was skipped has none."""
    candidates = {row["name"]: row for row in rows if row["kind"] == "candidate" and "skipped" not in row}
    figures: dict[str, float] = {}
    for name in (*PEERS, TEACHER):
        if name in candidates:
            figures[f"p50_ratio_{name}"] = candidates[name]["p50_ratio"]
            figures[f"throughput_ratio_{name}"] = candidates[name]["throughput_ratio"]
    figures["size_ratio_teacher"] = candidates[TEACHER]["size_bytes"] / candidates[OURS]["size_bytes"]
    quality = [row for row in rows if row["kind"] == "quality"]
    figures["int8_drop"] = float(np.mean([row["fp32_macro_f1"] - row["int8_macro_f1"] for row in quality]))
    figures["labels_changed_by_batch"] = max(row["labels_changed_by_batch"] for row in quality)
    figures["probability_change_by_batch"] = max(row["probability_change_by_batch"] for row in quality)
    (taken,) = [row for row in rows if row["kind"] == "footprint"]
    figures |= {name: taken[name] for name in ("cold_start_s", "peak_rss_bytes", "install_bytes")}
    least_s = taken["multiply_adds_per_text"] / taken["peak_multiply_adds_per_second"]
    figures["peak_share"] = least_s / (taken["mean_ms_per_text"] / 1000)
    return figures


def runtime_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table as cells: the columns, and a line per candidate."""
    columns = ("against", "p50 ms", "ours faster", "least - most", "texts/s", "ours faster", "macro-F1", "MB", "note")
    cells: list[tuple[str, ...]] = []
    for row in rows:
        if row["kind"] != "candidate":
            continue
        if "skipped" in row:
            cells.append((row["name"], *([""] * 7), f"skipped: {row['skipped']}"))
            continue
        least, most = row["p50_ratio_range"]
        cells.append(
            (
                row["name"],
                f"{row['p50_ms']:.3f}",
                f"{row['p50_ratio']:.2f}x",
                f"{least:.2f} - {most:.2f}",
                f"{row['texts_per_second']:,.0f}",
                f"{row['throughput_ratio']:.2f}x",
                f"{row['macro_f1']:.4f}",
                f"{(row['size_bytes'] or 0) / 1e6:.1f}",
                "noisy" if row["noisy"] else "",
            )
        )
    return columns, cells


def _all_turns(
    shipped: Path,
    student: Path,
    teacher: Path,
    *,
    texts: Sequence[str],
    calibration: Dataset,
    plan: Plan,
    peers: Sequence[str],
    work: Path,
    reporter: Reporter,
) -> tuple[dict[str, Turns], dict[str, str]]:
    folder = work / Bundle.open(student).manifest.files[WEIGHTS].sha256[:16]
    reporter.say("runtime: the portable graph that the peers start from")
    write_portable(student, folder)
    bundles = {OURS: shipped, **dict.fromkeys(peers, student), TEACHER: teacher}
    singles: dict[str, list[tuple[float, ...]]] = {}
    rates: dict[str, list[float]] = {}
    logits: dict[str, Logits] = {}
    about: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for threads in (1, plan.threads):
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name, bundle in bundles.items():
                if name in skipped:
                    continue
                reporter.say(f"runtime: {name} gets ready on {threads} thread{'s' * (threads > 1)}")
                job = Job(
                    bundle=bundle,
                    folder=folder / name,
                    threads=threads,
                    calibration=tuple(calibration.single_texts()[:CALIBRATION_TEXTS]),
                    max_length=Bundle.open(bundle, verify=False).manifest.max_length,
                )
                try:
                    python = python_of(name) if name in REQUIREMENTS else None
                    workers[name] = stack.enter_context(started(name, job, python=python))
                except PeerError as exc:
                    if name in (OURS, TEACHER):
                        raise
                    skipped[name] = str(exc)
            about |= {name: worker.about for name, worker in workers.items()}
            with reporter.task(f"{threads} threads", plan.rounds * len(workers)) as advance:
                for round_number in range(plan.rounds):
                    for name, worker in workers.items():
                        if threads == 1:
                            chosen = _turn(texts, round_number, plan.singles)
                            answered = worker.single(chosen, warmup=20 if round_number == 0 else 5)
                            singles.setdefault(name, []).append(answered.ms)
                        else:
                            several = worker.many(texts[: plan.many], warmup=64 if round_number == 0 else 0)
                            rates.setdefault(name, []).append(plan.many / several.seconds)
                            logits[name] = several.logits
                        advance(1)
    turns = {
        name: Turns(Latency(tuple(singles[name])), tuple(rates[name]), logits[name], about[name])
        for name in bundles
        if name in rates
    }
    return turns, skipped


def _candidate_row(name: str, found: Turns, ours: Turns, test: Dataset, plan: Plan) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(found.latency.round_medians_ms, ours.latency.round_medians_ms, strict=True)]
    rates = [a / b for a, b in zip(ours.texts_per_second, found.texts_per_second, strict=True)]
    measured = len(found.logits)
    quality = evaluate(labels=test.label_ids[:measured], logits=found.logits.astype(np.float32), label_names=test.labels)
    return {
        "kind": "candidate",
        "name": name,
        "threads_single": 1,
        "threads_many": plan.threads,
        "p50_ms": found.latency.p50_ms,
        "p90_ms": found.latency.percentile_ms(90),
        "p99_ms": found.latency.percentile_ms(99),
        "noisy": found.latency.spread > NOISY_SPREAD,
        "p50_ratio": float(np.median(ratios)),
        "p50_ratio_range": [min(ratios), max(ratios)],
        "texts_per_second": float(np.median(found.texts_per_second)),
        "throughput_ratio": float(np.median(rates)),
        "throughput_ratio_range": [min(rates), max(rates)],
        "macro_f1": quality.macro_f1,
        "num_texts": measured,
        "size_bytes": found.about["size_bytes"],
        "settings": found.about["settings"],
        "source": found.about["source"],
        "latency_rounds_ms": [[round(sample, 4) for sample in samples] for samples in found.latency.rounds_ms],
        "texts_per_second_rounds": list(found.texts_per_second),
    }


def _quality_row(path: Path, test: Dataset, plan: Plan) -> dict[str, Any]:
    bundle = Bundle.open(path)
    texts, label_ids = test.single_texts()[: plan.quality], test.label_ids[: plan.quality]
    alone: dict[str, Logits] = {}
    for precision in ("fp32", "int8"):
        classifier = OnnxClassifier.open(bundle, precision=precision, threads=1)
        alone[precision] = np.concatenate([classifier.predict_logits([text]) for text in texts])
    batched = footprint.logits_in_plain_batches(bundle, texts)
    task = task_of(bundle.manifest.problem_type)
    f1 = {name: evaluate(labels=label_ids, logits=logits, label_names=test.labels).macro_f1 for name, logits in alone.items()}
    return {
        "kind": "quality",
        "name": path.name,
        "seed": bundle.manifest.lineage.seed,
        "num_texts": len(texts),
        "fp32_macro_f1": f1["fp32"],
        "int8_macro_f1": f1["int8"],
        "labels_changed_by_batch": int((batched.argmax(axis=1) != alone["int8"].argmax(axis=1)).sum()),
        "probability_change_by_batch": float(np.abs(task.probabilities(batched) - task.probabilities(alone["int8"])).max()),
        "size_bytes": bundle.size_bytes("int8"),
        "student_sha256": bundle.manifest.files[WEIGHTS].sha256 if WEIGHTS in bundle.manifest.files else None,
        "teacher_sha256": bundle.manifest.lineage.teacher_sha256,
    }


@contextmanager
def _shipped(path: Path) -> Iterator[Path]:
    """Yield a copy of a bundle without what answering in int8 does not need."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "shipped"
        shutil.copytree(path, copy)
        Bundle.open(copy).adding({}, dropping=frozenset({WEIGHTS, "model.onnx", "benchmark.json"}))
        yield copy


def _turn(texts: Sequence[str], round_number: int, count: int) -> list[str]:
    return [texts[index % len(texts)] for index in range(round_number * count, (round_number + 1) * count)]


def _single_texts(texts: Sequence[str], plan: Plan) -> list[str]:
    return [text for round_number in range(plan.rounds) for text in _turn(texts, round_number, plan.singles)]


def _mean_multiply_adds(path: Path, texts: Sequence[str]) -> float:
    bundle = Bundle.open(path, verify=False)
    config = json.loads(bundle.file("config.json").read_text())
    lengths = [len(row) for row in bundle.tokenizer().encode(texts)]
    return float(np.mean([footprint.multiply_adds(config, num_tokens=length) for length in lengths]))
