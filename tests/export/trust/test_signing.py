"""Signing: what was signed verifies with the right key, and nothing else does. Offline, with real keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.bundle import Bundle
from distill.card import write_card
from distill.errors import BundleError, SettingsError
from export.trust.signing import SIGNATURE, sign_bundle, verify_signature

pytest.importorskip("model_signing", reason="the extra 'sign' is not installed")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    )
    paths[1].write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def signed(tiny_student: Bundle, copied: Callable[[Bundle], Bundle], keys: tuple[Path, Path]) -> Bundle:
    bundle = copied(tiny_student)
    sign_bundle(bundle, private_key=keys[0], password="secret")
    return bundle


def test_a_signed_bundle_opens_and_verifies_with_its_key(signed: Bundle, keys: tuple[Path, Path]) -> None:
    verify_signature(Bundle.open(signed.path), public_key=keys[1])


def test_another_key_does_not_verify_it(signed: Bundle, tmp_path: Path) -> None:
    theirs = key_pair(tmp_path, "theirs")[1]
    with pytest.raises(BundleError, match=re.escape(str(theirs))):
        verify_signature(signed, public_key=theirs)


def test_a_bundle_changed_in_the_proper_way_is_whole_but_no_longer_signed(signed: Bundle, keys: tuple[Path, Path]) -> None:
    changed = write_card(Bundle(signed.path, signed.manifest.model_copy(update={"num_parameters": 1})))
    assert Bundle.open(signed.path) == changed
    with pytest.raises(BundleError, match="Hash mismatch for"):
        verify_signature(changed, public_key=keys[1])


@pytest.mark.parametrize("name", ["extra.onnx", ".gitignore"])
def test_a_file_laid_beside_is_noticed(name: str, signed: Bundle, keys: tuple[Path, Path]) -> None:
    (signed.path / name).write_text("x")
    with pytest.raises(BundleError, match="Extra files found"):
        verify_signature(signed, public_key=keys[1])


def test_a_damaged_signature_is_refused(signed: Bundle, keys: tuple[Path, Path]) -> None:
    path = signed.path / SIGNATURE
    content = bytearray(path.read_bytes())
    for place in (0, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=re.escape(str(keys[1]))):
            verify_signature(signed, public_key=keys[1])


def test_what_is_not_signed_says_how_to_sign_it(tiny_student: Bundle, keys: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match=r"model\.sig.*`potstill sign"):
        verify_signature(tiny_student, public_key=keys[1])


def test_a_key_that_is_none_is_a_setting(tiny_student: Bundle, signed: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    for path in (tmp_path / "no.pem", tmp_path / "missing.pem"):
        with pytest.raises(SettingsError, match=re.escape(str(path))):
            sign_bundle(tiny_student, private_key=path)
        with pytest.raises(SettingsError, match=re.escape(str(path))):
            verify_signature(signed, public_key=path)
    with pytest.raises(SettingsError, match=re.escape(str(keys[0]))):
        sign_bundle(tiny_student, private_key=keys[0], password="wrong")


def test_the_command_signs_and_inspect_verifies(
    tiny_student: Bundle, copied: Callable[[Bundle], Bundle], keys: tuple[Path, Path], potstill: Callable[..., object]
) -> None:
    path = copied(tiny_student).path
    assert potstill("sign", path, "--key", keys[0], "--password", "secret").code == 0
    good = potstill("inspect", path, "--verify-key", keys[1])
    assert good.code == 0
    assert str(keys[1]) in good.out
    (path / "more").write_text("")
    assert potstill("inspect", path, "--verify-key", keys[1]).code == 3
