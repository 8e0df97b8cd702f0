"""`potstill fit` from end to end, on the tiny task."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.bundle import Bundle
from distill.data import Splits
from export.fitting.run import NothingFitsError, fit
from export.settings import FitSettings

pytestmark = pytest.mark.slow


def test_a_bundle_becomes_a_proven_student(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = FitSettings(max_mb=5, effort="quick", recipes=("3-layers", "2-layers", "static"))
    report = fit(tiny_splits, out=tmp_path, teacher=tiny_teacher, settings=settings)
    assert report.winner is not None
    assert (tmp_path / "report.html").is_file()
    Bundle.open(tmp_path / "student").graph("int8")


def test_a_budget_that_nothing_keeps_names_what_binds(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = FitSettings(max_ms=0.0001, effort="quick", recipes=("2-layers",))
    with pytest.raises(NothingFitsError) as caught:
        fit(tiny_splits, out=tmp_path, teacher=tiny_teacher, settings=settings)
    assert caught.value.exit_code == 4
    assert caught.value.report.binding == ("max_ms",)
    assert caught.value.report.nearest
    assert (tmp_path / "report.json").is_file()
