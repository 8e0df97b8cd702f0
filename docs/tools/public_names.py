"""The reference of the Python interface, from the signatures and docstrings of the public names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType

from docstring_parser import Docstring, parse

import distill
import export
from distill.settings import Settings
from docs.tools.markdown import code, plain, table

WIDTH = 90


def python_page() -> str:
    """Return the page of the public names of `distill` and `export`."""
    parts = [
        "# Python",
        "The names that `distill` and `export` offer at the top. The fields of settings are in [settings](settings.md), "
        "exceptions in [errors](errors.md).",
    ]
    for package in (distill, export):
        parts.append(f"## {package.__name__}\n\n{plain((package.__doc__ or '').strip())}")
        for name in sorted(package.__all__, key=str.lower):
            parts += _entry(package, name)
    return "\n\n".join(parts) + "\n"


def _entry(package: ModuleType, name: str) -> Iterator[str]:
    found = getattr(package, name)
    yield f"### {package.__name__}.{name}"
    if isinstance(found, type) and issubclass(found, Settings):
        said = parse(inspect.getdoc(found) or "").short_description or ""
        yield f"{plain(said)} Its fields are in [settings](settings.md#{name.lower()})."
        return
    if not callable(found):
        yield f"A {code(type(found).__name__)}: {', '.join(map(code, found))}."
        return
    if not (isinstance(found, type) and (issubclass(found, Exception) or getattr(found, "_is_protocol", False))):
        yield _signature(name, found)
    yield from _described(parse(inspect.getdoc(found) or ""))
    if inspect.isclass(found):
        for method, function in _methods(found):
            yield f"#### {name}.{method}"
            if not isinstance(function, property):
                yield _signature(method, function)
            yield from _described(parse(inspect.getdoc(function) or ""))


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., object] | property]]:
    """Yield the public methods and properties that the class itself defines."""
    for name, value in vars(kind).items():
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and (inspect.isfunction(inner) or isinstance(inner, property)):
            yield name, inner


def _signature(name: str, found: Callable[..., object]) -> str:
    quoted = str(inspect.signature(found))  # its annotations are strings
    line = name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", quoted)
    if len(line) > WIDTH:
        inside, gives = line[len(name) + 1 :].rsplit(")", 1)
        line = "\n".join([f"{name}(", *(f"    {each}," for each in re.split(r", (?=\*|\w+[:=,]|\w+$)", inside)), f"){gives}"])
    return f"```text\n{line}\n```"


def _described(said: Docstring) -> Iterator[str]:
    yield plain(" ".join(filter(None, [said.short_description, said.long_description])))
    if said.params:
        yield table(["name", "meaning"], [[code(each.arg_name), plain(each.description or "")] for each in said.params])
    if said.returns and said.returns.description:
        yield f"Returns: {plain(said.returns.description)}"
    for each in said.raises:
        yield f"Raises {code(each.type_name or '')}: {plain(each.description or '')}"
