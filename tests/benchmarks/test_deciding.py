"""What makes a result old: a scenario names the code that it runs, as far as that decides its rows."""

from __future__ import annotations

from collections import defaultdict

import pytest
from test_layering import ALL, MODULES, ROOT

from benchmarks.harness.deciding import FITTING, INT8, LOAD, SPEED, TIMING, TRAINING
from benchmarks.harness.scenario import Scenario, scenarios

KEPT = ("attacks", "ops", "serving")
"""Their results keep the lists that they were measured with; a list is completed when its scenario is measured again."""

SIGNS = {
    "distill.training.loop": TRAINING,
    "export.int8.quantize": INT8,
    "export.measure.rows": TIMING,
    "benchmarks.harness.speed": SPEED,
    "benchmarks.serving.load": LOAD,
    "export.fitting.run": FITTING,
}
"""By what a scenario is decided that imports a module."""

NOT_RUN = {("ask", "export.int8.quantize"), ("transfer", "export.int8.quantize")}
"""Imported by what they use for their teachers; they write no graph."""

DRAW = ("figures", "gains", "page", "pictures", "published", "summary", "tables")
"""Modules with these names compute figures and draw, from rows that are there."""

NEUTRAL = {
    *(
        f"benchmarks.harness.{name}"
        for name in ("answers", "deciding", "environments", "merging", "peer", "pieces", "programs")
    ),
    *("benchmarks.harness.results", "benchmarks.harness.scenario", "benchmarks.scenarios"),
    *("benchmarks.peers", "benchmarks.peers.servers", "benchmarks.peers.servers.protocol"),  # named by `environments`
    *("benchmarks.scenarios.sst2", "benchmarks.scenarios.trec6"),  # a name and a table
    "benchmarks.scenarios.demo",  # `fit` takes the sample of a quick run from it
}
"""What else decides no row. Peers do, where they are timed: see `SPEED`."""

IMPORTS = defaultdict[str, set[str]](set)
for each in ALL:
    IMPORTS[each.importer].add(each.target)

BESIDE = {
    *("distill.bundle", "distill.card", "distill.classifier", "distill.errors", "distill.labels", "distill.manifest"),
    "distill.measured",  # for help texts
    *("distill.progress", "distill.storage", "distill.texts", "distill.tokenizer_limits"),
    *("distill.settings", "distill.teacher_settings", "export.settings"),  # a row keeps them
    *("distill.data", "distill.evaluation"),  # a row keeps the digests of the texts, and the answers
}
"""What trainings, graphs and timings are made with, and what does not decide how they come out."""

ALSO = {
    TRAINING: {"distill.asking", "distill.scales", "distill.transfer"},  # of special trainings, whose scenarios name them
    INT8: {"distill.machine", "distill.models", "distill.tokenization", "export.runtime"},
    TIMING: {"distill.machine", "distill.models", "export.measure"},  # how processes are started and watched
}

CHECKED = [scenario for name, scenario in scenarios().items() if name not in KEPT]


def reached(scenario: Scenario) -> set[str]:
    """Return the modules that a scenario imports, lazily or through others."""
    found, new = set[str](), {f"benchmarks.scenarios.{scenario.name.replace('-', '_')}"}
    while new:
        found |= new
        new = {target for module in new for target in IMPORTS[module]} & MODULES.keys() - found
    return found


@pytest.mark.parametrize("scenario", CHECKED, ids=lambda scenario: scenario.name)
def test_what_trains_quantizes_times_or_loads_decides_a_scenario_that_does_so(scenario: Scenario) -> None:
    signs = {sign for sign in SIGNS if sign in reached(scenario) and (scenario.name, sign) not in NOT_RUN}
    assert {path for sign in signs for path in SIGNS[sign]} - {*scenario.decided_by} == set()


@pytest.mark.parametrize("scenario", CHECKED, ids=lambda scenario: scenario.name)
def test_every_module_of_the_harness_that_a_scenario_imports_decides_it_or_only_draws(scenario: Scenario) -> None:
    named = [ROOT / path for path in scenario.decided_by]
    for module in reached(scenario) - NEUTRAL:
        if module.startswith("benchmarks.") and module.rpartition(".")[2] not in DRAW:
            assert {MODULES[module], *MODULES[module].parents} & {*named}, f"{module} is missing in decided_by"


@pytest.mark.parametrize("paths", ALSO, ids=("training", "int8", "timing"))
def test_what_a_training_a_graph_or_a_timing_imports_decides_it_or_is_known_not_to(paths: tuple[str, ...]) -> None:
    def is_named(module: str) -> bool:
        return not {MODULES[module], *MODULES[module].parents}.isdisjoint(ROOT / path for path in paths)

    inside = {module for module in MODULES if is_named(module)}
    used = {target for module in inside for target in IMPORTS[module] & MODULES.keys() if not is_named(target)}
    assert {".".join(module.split(".")[:2]) for module in used} - BESIDE == ALSO[paths]


def test_no_list_has_a_module_that_only_draws() -> None:
    for scenario in CHECKED:
        assert not [path for path in scenario.decided_by if path.removesuffix(".py").rpartition("/")[2] in DRAW], scenario.name
