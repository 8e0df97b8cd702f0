"""Signing a bundle and checking who signed it, with the `model-signing` library and a pair of keys; works offline.

The digests in the manifest prove that no file changed since it was written; a signature proves who wrote it. The signature
covers every file of the folder, the manifest included. Its own file is not listed in the manifest.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.bundle import MANIFEST, Bundle
from distill.errors import BundleError, SettingsError, requires
from distill.storage import require_writable

SIGNATURE = "model.sig"

_ENVELOPE = {"payload", "payloadType", "signatures"}


def sign_bundle(bundle: Bundle, *, private_key: Path, password: str | None = None) -> Path:
    """Sign a bundle, replacing an earlier signature, and return the path of the signature.

    Args:
        bundle: An opened bundle, so that no damaged bundle is signed.
        private_key: A PEM file with a key on the curve P-256, P-384 or P-521.
        password: Password of the key file, if it has one.

    Raises:
        SettingsError: The key does not exist or cannot be used.
        MissingExtraError: `model-signing` is not installed.
    """
    with requires("signing a bundle"):
        from model_signing import hashing, signing
    require_writable(bundle.path)
    signature = bundle.path / SIGNATURE
    try:
        # The library declares a string and passes it to a function that takes bytes.
        secret: Any = password.encode() if password else None
        config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    except Exception as exc:  # OSError, ValueError, TypeError and classes of the library
        raise SettingsError(f"{private_key} is not a private key that can sign: {exc}; use a PEM file, P-256") from exc
    config.set_hashing_config(_everything_else(hashing))
    config.sign(bundle.path, signature)
    return signature


def verify_signature(bundle: Bundle, *, public_key: Path) -> None:
    """Check that every byte of a bundle is what the owner of a key signed.

    The manifest that was signed must be the one that the bundle was opened with, so that another folder that was put in its
    place for the check alone is refused.

    Args:
        bundle: An opened bundle.
        public_key: A PEM file.

    Raises:
        SettingsError: The key does not exist or cannot be used.
        BundleError: The bundle is not signed, was signed with another key, or changed afterwards.
        MissingExtraError: `model-signing` is not installed.
    """
    with requires("checking a signature"):
        from model_signing import hashing, verifying
    path = bundle.path
    try:
        content = (path / SIGNATURE).read_bytes()
    except OSError as exc:
        raise BundleError(
            f"{path} is not signed: it has no {SIGNATURE}; sign it with `potstill sign {path} --key FILE`"
        ) from exc
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as exc:  # as above
        raise SettingsError(f"{public_key} is not a public key: {exc}; use a PEM file") from exc
    # Not the configuration in the signature: a signature must not decide which files are left unchecked.
    config.set_hashing_config(_everything_else(hashing))
    try:
        with TemporaryDirectory() as folder:  # the signature that is verified is the one that is read below
            (Path(folder) / SIGNATURE).write_bytes(content)
            config.verify(path, Path(folder) / SIGNATURE)
        if _signed_digest(content) != bundle.digest:
            raise ValueError(f"it is of another {MANIFEST} than the one that was opened")
    except Exception as exc:  # as above
        raise BundleError(
            f"{path}: the signature does not match {public_key}: {exc or type(exc).__name__}; "
            "do not use the bundle unless you know why"
        ) from exc


def _signed_digest(signature: bytes) -> str | None:
    """Return the SHA-256 of the manifest in a signature that was verified.

    Raises:
        ValueError: It has other keys than signatures have, or one twice, so that another part of it may have been verified.
    """
    whole = _strict_json(signature)
    envelope = whole["dsseEnvelope"]
    if whole.keys() != {"mediaType", "verificationMaterial", "dsseEnvelope"} or envelope.keys() != _ENVELOPE:
        raise ValueError("it has other fields than a signature by model-signing")
    statement = _strict_json(base64.b64decode(envelope["payload"], validate=True))
    signed = {each["name"]: each for each in statement["predicate"]["resources"]}
    return signed[MANIFEST]["digest"] if signed[MANIFEST]["algorithm"] == "sha256" else None


def _strict_json(content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    values: dict[str, Any] = json.loads(content, object_pairs_hook=unique)
    return values


def _everything_else(hashing: Any) -> Any:
    """Return a hashing configuration for all files of a folder but the signature itself."""
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
