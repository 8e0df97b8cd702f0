"""The flags of `potstill inspect`, `potstill sign` and `potstill push`, and what they print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import GROUPS, Json, with_headings
from distill.cli.terminal import print_report
from distill.errors import BundleError

if TYPE_CHECKING:
    from distill.bundle import Bundle

OUTPUT, RUNNING = GROUPS["Output"], GROUPS["Running"]


@with_headings
def inspect(
    bundle: Annotated[Path, Parameter(help="folder of the bundle")],
    /,
    *,
    verify_key: Annotated[
        Path | None,
        Parameter(
            group=RUNNING,
            help="public key, a PEM file; exit with 3 unless the bundle is signed with its private key (extra: sign)",
        ),
    ] = None,
    sbom: Annotated[bool, Parameter(group=OUTPUT, help="print a bill of materials (CycloneDX JSON) instead")] = False,
    upgrade: Annotated[
        bool, Parameter(group=OUTPUT, help="rewrite the manifest and the card of an older bundle in the current schema")
    ] = False,
    json: Json = False,
) -> None:
    """Print what a bundle is after verifying its files and, with a key, its signature."""
    from distill.bundle import Bundle
    from distill.card import card_text
    from export.trust.bill_of_materials import ml_bom
    from export.trust.signing import verify_signature

    opened = Bundle.open(bundle)
    if verify_key:
        verify_signature(opened, public_key=verify_key)
    if upgrade:
        opened = _upgraded(opened)
    files = opened.manifest.files
    print_report(
        ml_bom(opened) if sbom else opened.manifest.model_dump(mode="json", by_alias=True),
        card_text(opened.manifest),
        *(f"{entry.size_bytes:>12,}  {entry.sha256[:16]}…  {name}" for name, entry in files.items()),
        f"\ndigest, for --require-digest: {opened.digest}",
        f"{bundle} is whole: {len(files)} files match their SHA-256",
        _outdated(opened),
        f"the signature is valid for {verify_key}" if verify_key else "",
        json=sbom or json,
    )


@with_headings
def sign(
    bundle: Annotated[Path, Parameter(help="a finished bundle; adding files to it later makes the signature invalid")],
    /,
    *,
    key: Annotated[
        Path,
        Parameter(
            group=RUNNING,
            help="private P-256 key, a PEM file; to make one: openssl ecparam -genkey -name prime256v1 -noout -out private.pem",
        ),
    ],
    password: Annotated[
        str | None, Parameter(group=RUNNING, env_var="POTSTILL_KEY_PASSWORD", help="password of the key, if it has one")
    ] = None,
) -> None:
    """Sign a bundle and print the path of the signature."""
    from distill.bundle import Bundle
    from export.trust.signing import sign_bundle

    print(f"signed: {sign_bundle(Bundle.open(bundle), private_key=key, password=password)}")


@with_headings
def push(
    bundle: Annotated[Path, Parameter(help="folder of the bundle")],
    repository: Annotated[str, Parameter(help="repository on the hub: OWNER/NAME")],
    /,
    *,
    public: Annotated[bool, Parameter(group=OUTPUT, help="make the new repository public; default: private")] = False,
    update: Annotated[
        bool, Parameter(group=OUTPUT, help="add a commit to an existing repository; default: create a new repository")
    ] = False,
    json: Json = False,
) -> None:
    """Verify a bundle, upload every file of it in one commit, and print where it is."""
    from distill.bundle import Bundle
    from export.trust.publishing import push_bundle

    done = push_bundle(Bundle.open(bundle), repository, public=public, update=update)
    seen_by = {True: "private: only its owner sees it", False: "public", None: "visible to those who saw it before"}
    print_report(
        asdict(done),
        f"{done.address}, {seen_by[done.is_private]}",
        f"commit {done.revision}: {', '.join(done.files)}",
        f"not part of the bundle, not uploaded: {', '.join(done.left_out)}" if done.left_out else "",
        f"from earlier commits, not part of the bundle: {', '.join(done.kept)}" if done.kept else "",
        json=json,
    )


def _upgraded(bundle: Bundle) -> Bundle:
    """Return the bundle after writing its manifest and card in the present schema; one in that schema is not touched.

    Raises:
        BundleError: It is signed, and would no longer match its signature.
    """
    from distill.card import write_card
    from distill.manifest import SCHEMA
    from export.trust.signing import SIGNATURE

    known = bundle.manifest.schema_version
    if known == SCHEMA:
        return bundle
    if (bundle.path / SIGNATURE).is_file():
        raise BundleError(
            f"{bundle.path} is signed, and a changed manifest would not match its signature; use it as it is, which works, or "
            f"delete {SIGNATURE}, upgrade and sign it again"
        )
    made = write_card(bundle)
    reporter_for_terminal().say(
        f"inspect: wrote the manifest and the card of {bundle.path}, schema {known} before, {SCHEMA} now"
    )
    return made


def _outdated(bundle: Bundle) -> str:
    from distill.manifest import SCHEMA

    known = bundle.manifest.schema_version
    return (
        ""
        if known == SCHEMA
        else f"its manifest has schema {known}; `potstill inspect --upgrade {bundle.path}` writes {SCHEMA}"
    )
