"""The `serving` scenario from end to end: what is served, and the phases in their order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.harness.scenario import QUALITY, Columns, Context, Outcome, Result, Row, Scenario, table_of
from benchmarks.harness.texts import measured_on
from benchmarks.harness.weights import shipped
from benchmarks.peers.servers import OURS, SERVERS
from benchmarks.peers.servers.inside.stock_folder import write_stock_folder
from benchmarks.report.tables import first_words, notes_of
from benchmarks.serving import ours
from benchmarks.serving.comparing import compare, requests_for
from benchmarks.serving.figures import COLUMNS as FIRST_COLUMNS
from benchmarks.serving.figures import serving_figures, serving_words
from benchmarks.serving.generator import Load
from benchmarks.serving.load import run as run_load
from benchmarks.serving.plan import PHASES, QUICK, DatedPieces, Phase, Plan, Task
from benchmarks.serving.servers import started
from distill.bundle import TOKENIZER, WEIGHTS, Bundle
from distill.classifier import predict
from distill.data import Dataset, load_splits
from export.measure.circumstances import Session, Watch
from export.measure.statistics import marks_of
from export.measure.workers import ROOT
from export.runtime.sessions import OnnxClassifier


def run(plan: Plan, context: Context) -> Outcome:
    """Measure what is not measured yet; the result names the phases that are missing."""
    student = plan.student or context.trained("2_layers" if context.quick else "2_layers_slim")
    return run_phases(student, measured_on(load_splits(context.data)), plan, context)


def run_phases(student: Path, test: Dataset, plan: Plan, context: Context) -> Outcome:
    """Measure the phases that are asked for and not measured yet, and return the rows of all finished ones.

    Args:
        student: Its bundle, with weights for the peers' export.
        test: Labelled texts.
        plan: How much.
        context: Where finished phases are kept, by bundle.
    """
    folder = context.folder / Bundle.open(student).manifest.files[WEIGHTS].sha256[:16]
    pieces = DatedPieces(folder / f"{plan.turn_s:g}s")
    if "compare" in plan.phases and plan.peers:
        write_stock_folder(student, folder / "stock")
    with prepared(student, test, stock=folder / "stock") as task:
        saturate = partial(pieces.get, "saturate", partial(ours.saturate, task, plan))
        phases: dict[Phase, Callable[[], dict[str, Any]]] = {
            "generator": lambda: weigh_generator(plan),
            "compare": lambda: {"rows": compare(task, plan, pieces, reporter=context.reporter)},
            "saturate": saturate,
            "half_load": lambda: ours.half_load(task, plan, saturate()["requests_per_second"] / 2),
            "overload": lambda: ours.overload(task, plan, 2 * saturate()["requests_per_second"]),
            "reload": lambda: ours.reloads(task, plan),
            "soak": lambda: ours.soak(task, plan),
        }
        for name, phase in phases.items():
            # Servers are compared anew each time, from finished turns: there may be more of them.
            if name in plan.phases and (name == "compare" or pieces.find(name) is None):
                context.reporter.say(f"serving: {name}")
                watch = Watch()
                piece = phase()
                pieces.put(name, marked(piece, watch.session()))
    found = {name: piece for name in PHASES if (piece := pieces.find(name)) is not None}
    rows = [row for piece in found.values() for row in piece.get("rows", [piece])]
    return Outcome(rows, {"missing": [name for name in PHASES if name not in found]})


def marked(piece: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """Return a phase, a row or several, whose rows say what else the machine did meanwhile, and what to read with care."""

    def with_marks(row: Mapping[str, Any]) -> dict[str, Any]:
        rounds = [[rate] for rate in row.get("requests_per_second_rounds", (1.0,))]
        marks = marks_of(rounds, others_processors=session.others_processors, stolen_share=session.stolen_share)
        return {**row, "marks": marks, "session": session.to_json()}

    if "rows" in piece:
        return {**piece, "rows": [row if "skipped" in row else with_marks(row) for row in piece["rows"]]}
    return with_marks(piece)


def table(result: Result) -> str:
    """Return the table of servers, each tail with its interval over rounds, and what the other phases say in words."""
    rows = result["rows"]
    care = first_words([{"name": row["kind"].replace("_", " "), **row} for row in rows if "skipped" not in row])
    servers = table_of([row for row in rows if row["kind"] == "server"], COLUMNS)
    return "\n\n".join([servers, " ".join([*care, serving_words(rows)])])


def _tail(name: str, row: Row) -> str:
    found = row[name]
    if found["p99_ms"] is None:
        return ""
    low, high = found.get("p99_low_ms"), found.get("p99_high_ms")
    return f"{found['p99_ms']:.1f}" + ("" if low is None else f" ({low:.1f}-{high:.1f})")


# `benchmarks/serving` decides the result, so what it draws itself changes only when the servers are measured again.
SHOWN: Mapping[str, Callable[[Row], str]] = {
    "p99 ms": partial(_tail, "latency"),
    "open p99 ms": partial(_tail, "open_latency"),
    "note": lambda row: "; ".join(filter(None, (dict(FIRST_COLUMNS)["note"](row), notes_of(row)))),
}
COLUMNS: Columns = tuple((head, SHOWN.get(head, shown)) for head, shown in FIRST_COLUMNS)


def weigh_generator(plan: Plan) -> dict[str, Any]:
    """Return the row of the generator against a server that answers at once."""
    trivial = replace(
        SERVERS[OURS], command=lambda start: [str(start.python), "-m", "benchmarks.serving.trivial", str(start.port)]
    )
    with started(trivial, ROOT, {}) as server:
        samples = run_load(Load(server.port, requests_for(trivial, ["a film"]), plan.connections, plan.turn_s))
    return {"kind": "generator", "requests_per_second": samples.requests_per_second, **samples.generator()}


@contextmanager
def prepared(student: Path, test: Dataset, *, stock: Path) -> Iterator[Task]:
    """Yield what is served: copies of the bundle, and the folder with the stock export of its weights."""
    with tempfile.TemporaryDirectory() as place:
        bundle = shipped(student, Path(place) / "student")
        yield Task(
            bundle=bundle,
            other=shipped(student, Path(place) / "student-with-fp32", without=()),
            stock=stock,
            test=test,
            texts=cut_to_fit(test.single_texts(), bundle),
            predicted=tuple(each.label for each in predict(OnnxClassifier.open(bundle), test.texts)),
        )


def cut_to_fit(texts: Sequence[str], bundle: Path) -> tuple[str, ...]:
    """Return the texts, those with more tokens than a bundle reads ended where it stops reading."""
    tokenizer, longest = Tokenizer.from_file(str(bundle / TOKENIZER)), Bundle.open(bundle).manifest.max_length
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    # The last token is a special one: the one before it is the last that is read of the text itself.
    return tuple(
        text[: found.offsets[-2][1]] if found.overflowing else text
        for text, found in zip(texts, tokenizer.encode_batch(list(texts)), strict=True)
    )


SCENARIO = Scenario(
    name="serving",
    summary="Load our server and its peers in turns; then ours at half load, in overload, during reloads, and for "
    "half an hour.",
    settings=Plan,
    run=run,
    figures=serving_figures,
    table=table,
    decided_by=("benchmarks/serving", "benchmarks/peers/servers", "serve/http", "serve/answering", "export/runtime"),
    minutes=80,
    quick=QUICK,
    needs=(QUALITY,),
)
