"""Who may import whom, how long files and functions may be, and which imports load torch.

Imports inside functions and under `if TYPE_CHECKING` count like all others, except where a test says that it is about loading.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("distill", "export", "serve")
COMMAND = "distill.cli.main"
TORCH_ROOMS = (
    *(f"distill.{room}" for room in ("models", "teachers", "students", "losses", "training", "transfer")),
    "export.graph",
    "export.fitting",
)
TORCH = ("torch", "transformers", "accelerate")
SAME_NAME_ALLOWED = ("__init__.py", "__main__.py", "commands.py", "settings.py")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 8


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        importer: Full name of the importing module.
        target: Full name of the imported module, or of the module that has the imported name.
        line: Its line in the importing file.
        at_load: Whether it runs when the importer is loaded: outside functions and `if TYPE_CHECKING`.
    """

    importer: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Return every module of the four packages by its full name."""
    found = {}
    for package in (*SHIPPED, "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def is_under(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def imports_of(name: str, tree: ast.AST, *, at_load: bool = True) -> Iterator[Import]:
    """Yield the imports of a module; `from x import y` counts as `x.y` if that is a module, else as `x`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import):
            targets = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}:{child.lineno}: a relative import"
            assert all(alias.name != "*" for alias in child.names), f"{name}:{child.lineno}: a wildcard import"
            inner = [f"{child.module}.{alias.name}" for alias in child.names]
            targets = [target if target in MODULES else str(child.module) for target in inner]
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            is_guard = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from imports_of(name, child, at_load=at_load and not (is_function or is_guard))
            continue
        yield from (Import(name, target, child.lineno, at_load) for target in targets)


ALL = [each for name, tree in TREES.items() for each in imports_of(name, tree)]


def of(*importers: str) -> list[Import]:
    return [each for each in ALL if is_under(each.importer, *importers)]


def assert_none(offenders: Iterable[object]) -> None:
    found = list(map(str, offenders))
    assert not found, "\n".join(found)


def test_every_kind_of_import_is_seen() -> None:
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
        from numpy import array
    except ImportError:
        pass
"""
    assert [(each.target, each.at_load) for each in imports_of("made.up", ast.parse(source))] == [
        ("os", True),
        ("distill.bundle", True),
        ("distill.bundle", True),
        ("distill", True),
        ("distill.data", False),
        ("torch.nn", False),
        ("numpy", True),
    ]
    assert {"distill", COMMAND, "export.runtime.sessions"} <= MODULES.keys()
    assert len(ALL) > 200


@pytest.mark.parametrize(
    ("package", "above"),
    [("distill", ("export", "serve", "benchmarks")), ("export", ("serve", "benchmarks")), ("serve", ("benchmarks",))],
)
def test_no_package_imports_one_above_it(package: str, above: tuple[str, ...]) -> None:
    assert_none(each for each in of(package) if is_under(each.target, *above))


def test_nothing_imports_the_tests() -> None:
    assert_none(each for each in ALL if is_under(each.target, "tests", "conftest"))


def test_nothing_imports_the_command() -> None:
    assert_none(each for each in ALL if is_under(each.target, COMMAND) and not each.importer.endswith(".__main__"))


def test_serve_sees_the_runtime_what_to_trust_and_the_torch_free_core() -> None:
    assert_none(
        each
        for each in of("serve")
        if is_under(each.target, *TORCH_ROOMS)
        or (is_under(each.target, "export") and not is_under(each.target, "export.runtime", "export.trust"))
    )


@pytest.mark.parametrize("room", ["export.runtime", "export.trust"])
def test_what_serve_sees_of_export_sees_nothing_else_of_it_and_the_torch_free_core(room: str) -> None:
    assert_none(
        each
        for each in of(room)
        if is_under(each.target, *TORCH_ROOMS) or (is_under(each.target, "export") and not is_under(each.target, room))
    )


def test_torch_is_imported_only_in_its_rooms() -> None:
    assert_none(each for each in of(*SHIPPED) if is_under(each.target, *TORCH) and not is_under(each.importer, *TORCH_ROOMS))


def test_loading_a_module_outside_the_torch_rooms_loads_none_inside() -> None:
    assert_none(
        each
        for each in of(*SHIPPED)
        if each.at_load and is_under(each.target, *TORCH_ROOMS) and not is_under(each.importer, *TORCH_ROOMS)
    )


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: {each.target for each in ALL if each.importer == name} & MODULES.keys() - {name} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_files_are_short() -> None:
    assert_none(
        f"{path.relative_to(ROOT)} has {count} lines, more than {MAX_FILE_LINES}"
        for name, path in MODULES.items()
        if is_under(name, *SHIPPED) and (count := len(path.read_text().splitlines())) > MAX_FILE_LINES
    )


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, tree in TREES.items():
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        yield from ((f"{name}.{node.name}", node) for node in found if is_under(name, *SHIPPED))


def test_functions_are_short() -> None:
    assert_none(
        f"{name} has {length} lines, more than {MAX_FUNCTION_LINES}"
        for name, node in functions()
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    )


def test_functions_other_than_commands_have_few_parameters() -> None:
    assert_none(
        f"{name} has {count} parameters, more than {MAX_PARAMETERS}"
        for name, node in functions()
        if (count := len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])) > MAX_PARAMETERS
        and "with_headings" not in map(ast.unparse, node.decorator_list)
    )


@pytest.mark.parametrize("package", SHIPPED)
def test_no_two_files_of_a_package_have_the_same_name(package: str) -> None:
    names = Counter(path.name for path in (ROOT / package).rglob("*.py") if path.name not in SAME_NAME_ALLOWED)
    assert_none(f"{count} files of {package} are named {name}" for name, count in names.items() if count > 1)


@pytest.mark.parametrize(
    "module", ["distill", "distill.commands", COMMAND, "export.commands", "export.runtime.sessions", "serve.http.app"]
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
