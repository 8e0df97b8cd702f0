"""The pages of reference/ that are made from the code whenever the site is built; they are never committed."""

from __future__ import annotations

from collections.abc import Callable

from docs.tools.bundle_format import bundle_page
from docs.tools.command_line import command_page, settings_page
from docs.tools.http_routes import http_page
from docs.tools.messages import errors_page
from docs.tools.public_names import python_page

GENERATED: dict[str, Callable[[], str]] = {
    "reference/command.md": command_page,
    "reference/settings.md": settings_page,
    "reference/python.md": python_page,
    "reference/http.md": http_page,
    "reference/bundle-format.md": bundle_page,
    "reference/errors.md": errors_page,
}
"""Name in the site -> the function that returns the page."""
