"""A digest or a signature that is required: of every bundle, by every command that runs one."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_task import Outcome

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError
from export.trust.pins import TrustSettings, open_trusted
from export.trust.signing import SIGNATURE, sign_bundle, verify_signature

OTHER = "0" * 64


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Return the files of a private and of its public key."""
    pytest.importorskip("model_signing", reason="the extra 'sign' is not installed")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    paths = tmp_path / "key.pem", tmp_path / "key.pub"
    paths[0].write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    paths[1].write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return paths


def test_a_bundle_with_a_required_digest_opens(tiny_student: Bundle) -> None:
    trust = TrustSettings(require_digest=(OTHER, tiny_student.digest))
    assert open_trusted(tiny_student.path, trust).digest == tiny_student.digest


def test_a_bundle_with_another_digest_is_refused_by_name(tiny_student: Bundle) -> None:
    with pytest.raises(BundleError, match=f"has the digest {tiny_student.digest}, but 000000000000… is required"):
        open_trusted(tiny_student.path, TrustSettings(require_digest=(OTHER,)))


@pytest.mark.parametrize("digest", ["", "ABC", OTHER[:-1], OTHER.replace("0", "A")])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(SettingsError, match="require_digest"):
        TrustSettings(require_digest=(digest,))


def test_the_digest_is_that_of_the_manifest_file(
    tiny_student: Bundle, potstill: Callable[..., Outcome], copied: Callable[[Bundle], Bundle]
) -> None:
    import hashlib

    assert hashlib.sha256((tiny_student.path / "manifest.json").read_bytes()).hexdigest() == tiny_student.digest
    assert f"digest, for --require-digest: {tiny_student.digest}" in potstill("inspect", tiny_student.path).out
    copy = copied(tiny_student)
    assert copy.digest == tiny_student.digest
    assert copy.adding({}, dropping=frozenset({"model.onnx"})).digest != tiny_student.digest


def test_every_command_that_runs_a_bundle_can_require_a_digest(
    tiny_student: Bundle, tiny_fallback: Bundle, tiny_csv: Path, potstill: Callable[..., Outcome], tmp_path: Path
) -> None:
    student, teacher = tiny_student.path, tiny_fallback.path
    commands: dict[str, tuple[object, ...]] = {
        "predict": ("predict", student, "a film"),
        "eval": ("eval", student, "--test", tiny_csv),
        "eval against a teacher": ("eval", student, "--teacher", teacher, "--test", tiny_csv),
        "bench": ("bench", student, "--test", tiny_csv),
        "cascade": ("cascade", student, teacher, "--validation", tiny_csv),
        "score": ("score", student, "--input", tiny_csv, "--output", tmp_path / "labels"),
        "score on Ray": ("score", student, "--input", tiny_csv, "--output", tmp_path / "labels", "--ray", "local"),
        "serve": ("serve", student),
        "serve several": ("serve", "--model", f"a={student}"),
        "serve a cascade": ("serve", student, "--fallback", teacher, "--min-confidence", "0.5"),
    }
    for name, command in commands.items():
        # Of two bundles, one has the required digest, so that the other is what is refused.
        known = tiny_student.digest if teacher in command else OTHER
        outcome = potstill(*command, "--require-digest", known)
        assert outcome.code == 3, (name, outcome)
        assert "is required" in outcome.err, name
    assert not (tmp_path / "labels").exists()
    known = tiny_student.digest
    for words in (("a film", "--require-digest", known), ("--require-digest", OTHER, "--require-digest", known, "a film")):
        assert potstill("predict", student, *words).out.endswith("\ta film\n")


def test_a_required_signature_is_checked(
    tiny_student: Bundle, copied: Callable[[Bundle], Bundle], keys: tuple[Path, Path], potstill: Callable[..., Outcome]
) -> None:
    bundle = copied(tiny_student)
    refused = potstill("predict", bundle.path, "a film", "--require-signature", keys[1])
    assert refused.code == 3
    assert "is not signed" in refused.err
    sign_bundle(bundle, private_key=keys[0])
    assert potstill("predict", bundle.path, "a film", "--require-signature", keys[1]).code == 0


def test_a_folder_that_is_swapped_while_the_signature_is_checked_is_refused(
    tiny_student: Bundle, tiny_fallback: Bundle, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    shutil.copytree(tiny_fallback.path, folder)
    planted = Bundle.open(folder)  # whole, but not signed by anyone
    shutil.rmtree(folder)
    shutil.copytree(tiny_student.path, folder)
    sign_bundle(Bundle.open(folder), private_key=keys[0])
    with pytest.raises(BundleError, match=r"of another manifest\.json than the one that was opened"):
        verify_signature(planted, public_key=keys[1])


@pytest.mark.parametrize("where", ["beside", "instead"])
def test_a_signature_that_holds_two_statements_is_refused(
    where: str, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], keys: tuple[Path, Path]
) -> None:
    bundle = copied(tiny_student)
    path = sign_bundle(bundle, private_key=keys[0])
    content = json.loads(path.read_text())
    statement = base64.b64decode(content["dsseEnvelope"]["payload"]).decode()
    forged = {**content["dsseEnvelope"], "payload": base64.b64encode(statement.replace(bundle.digest, OTHER).encode()).decode()}
    text = path.read_text()
    if where == "beside":
        path.write_text(json.dumps({**content, "dsse_envelope": forged}))
    else:  # twice under one name: parsers differ in which one they take
        path.write_text(text.rstrip()[:-1] + ', "dsseEnvelope": ' + json.dumps(content["dsseEnvelope"]) + "}")
    with pytest.raises(BundleError, match=f"{SIGNATURE}|does not match"):
        verify_signature(bundle, public_key=keys[1])
