"""Who may import whom: DESIGN's rules 1 to 4, read off the imports themselves, and a fresh interpreter to prove rule 2."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "export", "serve", "benchmarks")
COMPOSITION_ROOT = "distill.cli.main"
TORCH_ROOMS = (
    *(f"distill.{room}" for room in ("models", "teachers", "students", "losses", "training", "transfer")),
    "export.graph",
)
TORCH = ("torch", "transformers", "accelerate")


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        importer: Full name of the module it stands in.
        target: Full name of the module it names, or of the name in it.
        line: Where it stands.
        at_load: It runs when the importer is loaded: not inside a function, and not for type checkers only.
        for_types: It stands under `if TYPE_CHECKING`.
    """

    importer: str
    target: str
    line: int
    at_load: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Return every module of the four packages by its full name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_under(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def imports_of(name: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module; `from x import y` counts as `x.y` where that is a module, else as `x`."""

    def visit(node: ast.AST, *, at_load: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: a relative import"
                inner = [f"{child.module}.{alias.name}" for alias in child.names]
                targets = [target if target in MODULES else str(child.module) for target in inner]
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                is_guard = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
                yield from visit(child, at_load=at_load and not (is_function or is_guard), for_types=for_types or is_guard)
                continue
            for target in targets:
                yield Import(name, target, child.lineno, at_load, for_types)

    yield from visit(ast.parse(source), at_load=True, for_types=False)


ALL = [each for name, path in MODULES.items() for each in imports_of(name, path.read_text())]


def none_of(offenders: list[Import]) -> None:
    assert not offenders, "\n".join(map(str, offenders))


def test_the_reader_of_imports_sees_them_all() -> None:
    source = """
import os, distill.bundle
from distill import bundle, Bundle
if TYPE_CHECKING:
    from distill.data import Dataset
def inside():
    with something():
        import torch.nn
class Holder:
    try:
        from numpy import *
    except ImportError:
        pass
"""
    assert [(each.target, each.at_load, each.for_types) for each in imports_of("made.up", source)] == [
        ("os", True, False),
        ("distill.bundle", True, False),
        ("distill.bundle", True, False),
        ("distill", True, False),
        ("distill.data", False, True),
        ("torch.nn", False, False),
        ("numpy", True, False),
    ]
    assert {"distill", "distill.cli.main", "export.runtime.sessions"} <= MODULES.keys()
    assert len(ALL) > 200


def test_distill_reaches_right_only_in_its_composition_root() -> None:
    none_of(
        [
            each
            for each in ALL
            if is_under(each.importer, "distill")
            and each.importer != COMPOSITION_ROOT
            and is_under(each.target, "export", "serve")
        ]
    )


def test_the_composition_root_reaches_right_inside_its_functions() -> None:
    # Settings are the exception: the flags are made from them when the module is loaded, and they bring nothing heavy.
    none_of(
        [
            each
            for each in ALL
            if each.importer == COMPOSITION_ROOT
            and each.at_load
            and is_under(each.target, "export", "serve", "benchmarks")
            and each.target not in ("export.settings", "serve.settings")
        ]
    )


def test_export_never_imports_serve() -> None:
    none_of([each for each in ALL if is_under(each.importer, "export") and is_under(each.target, "serve")])


def test_serve_sees_the_runtime_and_the_torch_free_core() -> None:
    none_of(
        [
            each
            for each in ALL
            if is_under(each.importer, "serve")
            and (
                is_under(each.target, *TORCH_ROOMS)
                or (is_under(each.target, "export") and not is_under(each.target, "export.runtime"))
            )
        ]
    )


def test_torch_stays_in_its_rooms() -> None:
    none_of([each for each in ALL if is_under(each.target, *TORCH) and not is_under(each.importer, *TORCH_ROOMS, "benchmarks")])


def test_outside_the_torch_rooms_nothing_loads_them_with_itself() -> None:
    none_of(
        [
            each
            for each in ALL
            if each.at_load
            and is_under(each.target, *TORCH_ROOMS)
            # the command loads `distill.commands` only once it runs one of its subcommands
            and not is_under(each.importer, *TORCH_ROOMS, "distill.commands", "benchmarks")
        ]
    )


def test_nothing_imports_the_composition_root() -> None:
    none_of([each for each in ALL if is_under(each.target, COMPOSITION_ROOT) and not each.importer.endswith(".__main__")])


def test_nothing_imports_benchmarks_or_tests() -> None:
    outside = [each for each in ALL if not is_under(each.importer, "benchmarks")]
    none_of([each for each in outside if is_under(each.target, "benchmarks", "tests")])
    none_of([each for each in ALL if is_under(each.target, "tests", "conftest")])


def test_there_are_no_wildcard_imports() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), f"{name}:{node.lineno}"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: {each.target for each in ALL if each.importer == name and each.at_load} & MODULES.keys() for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "module",
    [
        "distill",
        "distill.cli.main",
        "export.runtime.sessions",
        "serve.http.app",
    ],
)
def test_a_fresh_interpreter_that_imports_it_has_no_torch(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {TORCH} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_the_core_writes_and_configures_nothing(tmp_path: Path) -> None:
    program = """
import logging, os
before = dict(os.environ)
import distill.bundle, distill.cli.main, distill.data, distill.evaluation.metrics, export.runtime.sessions
assert dict(os.environ) == before
assert not logging.getLogger().handlers
assert os.listdir() == []
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
