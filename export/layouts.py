"""A bundle in the file layouts of other tools, written to another folder; the bundle itself keeps its layout.

Files are copied, not converted, so that the answers are those of the bundle.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from distill.bundle import CONFIG, TOKENIZER, TOKENIZER_CONFIG, Bundle
from distill.errors import SettingsError
from distill.storage import write_atomically, writing_to
from distill.tokenization import INPUT_NAMES
from export.settings import Layout

MAX_BATCH = 64


def write_layout(bundle: Bundle, layout: Layout, out: Path) -> list[Path]:
    """Write a bundle in another tool's layout and return the files.

    Args:
        bundle: A bundle with at least one graph.
        layout: "optimum": `model.onnx`, `model_quantized.onnx` and Hugging Face's files in one folder.
            "transformers.js": the same with the graphs under `onnx/`, as the library looks for them.
            "triton": a model repository of Triton and KServe, `out/NAME/config.pbtxt` and `out/NAME/1/model.onnx`, where
            NAME is the bundle's folder; the client tokenizes, so `tokenizer.json` comes along.
        out: The folder to write; it must be empty or not exist.

    Raises:
        SettingsError: `out` is not empty, or the layout is unknown.
        BundleError: The bundle has no graph.
        StorageError: `out` cannot be written.
    """
    if layout not in get_args(Layout):
        raise SettingsError(f"layout is {layout!r}, wanted one of {list(get_args(Layout))}")
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty; name another folder with --layout-out")
    bundle.best_precision()
    return list(_triton_files(bundle, out) if layout == "triton" else _hugging_face_files(bundle, layout, out))


def triton_config(bundle: Bundle, *, name: str) -> str:
    """Return `config.pbtxt` for the graph that `write_layout` puts there.

    Triton may batch requests only where that cannot change an answer: fp32, and int8 with fixed scales.
    """
    scales = bundle.manifest.settings.get("export", {}).get("activations", "fixed")
    batching = "" if bundle.best_precision() == "int8" and scales == "dynamic" else "dynamic_batching { }\n"
    inputs = ",\n".join(f'  {{ name: "{given}" data_type: TYPE_INT64 dims: [ -1 ] }}' for given in INPUT_NAMES)
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
{inputs}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {len(bundle.labels)} ] label_filename: "labels.txt" }}
]
{batching}instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
"""


def _hugging_face_files(bundle: Bundle, layout: Layout, out: Path) -> Iterator[Path]:
    for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG):
        yield _copied(bundle.file(name), out / name)
    graphs = out / "onnx" if layout == "transformers.js" else out
    precisions = bundle.manifest.precisions
    if "fp32" in precisions:
        yield _copied(bundle.graph("fp32"), graphs / "model.onnx")
    if "int8" in precisions:
        yield _copied(bundle.graph("int8"), graphs / "model_quantized.onnx")


def _triton_files(bundle: Bundle, out: Path) -> Iterator[Path]:
    model = out / bundle.path.resolve().name
    yield _copied(bundle.graph(bundle.best_precision()), model / "1" / "model.onnx")
    yield _written(triton_config(bundle, name=model.name), model / "config.pbtxt")
    yield _written("".join(f"{label}\n" for label in bundle.labels), model / "labels.txt")
    yield _copied(bundle.file(TOKENIZER), model / TOKENIZER)


def _copied(source: Path, target: Path) -> Path:
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return target


def _written(content: str, target: Path) -> Path:
    write_atomically(target, content)
    return target
