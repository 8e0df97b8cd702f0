"""The tree of errors, as DESIGN draws it."""

from __future__ import annotations

import pytest

from distill import errors
from distill.errors import (
    AddressError,
    BudgetError,
    BundleError,
    DatasetError,
    GateError,
    MissingExtraError,
    ParityError,
    PotstillError,
    QualityError,
    SettingsError,
    StorageError,
    TeacherError,
)


@pytest.mark.parametrize(
    ("kind", "also", "exit_code"),
    [
        (SettingsError, ValueError, 2),
        (DatasetError, ValueError, 3),
        (BundleError, ValueError, 3),
        (StorageError, OSError, 3),
        (GateError, PotstillError, 4),
        (TeacherError, GateError, 4),
        (ParityError, GateError, 4),
        (QualityError, GateError, 4),
        (AddressError, ConnectionError, 3),
        (BudgetError, GateError, 4),
        (MissingExtraError, ImportError, 5),
    ],
)
def test_each_error_has_its_family_and_exit_code(kind: type[PotstillError], also: type[Exception], exit_code: int) -> None:
    assert issubclass(kind, PotstillError)
    assert issubclass(kind, also)
    assert kind.exit_code == exit_code


def test_every_error_is_one_of_ours() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert len(kinds) == 13
    assert all(issubclass(kind, PotstillError) for kind in kinds)


def test_errors_carry_what_a_program_needs() -> None:
    data = DatasetError("bad", path="a.csv", line=3)
    assert (str(data), data.path, data.line) == ("bad", "a.csv", 3)
    assert (DatasetError("bad").path, DatasetError("bad").line) == (None, None)
    parity = ParityError("far", max_abs_diff=0.5, tolerance=0.1, worst_text="x")
    assert (str(parity), parity.max_abs_diff, parity.tolerance, parity.worst_text) == ("far", 0.5, 0.1, "x")
    quality = QualityError("fell", metric="macro_f1", before=0.9, after=0.8, budget=0.01)
    assert (quality.metric, quality.before, quality.after, quality.budget) == ("macro_f1", 0.9, 0.8, 0.01)
