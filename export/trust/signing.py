"""Signing a bundle and checking who signed it, with the `model-signing` library and a pair of keys; works offline.

The digests in the manifest prove that no file changed since it was written; a signature proves who wrote it. The signature
covers every file of the folder, the manifest included. Its own file is not listed in the manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError, requires
from distill.storage import require_writable

SIGNATURE = "model.sig"


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
    path, signature = bundle.path, bundle.path / SIGNATURE
    if not signature.is_file():
        raise BundleError(f"{path} is not signed: it has no {SIGNATURE}; sign it with `potstill sign {path} --key FILE`")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as exc:  # as above
        raise SettingsError(f"{public_key} is not a public key: {exc}; use a PEM file") from exc
    # Not the configuration in the signature: a signature must not decide which files are left unchecked.
    config.set_hashing_config(_everything_else(hashing))
    try:
        config.verify(path, signature)
    except Exception as exc:  # as above
        raise BundleError(
            f"{path}: the signature does not match {public_key}: {exc or type(exc).__name__}; "
            "do not use the bundle unless you know why"
        ) from exc


def _everything_else(hashing: Any) -> Any:
    """Return a hashing configuration for all files of a folder but the signature itself."""
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
