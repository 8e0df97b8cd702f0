"""The plan that `--dry-run` prints: which students keep the budget, and what the others exceed."""

from __future__ import annotations

import re

import pytest
from tiny_task import Listening

from distill.bundle import Bundle
from distill.data import Splits
from distill.recipes import recipes_for
from export.fitting.choose import Costs
from export.fitting.plan import Plan
from export.fitting.reporting.result import Budget
from export.fitting.run import Stages, plan_fit
from export.fitting.weighing import Candidates, Form
from export.settings import FitSettings

COSTS = {"narrow": Costs(0.3, 3_000_000), "static": Costs(0.1, 8_000_000), "slim": Costs(0.5, 6_000_000)}


def plan(budget: Budget) -> Plan:
    forms = tuple(Form(name, "int8", costs) for name, costs in COSTS.items())
    return Plan(Candidates(forms, {}, {}, {}, teacher_answer_s=0.0, max_length=16, truncated=0.0), budget, {}, "standard")


def test_the_table_says_which_limit_each_student_exceeds() -> None:
    _, rows = plan(Budget(max_ms=0.4, max_mb=5)).table()
    assert [row[1] for row in rows] == ["yes", "too big", "too slow and too big"]


def test_without_a_budget_every_student_keeps_it() -> None:
    unlimited = plan(Budget())
    assert len(unlimited.within) == len(COSTS)
    assert unlimited.words().startswith("3 of 3 students keep the budget (narrow/int8, static/int8, slim/int8)")


def test_a_quick_plan_considers_few_students_unless_others_are_named(
    tiny_teacher: Bundle, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def costs(stages: dict[str, object], *_: object) -> dict[str, object]:
        return {
            "forms": [[f"{name}/int8", 1.0, 1] for name in stages],
            "step_s": dict.fromkeys(stages, 0.1),
            "teacher_answer_s": 0.1,
        }

    monkeypatch.setattr("export.fitting.weighing._costs", costs)
    listening, quick = Listening(), FitSettings(effort="quick")
    plan = plan_fit(tiny_splits, teacher=tiny_teacher, settings=quick, reporter=listening)
    assert {form.recipe for form in plan.within} == set(recipes_for("quick"))
    assert any("name others with --recipes" in said for said in listening.said)
    named = plan_fit(tiny_splits, teacher=tiny_teacher, settings=quick.model_copy(update={"recipes": ("slim",)}))
    assert {form.recipe for form in named.within} == {"slim"}


def test_the_time_left_in_all_is_said_within_a_stage_and_grows_with_the_delay() -> None:
    reporter, now = Listening(), [0.0]
    stages = Stages(reporter, planned={"teacher": 10.0, "students": 30.0, "graphs": 5.0}, clock=lambda: now[0] * 60)
    with stages.stage("teacher", "given"):
        now[0] = 1.0  # faster than planned, as after a resume: the rest takes as long as planned
    with stages.stage("students", "narrow"):
        now[0] = 2.0
        stages.going_on(20 * 60)  # a third of the stage in a minute
        now[0] = 41.0  # with the teacher, 25 planned minutes took 41
        stages.going_on(15 * 60)
    assert [re.findall(r"about (\d+) minutes left in all", said) for said in reporter.said] == [
        ["45"],
        ["35"],
        ["25"],
        [f"{20 * 41 / 25:.0f}"],
    ]
