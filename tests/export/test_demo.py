"""The demo: what it fits, and how many students its budget leaves."""

from __future__ import annotations

import pytest

from distill.data import load_splits
from distill.progress import SilentReporter
from export.demo import profile_of
from export.fitting.job import planned, prepared
from export.settings import DemoSettings


def test_profiles_follow_the_seed_but_the_split_does_not() -> None:
    for name in ("full", "quick"):
        first, second = (profile_of(DemoSettings(profile=name, seed=seed)) for seed in (0, 1))
        assert first.data == second.data
        assert (first.fit.seed, second.fit.seed) == (0, 1)
        assert first.data.split_seed == 0


def test_only_the_quick_profile_is_a_sample() -> None:
    full, quick = (profile_of(DemoSettings(profile=name)) for name in ("full", "quick"))
    assert (full.data.limit, full.fit.effort) == (None, "standard")
    assert (quick.data.limit, quick.fit.effort) == (1600, "quick")
    for name in ("full", "quick"):
        assert profile_of(DemoSettings(profile=name, effort="thorough")).fit.effort == "thorough"
    assert full.unlabeled
    assert not quick.unlabeled


@pytest.mark.slow
def test_the_budget_leaves_at_least_four_students() -> None:
    profile = profile_of(DemoSettings())
    splits = load_splits(profile.data.model_copy(update={"limit": 1600}))
    _, plan = planned(prepared(splits, "builtin:minilm", (), profile.fit, SilentReporter()))
    assert len(plan.within) >= 4
    assert len({form.recipe for form in plan.within}) >= 2
