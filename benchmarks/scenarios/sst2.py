"""The scenario `sst2`: SST-2, a teacher of BERT's size and every kind of student, beside published rows."""

from __future__ import annotations

from benchmarks.field.page import markdown_of_field, picture_of_field
from benchmarks.field.running import DECIDED_BY, field_part, run_field
from benchmarks.field.study import SST2, FieldSettings
from benchmarks.harness.scenario import Scenario

SCENARIO = Scenario(
    name="sst2",
    summary="Train a teacher of BERT's size and every kind of student on SST-2, and measure them.",
    settings=FieldSettings,
    run=lambda settings, context: run_field(SST2, settings, context),
    figures=field_part,
    table=markdown_of_field,
    picture=picture_of_field,
    decided_by=DECIDED_BY,
    minutes=900,
    by_hand="the folder of the set, --data",
)
