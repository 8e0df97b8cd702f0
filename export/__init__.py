"""ONNX graphs of a bundle: writing, quantizing, gating, running and measuring them.

`export.runtime` needs no torch; the rest of the package needs the `export` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.lazy import importer_of

if TYPE_CHECKING:
    from export.pipeline import export_bundle as export_bundle
    from export.runtime.sessions import OnnxClassifier as OnnxClassifier
    from export.settings import ExportSettings as ExportSettings

_PUBLIC = {
    "pipeline": ("export_bundle",),
    "runtime.sessions": ("OnnxClassifier",),
    "settings": ("ExportSettings",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = importer_of(__name__, _PUBLIC)
