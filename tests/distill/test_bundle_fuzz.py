"""Damage: bytes flipped or cut off anywhere in any file of a bundle, or something planted and sealed: it is never opened."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.attacks import damaging
from benchmarks.attacks.damaging import PLANTS, fuzz_bundles
from distill.bundle import MANIFEST, Bundle
from distill.errors import BundleError
from export.runtime import sessions


def test_no_damage_and_no_plant_goes_unnoticed(tiny_student: Bundle) -> None:
    row = fuzz_bundles(tiny_student.path, bundles=1_000, seed=0)
    assert row["failures"] == []
    assert (row["damaged"], row["planted"], row["refused"]) == (800, 200, 1_000)
    assert len(row["plants"]) == len(PLANTS)


def test_what_opens_is_told(tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "require_runnable", lambda _: None)
    monkeypatch.setattr(damaging, "PLANTS", {"huge_shape": PLANTS["huge_shape"]})
    row = fuzz_bundles(tiny_student.path, bundles=40, seed=0)
    assert row["refused"] < 40
    assert any(each.startswith("huge_shape: a value of") for each in row["opened"])
    assert not row["survived"]


def test_a_missing_file_and_an_empty_one_are_noticed(tiny_student: Bundle, copied: Callable[[Bundle], Bundle]) -> None:
    path = copied(tiny_student).path
    for name in sorted({*tiny_student.manifest.files, MANIFEST}):
        content = (path / name).read_bytes()
        (path / name).write_bytes(b"")
        with pytest.raises(BundleError):
            Bundle.open(path)
        (path / name).unlink()
        with pytest.raises(BundleError):
            Bundle.open(path)
        (path / name).write_bytes(content)
    assert Bundle.open(path).manifest.files == tiny_student.manifest.files
