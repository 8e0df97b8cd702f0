"""Public names of a package that are imported on first use, so that importing the package is fast and loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from distill.errors import requires


def importer_of(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package.

    Args:
        package: Name of the package.
        modules: Public names by the module, below the package, that defines them.
    """
    homes = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def import_name(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with requires(f"{package}.{name}"):
            return getattr(import_module(homes[name]), name)

    return import_name
