"""Signing a bundle and checking who signed it, with the `model-signing` library and a pair of keys; works offline.

A digest proves that nothing changed since the manifest was written; a signature proves who wrote it. The signature
covers every file of the folder and stands beside them, outside the manifest, which it signs too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError, requires
from distill.storage import require_writable

SIGNATURE = "model.sig"


def sign_bundle(bundle: Bundle, *, private_key: Path, password: str | None = None) -> Path:
    """Sign a bundle and return the path of the signature, which replaces an earlier one.

    Args:
        bundle: An opened bundle, so that nothing damaged is signed.
        private_key: A PEM file with a key on the curve P-256, P-384 or P-521.
        password: Of the key file, if it has one.

    Raises:
        SettingsError: There is no such key, or it cannot be used.
        MissingExtraError: `model-signing` is not installed.
    """
    with requires("signing a bundle"):
        from model_signing import hashing, signing
    require_writable(bundle.path)
    signature = bundle.path / SIGNATURE
    try:
        # It says a string and hands it on to a function that takes bytes.
        secret: Any = password.encode() if password else None
        config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    except Exception as exc:  # OSError, ValueError, TypeError and the library's own
        raise SettingsError(f"{private_key} is not a private key that can sign: {exc}; wanted a PEM file, P-256") from exc
    config.set_hashing_config(_everything_else(hashing))
    config.sign(bundle.path, signature)
    return signature


def verify_signature(bundle: Bundle, *, public_key: Path) -> None:
    """Require that a bundle is, to the last byte, what the owner of a key signed.

    Args:
        bundle: An opened bundle.
        public_key: A PEM file.

    Raises:
        SettingsError: There is no such key, or it cannot be used.
        BundleError: It is not signed, was signed with another key, or changed since.
        MissingExtraError: `model-signing` is not installed.
    """
    with requires("checking a signature"):
        from model_signing import hashing, verifying
    path, signature = bundle.path, bundle.path / SIGNATURE
    if not signature.is_file():
        raise BundleError(f"{path} is not signed: it has no {SIGNATURE}; sign it with `potstill sign {path} --key FILE`")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as exc:  # as above
        raise SettingsError(f"{public_key} is not a public key: {exc}; wanted a PEM file") from exc
    # Ours, not the one the signature names: a signature must not say which files need no look.
    config.set_hashing_config(_everything_else(hashing))
    try:
        config.verify(path, signature)
    except Exception as exc:  # as above
        advice = "do not use it unless you know why"
        raise BundleError(
            f"{path}: the signature does not hold for {public_key}: {exc or type(exc).__name__}; {advice}"
        ) from exc


def _everything_else(hashing: Any) -> Any:
    """Return the library's way to hash a folder, with every file in it but the signature itself."""
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
