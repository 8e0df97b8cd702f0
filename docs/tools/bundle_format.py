"""The reference of the bundle format, from the models that read and write `manifest.json`."""

from __future__ import annotations

from inspect import cleandoc

from docstring_parser import parse
from pydantic import BaseModel

from distill.manifest import SCHEMA, CascadeEntry, FileEntry, Lineage, Link, Manifest
from docs.tools.command_line import type_name
from docs.tools.markdown import code, plain, table


def bundle_page() -> str:
    """Return the page of the format: the keys of the manifest and of its parts."""
    parts = [
        "# Bundle format",
        "A bundle is a folder. `manifest.json` lists every other file with its size and sha256. It is canonical JSON with its "
        f"own sha256. This version writes schema {SCHEMA} and reads schemas 1 to {SCHEMA}. Unknown keys are refused. No "
        "file of a bundle is a pickle.",
    ]
    for model in (Manifest, FileEntry, Lineage, Link, CascadeEntry):
        said = parse(cleandoc(model.__doc__ or ""))
        meanings = {each.arg_name: each.description or "" for each in said.params}
        words = " ".join(text for text in (said.short_description, said.long_description) if text)
        parts.append(f"## {model.__name__}\n\n{plain(words)}")
        parts.append(table(["key", "type", "default", "meaning"], _rows(model, meanings)))
    return "\n\n".join(parts) + "\n"


def _rows(model: type[BaseModel], meanings: dict[str, str]) -> list[list[str]]:
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else code("{}" if field.default_factory else repr(field.default))
        rows.append([code(field.alias or name), code(type_name(field.annotation)), default, plain(meanings.get(name, ""))])
    return rows
