"""The error for a missing package names the extra to install; public names are imported on first use."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import distill
import export
from distill.bundle import Bundle
from distill.errors import EXTRA_OF_PACKAGE, MissingExtraError, requires

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
DISTRIBUTION_OF_PACKAGE = {
    "sklearn": "scikit-learn",
    "optimum": "optimum-onnx",
    "OpenSSL": "pyopenssl",
    "opentelemetry": "opentelemetry-exporter-otlp-proto-http",  # depends on the rest
}
"""Packages whose distribution has another name, beyond dashes for underscores."""


def distribution_of(package: str) -> str:
    return DISTRIBUTION_OF_PACKAGE.get(package, package.replace("_", "-"))


def name_in(requirement: str) -> str:
    return requirement.partition(";")[0].partition("[")[0].rstrip("0123456789.*").rstrip("<>=!~ ")


def packages_by_extra() -> dict[str, set[str]]:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    return {extra: {name_in(line) for line in lines} - {"potstill"} for extra, lines in extras.items()}


@pytest.mark.parametrize("package", EXTRA_OF_PACKAGE)
def test_a_missing_package_is_refused_with_the_pip_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # imports of it fail as if it were missing
    with pytest.raises(MissingExtraError) as caught, requires("training a teacher"):
        importlib.import_module(package)
    extra = EXTRA_OF_PACKAGE[package]
    assert str(caught.value) == (
        f"training a teacher needs the package {package!r}, which is not installed; run: pip install 'potstill[{extra}]'"
    )
    assert (caught.value.extra, caught.value.package) == (extra, package)


def test_a_missing_part_of_a_package_counts_as_the_package() -> None:
    with pytest.raises(MissingExtraError, match="needs the package 'torch'"), requires("training"):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")


def test_a_missing_module_of_no_extra_is_an_ordinary_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), requires("training"):
        importlib.import_module("no_such_module")


def test_other_errors_of_an_import_pass_unchanged() -> None:
    with pytest.raises(ImportError, match="cannot import name") as caught, requires("training"):
        raise ImportError("cannot import name 'x' from 'torch'", name="torch")
    assert not isinstance(caught.value, MissingExtraError)


def test_every_package_is_in_the_extra_named_for_it() -> None:
    declared = packages_by_extra()
    for package, extra in EXTRA_OF_PACKAGE.items():
        assert distribution_of(package) in declared[extra], package


def test_every_package_of_an_extra_is_known() -> None:
    known = {distribution_of(package) for package in EXTRA_OF_PACKAGE}
    for extra, packages in packages_by_extra().items():
        if extra not in {"dev", "docs"}:  # for contributors: no code of the packages imports them
            assert packages <= known, extra


def test_a_public_name_whose_stage_is_not_installed_names_the_extra() -> None:
    """In a process of its own: modules that are imported twice in this one would differ for later tests."""
    program = "import sys; sys.modules['torch'] = None; import distill; distill.fit_teacher"
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "MissingExtraError: distill.fit_teacher needs the package 'torch'" in failed.stderr


@pytest.mark.parametrize("package", [distill, export])
def test_every_public_name_is_defined_in_its_module(package: ModuleType) -> None:
    """And mypy sees the same names: those that are imported under TYPE_CHECKING."""
    for module, names in package._PUBLIC.items():
        tree = ast.parse(Path(str(importlib.util.find_spec(f"{package.__name__}.{module}").origin)).read_text())
        known = {name for node in ast.walk(tree) for name in (getattr(node, "name", None), getattr(node, "asname", None))}
        known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert set(names) <= known, module
    tree = ast.parse(Path(str(package.__file__)).read_text())
    typed = [
        alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
    ]
    assert sorted(package.__all__) == sorted(typed)


def test_a_public_name_is_the_one_of_its_module() -> None:
    assert distill.Bundle is Bundle
    assert {"Bundle", "fit_student"} <= set(distill.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'distill' has no attribute 'fit_pupil'"):
        _ = distill.fit_pupil
