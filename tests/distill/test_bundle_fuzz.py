"""Damage: bytes flipped or cut off anywhere in any file of a bundle, the manifest included, and it is never opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from distill import bundle as bundle_module
from distill.bundle import MANIFEST, Bundle
from distill.errors import BundleError
from distill.manifest import Manifest
from distill.storage import sha256_of

TIMES = 20_000


def test_no_damage_goes_unnoticed(tiny_student: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_student.path, folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert whole.keys() == {*tiny_student.manifest.files, MANIFEST}
    digests = {name: sha256_of(folder / name) for name in whole}
    manifest = Bundle.open(folder).manifest
    read_manifest = Manifest.from_bytes
    damaged = ""

    # What was not touched need not be read again; what is damaged always is.
    monkeypatch.setattr(
        bundle_module, "sha256_of", lambda path: sha256_of(path) if path.name == damaged else digests[path.name]
    )
    monkeypatch.setattr(
        Manifest,
        "from_bytes",
        lambda content, *, source: manifest if content == whole[MANIFEST] else read_manifest(content, source=source),
    )
    assert Bundle.open(folder).manifest == manifest
    draw = np.random.default_rng(0)
    names = sorted(whole)
    missed = []
    for round_number in range(TIMES):
        damaged = names[round_number % len(names)]
        with damage(folder / damaged, whole[damaged], draw) as what:
            try:
                Bundle.open(folder)
                missed.append(f"{damaged}: {what}")
            except BundleError:
                pass
    assert missed == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@contextmanager
def damage(path: Path, content: bytes, draw: np.random.Generator) -> Iterator[str]:
    """Change a byte of a file (four times in five) or cut off its end, say which, and mend it afterwards."""
    place = int(draw.integers(len(content)))
    with path.open("r+b") as file:
        if draw.random() < 0.2:
            file.truncate(place)
            what = f"cut at {place}"
        else:
            file.seek(place)
            file.write(bytes([content[place] ^ int(draw.integers(1, 256))]))
            what = f"byte {place} changed"
    yield what
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content[place:] if what.startswith("cut") else content[place : place + 1])


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
