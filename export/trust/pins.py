"""Which bundles may be run: those with a known digest, or those that the owner of a key signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from distill.bundle import Bundle
from distill.errors import BundleError
from distill.settings import ONE_A_FLAG, Settings


class TrustSettings(Settings, heading="Running"):
    """What every bundle must have before it is run, whenever it is opened."""

    require_digest: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="accept only bundles with one of these digests (64 hex digits, from `potstill inspect`); repeat for more",
        json_schema_extra=ONE_A_FLAG,
    )
    require_signature: Path | None = Field(
        None, description="accept only bundles signed with the private key of this public key, a PEM file (extra: sign)"
    )


def require_trusted(bundle: Bundle, trust: TrustSettings) -> Bundle:
    """Return the bundle if it has what is required.

    The digest is that of the manifest in memory, against which `Bundle.read` checks every file, so a folder that is replaced
    afterwards is noticed.

    Raises:
        BundleError: Its digest is not required, or it is not signed with this key.
    """
    if trust.require_digest and bundle.digest not in trust.require_digest:
        wanted = " or ".join(f"{each[:12]}…" for each in trust.require_digest)
        raise BundleError(
            f"{bundle.path} has the digest {bundle.digest}, but {wanted} is required; use that one or change --require-digest"
        )
    if trust.require_signature is not None:
        from export.trust.signing import verify_signature

        verify_signature(bundle, public_key=trust.require_signature)
    return bundle


def open_trusted(path: Path | str, trust: TrustSettings) -> Bundle:
    """Open a bundle and require what must be known of it; see `require_trusted`."""
    return require_trusted(Bundle.open(path), trust)
