"""The HTML page of an audit: one file without scripts, readable without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from distill.asking.audit import Audit
from distill.errors import requires
from distill.storage import write_atomically

_TEMPLATE: Final = Path(__file__).with_name("audit.html.jinja")


def write_page(path: Path, audit: Audit) -> None:
    """Write the page of an audit.

    Raises:
        MissingExtraError: jinja2 is not installed.
        StorageError: It cannot be written.
    """
    with requires("the page of an audit"):
        import jinja2
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    write_atomically(path, environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(audit=audit))
