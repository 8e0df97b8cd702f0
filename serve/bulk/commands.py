"""`potstill score`: the flags and what is printed; loaded only when it is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.terminal import print_json
from distill.settings import LongTexts
from export.runtime.long_texts import long_words
from serve.bulk.settings import QUARANTINE, ScoreSettings


def score(
    bundle: Annotated[Path, Parameter(help="a bundle with a graph")],
    /,
    *,
    input: Annotated[tuple[str, ...], Parameter(help="files, folders or patterns of Parquet, CSV or JSONL; paths or URLs")],  # noqa: A002
    output: Annotated[str, Parameter(help="folder or URL for the Parquet parts; the same command goes on in it")],
    settings: Annotated[ScoreSettings, Parameter(name="*")] = ScoreSettings(),
    json: Annotated[bool, Parameter(help="print one JSON object, last, on stdout")] = False,
) -> None:
    """Label a large table: Parquet, CSV or JSONL in, Parquet parts out, in flat memory, every processor busy.

    Killed anywhere and run again, it finishes what is missing, and the result is that of an unbroken run to the byte.

    Example: potstill score student --input reviews/ --output labels/ --key id
    """
    from serve.bulk.run import score as score_job

    summary = score_job(bundle, input, output, settings=settings, reporter=reporter_for_terminal())
    if json:
        print_json({"output": output, **summary})
        return
    for line in summary_lines(summary, long_texts=settings.long_texts):
        print(line)


def summary_lines(summary: Mapping[str, Any], *, long_texts: LongTexts = "truncate") -> list[str]:
    """Return what a job came to, in lines."""
    rows = summary["num_rows"]
    lines = [f"{label}: {count:,} rows ({count / rows:.1%})" for label, count in summary["labels"].items()]
    lines.append(f"{rows:,} rows labelled" + (f", mean score {summary['mean_score']:.4f}" if rows else ""))
    if summary["num_cut"]:
        lines.append(long_words(summary["num_cut"], rows, long_texts=long_texts))
    if summary["num_bad"]:
        lines.append(f"{summary['num_bad']:,} rows could not be labelled; they stand in {QUARANTINE} with the reason")
    if summary["rows_per_second"] is not None:
        lines.append(
            f"this run: {summary['rows_scored']:,} rows in {summary['seconds']:.0f} s, {summary['rows_per_second']:,.0f}/s"
        )
    if summary["cost_per_million"] is not None:
        lines.append(f"cost of a million rows at the given price: {summary['cost_per_million']:.4f}")
    return lines
