"""The generated reference pages have every command, flag, setting, public name, route and error of the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import distill
import export
from distill import errors
from distill.cli.main import COMMANDS, app
from distill.settings import Settings
from docs.tools.bundle_format import bundle_page
from docs.tools.command_line import MODELS, command_page, settings_page, type_name
from docs.tools.http_routes import http_page
from docs.tools.markdown import plain
from docs.tools.messages import errors_page, text_of
from docs.tools.public_names import python_page
from serve.http.routes import ROUTES

PACKAGES = ("distill.", "export.", "serve.")


def flags_of(command: str) -> Iterator[str]:
    for argument in app[command].assemble_argument_collection():
        yield from (name for name in argument.names if name.startswith("--"))


def test_the_page_of_the_command_has_every_flag() -> None:
    page = command_page()
    for command in COMMANDS:
        section = page[page.index(f"## potstill {command}\n") :].partition("\n## ")[0]
        flags = list(flags_of(command))
        assert flags
        assert [flag for flag in flags if f"`{flag}" not in section and f" {flag}" not in section] == [], command


def leaves(kind: type[Settings]) -> Iterator[type[Settings]]:
    below = [each for each in kind.__subclasses__() if each.__module__.startswith(PACKAGES)]
    for each in below:
        yield from leaves(each)
    if not below:
        yield kind


def test_the_page_of_settings_has_every_model_and_its_keys() -> None:
    page = settings_page()
    for model in leaves(Settings):
        keys = set(model.model_fields)
        assert any(keys <= set(listed.model_fields) for listed in MODELS), f"{model.__name__} is not among MODELS"
    for model in MODELS:
        assert f"## {model.__name__}\n" in page
    assert "| `soft_weight` | `float` | `0.9` | ≥ 0, ≤ 1 |" in page


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (int, "int"),
        (tuple[str, ...], "tuple[str, ...]"),
        (distill.Bundle | None, "Bundle | None"),
    ],
)
def test_types_are_shown_without_their_modules(annotation: object, shown: str) -> None:
    assert type_name(annotation) == shown


def test_the_page_of_python_has_every_public_name() -> None:
    page = python_page()
    for package in (distill, export):
        for name in package.__all__:
            assert f"### {package.__name__}.{name}\n" in page
    assert "fit_student(\n" in page


def test_the_page_of_http_has_every_route() -> None:
    page = http_page()
    assert [route.path for route in ROUTES if f"`{route.method} {route.path}`" not in page] == []


def test_the_page_of_the_format_has_the_digest_of_a_file() -> None:
    assert "| `sha256` | `str` | required |" in bundle_page()


def test_the_page_of_errors_has_every_exception_with_its_exit_code() -> None:
    page = errors_page()
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.PotstillError)]
    for kind in kinds:
        assert f"## {kind.__name__}\n" in page
        assert f"](#{kind.__name__.lower()})" in page
    assert "Exit code 4." in page


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ('"the teacher has no labels"', "the teacher has no labels"),
        ('f"{path} has no {name!r}; run `potstill export {path}`"', "PATH has no NAME; run `potstill export PATH`"),
        ("f\"labels differ: {', '.join(sorted(found))}\"", "labels differ: FOUND"),
        ('f"{len(settings.labels)} labels"', "LABELS labels"),
        ("made_elsewhere", ""),
    ],
)
def test_a_message_is_shown_with_the_names_of_its_values(raised: str, shown: str) -> None:
    assert text_of(ast.parse(raised, mode="eval").body) == shown


def test_text_of_the_code_is_not_read_as_markdown() -> None:
    assert plain("a|b *c* <d> [e] `f|g`") == r"a\|b \*c\* &lt;d> \[e\] `f\|g`"
