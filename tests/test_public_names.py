"""The public names of the packages: each is there, and each is the one that its module defines."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

import distill
import export
from distill.recipes import RECIPES


@pytest.mark.parametrize("package", [distill, export], ids=lambda package: package.__name__)
def test_every_public_name_is_that_of_its_module(package: ModuleType) -> None:
    assert len(set(package.__all__)) == len(package.__all__)
    for module, names in package._PUBLIC.items():
        for name in names:
            assert getattr(package, name) is getattr(import_module(f"{package.__name__}.{module}"), name)


def test_what_a_user_needs_is_at_the_top() -> None:
    from distill import (  # noqa: F401
        Bundle,
        Dataset,
        DistilledClassifier,
        LineReporter,
        ProofReport,
        Reporter,
        adopt,
        evaluate,
        fit_by_recipe,
        fit_student,
        fit_teacher,
        load_bundle,
        open_or_adopt,
        select,
    )
    from export import ExportSettings, FitSettings, OnnxClassifier, export_bundle, fit  # noqa: F401

    assert distill.RECIPES is RECIPES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = distill.distil
