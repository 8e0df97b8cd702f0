"""The flags of `potstill score`, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import GROUPS, Flat, Json, with_headings
from distill.cli.terminal import print_json
from distill.settings import LongTexts
from export.runtime.long_texts import long_words
from serve.bulk.settings import QUARANTINE, ScoreSettings


@with_headings
def score(
    bundle: Annotated[Path, Parameter(help="a bundle with an ONNX graph")],
    /,
    *,
    input: Annotated[  # noqa: A002
        tuple[str, ...],
        Parameter(
            group=GROUPS["Data"],
            help="tables to label: Parquet, CSV or JSONL files, folders of them, or patterns such as 'in/*.csv'; paths or URLs",
        ),
    ],
    output: Annotated[
        str, Parameter(group=GROUPS["Output"], help="folder or URL for the Parquet parts; run the same command again to resume")
    ],
    settings: Annotated[ScoreSettings, Flat] = ScoreSettings(),
    json: Json = False,
) -> None:
    """Label a large table in constant memory on every CPU; an interrupted and resumed run writes the same bytes."""
    from serve.bulk.run import score as score_job

    summary = score_job(bundle, input, output, settings=settings, reporter=reporter_for_terminal())
    if json:
        print_json({"output": output, **summary})
    else:
        print(*_summary_lines(summary, settings.long_texts), sep="\n")


def _summary_lines(summary: Mapping[str, Any], long_texts: LongTexts) -> list[str]:
    """Return the summary of a job as lines of text."""
    rows = summary["num_rows"]
    lines = [
        *(f"{label}: {count:,} rows ({count / rows:.1%})" for label, count in summary["labels"].items()),
        f"{rows:,} rows labelled" + (f", mean score {summary['mean_score']:.4f}" if rows else ""),
    ]
    if summary["num_cut"]:
        lines.append(long_words(summary["num_cut"], rows, long_texts=long_texts))
    if summary["num_bad"]:
        lines.append(f"{summary['num_bad']:,} rows could not be labelled; they are in {QUARANTINE} with the reason")
    if summary["rows_per_second"] is not None:
        lines.append(
            f"this run: {summary['rows_scored']:,} rows in {summary['seconds']:.0f} s, {summary['rows_per_second']:,.0f}/s"
        )
    if summary["cost_per_million"] is not None:
        lines.append(f"cost of a million rows at the given price: {summary['cost_per_million']:.4f}")
    return lines
