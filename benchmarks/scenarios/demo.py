"""The scenario `demo`: what `potstill demo` measures, as it measures it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from benchmarks.harness.deciding import FITTING, INT8, TIMING, TRAINING
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Result, Scenario
from export.demo import Profile, fit_profile, profile_of, run_demo
from export.fitting.reporting.findings import REPORT_JSON
from export.measure.points import picture_of
from export.measure.tables import markdown_of, verdict_of
from export.settings import DemoSettings

DEMO: Final = "demo"
"""Name of the scenario, and of its folder, where `fit` goes on."""
SAMPLE_TEXTS: Final = 120
COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "kept", "p50 ms", "faster", "texts/s", "ships MB")


def run(settings: DemoSettings, context: Context) -> Outcome:
    """Run the demo in the scenario's folder; if `quick`, one recipe on few texts, with a teacher that there is already."""
    if context.quick:
        fit_profile(context.folder, sample_of(settings), teacher=context.trained("teacher"), reporter=context.reporter)
    else:
        run_demo(context.folder, settings, reporter=context.reporter)
    return Outcome(json.loads((context.folder / REPORT_JSON).read_text(encoding="utf-8"))["rows"])


def sample_of(settings: DemoSettings) -> Profile:
    """Return the demo with few texts and its fastest recipe. Every text has 20 noisy copies, which the teacher is asked for."""
    profile = profile_of(settings)
    data = profile.data.model_copy(update={"limit": SAMPLE_TEXTS})
    return replace(profile, data=data, fit=profile.fit.model_copy(update={"recipes": ("static",)}))


def demo_figures(result: Result) -> dict[str, float]:
    """Return the demo's figures from its rows."""
    found = {(row["name"], row["precision"]): row for row in result["rows"]}
    teacher, fp32, int8 = found["teacher", "fp32"], found["student", "fp32"], found["student", "int8"]
    return {
        "teacher_macro_f1": teacher["macro_f1"],
        "student_int8_retention": int8["macro_f1"] / teacher["macro_f1"],
        "int8_drop": fp32["macro_f1"] - int8["macro_f1"],
        "p50_ratio_teacher": int8["p50_ratio_teacher"],
        "size_ratio_teacher": teacher["size_bytes"] / int8["size_bytes"],
    }


def table(result: Result) -> str:
    """Return the table, and what the student keeps and gains in a sentence."""
    rows = result["rows"]
    said = (
        f"One seed, {rows[0]['num_texts']:,} held-out movie sentences; latency is of one text with tokenization, on one thread."
    )
    return f"{markdown_of(rows, columns=COLUMNS)}\n\n{verdict_of(rows)} {said}"


SCENARIO = Scenario(
    name=DEMO,
    summary="Run `potstill demo`.",
    settings=DemoSettings,
    run=run,
    figures=demo_figures,
    table=table,
    picture=lambda result: picture_of(result["rows"]),
    decided_by=("benchmarks/scenarios/demo.py", *FITTING, *TRAINING, *INT8, *TIMING),
    minutes=30,
    quick={"profile": "quick"},
    needs=(QUALITY,),
)
