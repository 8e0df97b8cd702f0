"""Tables in the READMEs and in docs/, made from result files and kept between markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.field.figures import field_figures, field_summary
from benchmarks.field.page import markdown_of_field, picture_of_field, recall_table
from benchmarks.fitting.figures import fit_figures, fit_markdown
from benchmarks.harness.fresh import fresh_figures
from benchmarks.harness.results import FOLDER, demo_figures, read_result
from benchmarks.harness.speed import speed_figures
from benchmarks.report.page import write_report
from benchmarks.report.pictures import quality_against_time
from benchmarks.report.tables import first_words, markdown_table
from benchmarks.report.tables import markdown_of as markdown_of_speed
from benchmarks.scale.figures import scale_figures, scale_markdown
from benchmarks.scenarios.instrument import instrument_figures
from benchmarks.scenarios.int8 import int8_figures, int8_table
from benchmarks.scenarios.ops import HEADS, HIDDEN, INNER, ops_figures, ops_table
from benchmarks.scenarios.runtime import runtime_figures, runtime_table
from benchmarks.scenarios.server import rate_figures
from benchmarks.serving.figures import serving_figures, serving_table, serving_words
from benchmarks.training.quality_figures import markdown_of_summary, quality_figures
from benchmarks.transfer.figures import transfer_figures
from benchmarks.transfer.page import learning_curve, markdown_of_transfer
from distill.errors import PotstillError
from distill.storage import write_atomically
from export.measure.points import picture_of
from export.measure.tables import markdown_of, verdict_of

ROOT = Path(__file__).parents[2]
COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "kept", "p50 ms", "faster", "texts/s", "ships MB")

Result = Mapping[str, Any]


def filled(page: str, *, folder: Path = FOLDER) -> str:
    """Return a page with each part between markers generated from its result file.

    Args:
        page: The page; for a scenario that it shows, `<!-- NAME -->` and `<!-- /NAME -->` once each, in this order.
        folder: Where the result files stand.

    Raises:
        PotstillError: One marker of a pair is missing, or the result file is not as the harness wrote it.
    """
    for name in _PARTS:
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if not page.count(start) and not page.count(end):
            continue
        if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
            raise PotstillError(f"the page needs one {start} and, after it, one {end}")
        before, after = page[: page.index(start)], page[page.index(end) + len(end) :]
        page = f"{before}{start}\n{_PARTS[name](_checked(name, folder))}\n{end}{after}"
    return page


def fill_pages(root: Path = ROOT, *, folder: Path = FOLDER) -> None:
    """Write the tables of all pages, and the pictures of the results that exist."""
    pages = {path: filled(path.read_text(encoding="utf-8"), folder=folder) for path in pages_of(root)}
    for name, drawn in _PICTURES.items():
        if (folder / f"{name}.json").is_file():
            write_atomically(folder / f"{name}.svg", drawn(read_result(name, folder=folder)))
    if (folder / "single-stream.json").is_file():
        write_report(folder=folder)
    for path, page in pages.items():
        write_atomically(path, page)


def pages_of(root: Path = ROOT) -> list[Path]:
    """Return the pages that may show results."""
    pages = {root / "README.md", *root.glob("*/README.md"), *root.glob("docs/*.md")}
    return sorted(path for path in pages if path.is_file())


def _checked(name: str, folder: Path) -> Result:
    result = read_result(name, folder=folder)
    if result["figures"] != _FIGURES[name](result):
        raise PotstillError(
            f"the figures in {folder / f'{name}.json'} are not those of its rows; run `python -m benchmarks {name}`"
        )
    return result


def _demo_part(result: Result) -> str:
    environment = result["environment"]
    circumstances = (
        f"Measured by `{result['command']}` on {environment['cpus_available']} processors ({environment['cpu']}, "
        f"{environment['int8_instruction_set']}), one seed, {result['rows'][0]['num_texts']:,} held-out movie sentences; "
        "latency is of one text with tokenization, on one thread."
    )
    return f"{markdown_of(result['rows'], columns=COLUMNS)}\n\n{verdict_of(result['rows'])} {circumstances}"


def _quality_part(result: Result) -> str:
    return f"{markdown_of_summary(result['summary'])}\n\n{result['verdict']} Measured by `{result['command']}`."


def _runtime_part(result: Result) -> str:
    said = "Ratios compare ours with the row, as medians of interleaved rounds; above 1 ours is faster."
    return f"{markdown_table(*runtime_table(result['rows']))}\n\n{said} Measured by `{result['command']}`."


def _int8_part(result: Result) -> str:
    row = result["rows"][0]
    return (
        f"{markdown_table(*int8_table(result['rows']))}\n\n{row['num_texts']:,} training and validation texts of the movie "
        f"task, int8 against fp32, one text at a time; {row['num_texts_in_batches']:,} of them again in batches of 32. "
        f"Measured by `{result['command']}`."
    )


def _ops_part(result: Result) -> str:
    environment = result["environment"]
    return (
        f"{markdown_table(*ops_table(result['rows']))}\n\nHidden {HIDDEN}, {HEADS} heads, feed-forward {INNER:,}; ONNX Runtime "
        f"{environment['versions']['onnxruntime']} on {environment['cpu']} ({environment['int8_instruction_set']}). "
        f"Measured by `{result['command']}`."
    )


def _points_of_summary(result: Result) -> list[dict[str, Any]]:
    """The summary as rows of a picture: means over seeds, their intervals, the speed of what ships."""
    return [
        {
            **row,
            "name": row["shown_as"],
            "precision": "fp32" if row["name"] == "teacher" else "int8",
            "runtime": "pytorch" if row["name"] == "teacher" else "onnxruntime",
            "macro_f1": (found := row.get("int8_macro_f1") or row["macro_f1"])["value"],
            "macro_f1_interval": [found["low"], found["high"]],
        }
        for row in result["summary"]
    ]


def _speed_part(result: Result) -> str:
    scenario, environment = result["scenario"], result["environment"]
    said = [
        *first_words([row for row in result["rows"] if "failed" not in row]),  # the table says why these were left out
        f"{result['reads']}, {environment['cpus_available']} processors ({environment['cpu']},",
    ]
    circumstances = f"{environment['int8_instruction_set']}). Measured by `{result['command']}`."
    return f"{markdown_of_speed(scenario, result['rows'])}\n\n{' '.join(said)} {circumstances}"


def _instrument_part(result: Result) -> str:
    found = result["figures"]
    return (
        f"A bundle was compared with itself {found['trials']} times: the 95 % interval excluded 1 "
        f"{found['false_alarms']} times. With one side slowed by 5 %, it was found {found['slowdowns_found']} times. "
        f"The median half width of an interval was {found['half_width_median']:.2%}. The harness added "
        f"{found['call_overhead_share']:.2%} to a call of 1 ms. Measured by `{result['command']}`."
    )


def _serving_part(result: Result) -> str:
    table = markdown_table(*serving_table(result["rows"]))
    return f"{table}\n\n{serving_words(result['rows'])} Measured by `{result['command']}`."


def _field_figures(result: Result) -> Mapping[str, float]:
    summary = field_summary(result["rows"], result["truth"], result["labels"])
    return field_figures(result["scenario"], summary)


_PARTS: dict[str, Callable[[Result], str]] = {
    "demo": _demo_part,
    "quality": _quality_part,
    "runtime": _runtime_part,
    "int8": _int8_part,
    "ops": _ops_part,
    "serving": _serving_part,
    "single-stream": _speed_part,
    "offline": _speed_part,
    "cold-start": _speed_part,
    "memory": _speed_part,
    "server": _speed_part,
    "instrument": _instrument_part,
    "transfer": markdown_of_transfer,
    "fit": fit_markdown,
    "scale": scale_markdown,
    "sst2": markdown_of_field,
    "trec6": lambda result: f"{markdown_of_field(result)}\n\nRecall by label:\n\n{recall_table(result)}",
}
_FIGURES: dict[str, Callable[[Result], Mapping[str, float]]] = {
    "demo": lambda result: demo_figures(result["rows"]),
    "quality": lambda result: quality_figures(result["summary"], result["differences"]),
    "runtime": lambda result: runtime_figures(result["rows"]),
    "int8": lambda result: int8_figures(result["rows"]),
    "ops": lambda result: ops_figures(result["rows"]),
    "serving": lambda result: serving_figures(result["rows"]),
    "single-stream": lambda result: speed_figures("single-stream", result["rows"]),
    "offline": lambda result: speed_figures("offline", result["rows"]),
    "cold-start": lambda result: fresh_figures("cold-start", result["rows"]),
    "memory": lambda result: fresh_figures("memory", result["rows"]),
    "server": lambda result: rate_figures(result["rows"]),
    "instrument": lambda result: instrument_figures(result["rows"]),
    "transfer": lambda result: transfer_figures(result["rows"], result["matrix"]),
    "scale": lambda result: scale_figures(result["rows"]),
    "fit": lambda result: fit_figures(result["rows"]),
    "sst2": _field_figures,
    "trec6": _field_figures,
}
_PICTURES: dict[str, Callable[[Result], str]] = {
    "demo": lambda result: picture_of(result["rows"]),
    "quality": lambda result: picture_of(_points_of_summary(result)),
    "single-stream": lambda result: quality_against_time(result["rows"]),
    "transfer": learning_curve,
    "sst2": picture_of_field,
    "trec6": picture_of_field,
}
