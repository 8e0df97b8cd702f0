"""ONNX graphs of a bundle: writing, quantizing, gating, running and measuring them.

`export.runtime.sessions` answers without torch; the rest of the package needs the `export` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.pipeline import export_bundle as export_bundle
    from export.runtime.sessions import OnnxClassifier as OnnxClassifier
    from export.settings import ExportSettings as ExportSettings

_HOMES = {
    "OnnxClassifier": "export.runtime.sessions",
    "export_bundle": "export.pipeline",
    "ExportSettings": "export.settings",
}

__all__ = ["ExportSettings", "OnnxClassifier", "export_bundle"]


def __getattr__(name: str) -> object:
    """Import on first use, so that `import export` costs nothing and never loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from distill.errors import requires

    with requires(f"export.{name}"):
        return getattr(importlib.import_module(_HOMES[name]), name)
