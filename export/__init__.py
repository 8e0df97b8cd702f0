"""ONNX graphs of a bundle: writing, quantizing, gating, running and measuring them.

`export.runtime` needs no torch; the rest of the package needs the `export` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.lazy import importer_of

if TYPE_CHECKING:
    from export.fitting.reporting.result import FitReport as FitReport
    from export.fitting.run import NothingFitsError as NothingFitsError
    from export.fitting.run import fit as fit
    from export.fitting.run import plan_fit as plan_fit
    from export.pipeline import export_bundle as export_bundle
    from export.runtime.sessions import OnnxClassifier as OnnxClassifier
    from export.settings import ExportSettings as ExportSettings
    from export.settings import FitSettings as FitSettings

_PUBLIC = {
    "fitting.reporting.result": ("FitReport",),
    "fitting.run": ("NothingFitsError", "fit", "plan_fit"),
    "pipeline": ("export_bundle",),
    "runtime.sessions": ("OnnxClassifier",),
    "settings": ("ExportSettings", "FitSettings"),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = importer_of(__name__, _PUBLIC)
