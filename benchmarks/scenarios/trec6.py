"""The scenario `trec6`: questions with six labels, a teacher of BERT's size and every kind of student, beside others."""

from __future__ import annotations

from benchmarks.field.page import markdown_of_field, picture_of_field, recall_table
from benchmarks.field.running import DECIDED_BY, field_part, run_field
from benchmarks.field.study import TREC6, FieldSettings
from benchmarks.harness.scenario import Scenario

SCENARIO = Scenario(
    name="trec6",
    summary="Train a teacher of BERT's size and every kind of student on the questions of TREC (six labels), and measure them.",
    settings=FieldSettings,
    run=lambda settings, context: run_field(TREC6, settings, context),
    figures=field_part,
    table=lambda result: f"{markdown_of_field(result)}\n\nRecall by label:\n\n{recall_table(result)}",
    picture=picture_of_field,
    decided_by=DECIDED_BY,
    minutes=240,
    by_hand="the folder of the set, --data",
)
