"""The reference of errors and exit codes, from the exceptions and from every message that the code raises."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from distill import errors
from distill.cli.terminal import INTERRUPTED
from docs.tools.markdown import plain, table
from docs.tools.staging import ROOT

PACKAGES = ("distill", "export", "serve")
Kinds = dict[str, type[errors.PotstillError]]


def errors_page() -> str:
    """Return the page of errors: exit codes, then the messages of each exception, which say what to do."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PotstillError)]
    kinds = {kind.__name__: kind for kind in found}
    parts = [
        "# Errors and exit codes",
        "An error says what was found, what was expected and what to do. The command prints it on one line and exits with the "
        "code of its kind; in Python each kind is an exception of `distill.errors`. Words in capitals are filled in when the "
        "error is raised. To find yours, search this site for a few of its words.",
        "## Exit codes\n\n" + table(["code", "meaning"], _codes(kinds)),
    ]
    texts = sorted(set(messages(kinds)))
    for name, kind in kinds.items():
        summary = (kind.__doc__ or "").strip().partition("\n")[0]
        parts.append(f"## {name}\n\n{plain(summary)} Exit code {kind.exit_code}.")
        parts.append("\n".join(f"- {plain(text)}" for named, text in texts if named == name))
    return "\n\n".join(part for part in parts if part) + "\n"


def _codes(kinds: Kinds) -> Iterator[list[str]]:
    yield ["0", "done"]
    for code in sorted({kind.exit_code for kind in kinds.values()}):
        yield [str(code), ", ".join(f"[{name}](#{name.lower()})" for name, kind in kinds.items() if kind.exit_code == code)]
    yield [str(INTERRUPTED), "interrupted: finished steps are kept, and the same command resumes"]


def messages(kinds: Kinds) -> Iterator[tuple[str, str]]:
    """Yield the exception and the text of each message that the packages raise."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                text = text_of(node.args[0])
                if text:
                    yield node.func.id, text


def text_of(node: ast.expr) -> str:
    """Return a message with the names of its values in capitals; empty if it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else _name_in(part) for part in node.values)
    return ""


def _name_in(node: ast.expr) -> str:
    """Return the name of a value, in capitals; of a call, the name of what it is given."""
    match node:
        case ast.FormattedValue(value=value):
            return _name_in(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").upper()
        case ast.Call(args=[first, *_]):
            return _name_in(first)
        case ast.Call(func=function):
            return _name_in(function)
        case ast.GeneratorExp(generators=[loop, *_]):
            return _name_in(loop.iter)
        case ast.Subscript(value=value):
            return _name_in(value)
    named = [_name_in(each) for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute)]
    return named[0] if named else "…"
