"""The `serving` scenario from end to end: what is served, and the phases in their order."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.harness.scenario import QUALITY, Context, Outcome, Scenario
from benchmarks.harness.texts import measured_on
from benchmarks.peers.servers.inside.stock_folder import GRAPH
from benchmarks.serving import ours
from benchmarks.serving.comparing import compare
from benchmarks.serving.figures import serving_figures, serving_table
from benchmarks.serving.generator import Load
from benchmarks.serving.load import post
from benchmarks.serving.load import run as run_load
from benchmarks.serving.plan import PHASES, QUICK, DatedPieces, Plan, Task
from benchmarks.serving.servers import free_port, wait_for_port
from distill.bundle import BENCHMARK, TOKENIZER, WEIGHTS, Bundle
from distill.classifier import top_labels
from distill.data import Dataset, load_splits
from distill.errors import PotstillError
from distill.progress import Reporter
from export.measure.children import child, run_child
from export.measure.workers import ROOT
from export.runtime.sessions import OnnxClassifier


def run_serving(
    student: Path,
    *,
    test: Dataset,
    plan: Plan,
    work: Path,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Measure what is not measured yet and return the rows of all finished phases.

    Args:
        student: Its bundle, with weights for the peers' export.
        test: Labelled texts.
        plan: How much.
        work: Keeps finished pieces, by bundle.
        reporter: Told of progress.
    """
    phases, peers = plan.phases, plan.peers
    unknown = set(phases) - set(PHASES)
    if unknown:
        raise PotstillError(f"there is no phase {sorted(unknown)[0]!r}; choose from {', '.join(PHASES)}")
    folder = work / Bundle.open(student).manifest.files[WEIGHTS].sha256[:16]
    pieces = DatedPieces(folder / f"{plan.turn_s:g}s")
    with prepared(student, test=test, folder=folder, needs_stock="compare" in phases and bool(peers)) as task:
        if "generator" in phases:
            reporter.say("serving: what the load generator takes itself")
            pieces.get("generator", lambda: weigh_generator(plan))
        if "compare" in phases:
            rows = compare(task, plan, pieces, peers=peers, reporter=reporter)
            pieces.put("compare", {"rows": rows})
        if "saturate" in phases:
            reporter.say("serving: what saturates our server")
            pieces.get("saturate", lambda: ours.saturate(task, plan))
        for name in ("half_load", "overload"):
            if name in phases:
                rate = saturating(pieces) * (0.5 if name == "half_load" else 2)
                reporter.say(f"serving: {name}, {rate:.0f} requests a second")
                pieces.get(name, partial(getattr(ours, name), task, plan, rate))
        if "reload" in phases:
            reporter.say(f"serving: {plan.reloads} reloads and SIGTERM under load")
            pieces.get("reload", lambda: ours.reloads(task, plan))
        if "soak" in phases:
            reporter.say(f"serving: soak of {plan.soak_s:.0f} s")
            pieces.get("soak", lambda: ours.soak(task, plan))
    return rows_of(pieces)


def rows_of(pieces: DatedPieces) -> list[dict[str, Any]]:
    """Return the rows of the phases that are finished, in their order."""
    found = [piece for name in PHASES if (piece := pieces.find(name)) is not None]
    return [row for piece in found for row in piece.get("rows", [piece])]


def saturating(pieces: DatedPieces) -> float:
    """Return the most requests a second that our server reached.

    Raises:
        PotstillError: That has not been measured.
    """
    piece = pieces.find("saturate")
    if piece is None:
        raise PotstillError("half and twice the load need the saturating one; run the phase `saturate` first")
    return float(piece["requests_per_second"])


def weigh_generator(plan: Plan) -> dict[str, Any]:
    """Return the row of the generator against a server that answers at once."""
    port = free_port()
    with child([sys.executable, "-m", "benchmarks.serving.trivial", str(port)], cwd=ROOT):
        wait_for_port(port)
        samples = run_load(Load(port, (post("/predict", b'{"inputs": "a film"}'),), plan.connections, plan.turn_s))
    return {"kind": "generator", "requests_per_second": samples.requests_per_second, **samples.generator()}


@contextmanager
def prepared(student: Path, *, test: Dataset, folder: Path, needs_stock: bool) -> Iterator[Task]:
    """Yield what is served: copies of the bundle, and the stock export of its weights in a folder that is kept."""
    stock = folder / "stock"
    if needs_stock and not (stock / GRAPH).exists():
        command = [
            sys.executable,
            "-m",
            "benchmarks.peers.servers.inside.stock_folder",
            str(student.resolve()),
            str(stock.resolve()),
        ]
        done = run_child(command, cwd=ROOT)
        if done.returncode:
            raise PotstillError(f"the peers' stock export failed: {done.stderr.strip()[-300:]}")
    with tempfile.TemporaryDirectory() as place:
        shipped, other = Path(place) / "student", Path(place) / "student-with-fp32"
        for copy, left_out in ((shipped, {"model.onnx"}), (other, set[str]())):  # a reload keeps the precision
            shutil.copytree(student, copy)
            Bundle.open(copy).adding({}, dropping=frozenset({WEIGHTS, BENCHMARK, *left_out}))
        yield Task(
            bundle=shipped,
            other=other,
            stock=stock,
            texts=tuple(test.single_texts()),
            cut_texts=cut_to_fit(test.single_texts(), shipped),
            label_ids=test.label_ids,
            labels=test.labels,
            predicted=_labels(shipped, test.single_texts()),
            predicted_other=_labels(other, test.single_texts()),
        )


def cut_to_fit(texts: Sequence[str], bundle: Path) -> tuple[str, ...]:
    """Return the texts, those with more tokens than a bundle reads ended where it stops reading."""
    tokenizer, longest = Tokenizer.from_file(str(bundle / TOKENIZER)), Bundle.open(bundle).manifest.max_length
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(list(texts))
    # One special token before, one behind: the last that is read of the text itself is number max_length - 2.
    return tuple(
        text if len(found.ids) <= longest else text[: found.offsets[longest - 2][1]]
        for text, found in zip(texts, encoded, strict=True)
    )


def _labels(bundle: Path, texts: Sequence[str]) -> tuple[str, ...]:
    classifier = OnnxClassifier.open(bundle)
    return tuple(classifier.labels[top] for top in top_labels(classifier.predict_logits(texts)))


def run(plan: Plan, context: Context) -> Outcome:
    """Measure what is not measured yet; the result names the phases that are missing."""
    rows = run_serving(
        plan.student or context.trained("2_layers" if context.quick else "2_layers_slim"),
        test=measured_on(load_splits(context.data)),
        plan=plan,
        work=context.folder,
        reporter=context.reporter,
    )
    there = {"compare" if row["kind"] == "server" else row["kind"] for row in rows}
    return Outcome(rows, {"missing": [name for name in PHASES if name not in there]})


SCENARIO = Scenario(
    name="serving",
    summary="Load our server and its peers in turns; then ours at half load, in overload, during reloads, and for "
    "half an hour.",
    settings=Plan,
    run=run,
    figures=serving_figures,
    table=serving_table,
    decided_by=("benchmarks/serving", "benchmarks/peers/servers", "serve/http", "serve/answering", "export/runtime"),
    minutes=80,
    quick=QUICK,
    needs=(QUALITY,),
)
