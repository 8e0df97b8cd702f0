"""A bundle in the file layouts of other tools, or as small as it can be served, in another folder; the bundle does not change.

Graphs and tokenizers are copied, not converted, so that the answers are those of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from distill.bundle import CONFIG, GRAPH_OF_PRECISION, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, Bundle
from distill.errors import SettingsError
from distill.manifest import SCHEMA
from distill.settings import Precision
from distill.storage import write_atomically
from export.settings import Layout
from export.web.browser import page_files

MAX_BATCH = 64


def write_layout(bundle: Bundle, layout: Layout, out: Path, *, precision: Precision | None = None) -> list[Path]:
    """Write a bundle in another tool's layout and return the files.

    Args:
        bundle: A bundle with at least one graph.
        layout: "optimum": `model.onnx`, `model_quantized.onnx` and Hugging Face's files in one folder.
            "transformers.js": the same with the graphs under `onnx/`, as the library looks for them.
            "triton": a model repository of Triton and KServe, `out/NAME/config.pbtxt` and `out/NAME/1/model.onnx`, where
            NAME is the bundle's folder; the client tokenizes, so `tokenizer.json` comes along.
            "web": a page that answers in the browser; see `export.web.browser`.
            "bundle": a bundle of one graph, the tokenizer and the manifest, which is what `--max-mb` counts.
        out: The folder to write; it must be empty or not exist.
        precision: The only graph to write; None: int8 where one must be chosen, else all of them.

    Raises:
        SettingsError: `out` is not empty, the layout is unknown, or it cannot be made of this bundle.
        BundleError: The bundle has no such graph.
        StorageError: `out` cannot be written.
    """
    if layout not in get_args(Layout):
        raise SettingsError(f"layout is {layout!r}, wanted one of {list(get_args(Layout))}")
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty; name another folder with --layout-out")
    bundle.best_precision()
    files = _files_of(bundle, layout, precision)
    for name, content in files.items():
        write_atomically(out / name, content)
    return [out / name for name in files]


def _files_of(bundle: Bundle, layout: Layout, precision: Precision | None) -> dict[str, bytes | str]:
    """Return the content of each file by its name."""
    if layout == "web":
        return page_files(bundle, precision)
    if layout == "bundle":
        return _served_files(bundle, precision or bundle.best_precision())
    if layout == "triton":
        return _triton_files(bundle, precision or bundle.best_precision())
    return _hugging_face_files(bundle, layout, (precision,) if precision else bundle.manifest.precisions)


def triton_config(bundle: Bundle, *, name: str, precision: Precision) -> str:
    """Return `config.pbtxt` for the graph that `write_layout` puts there.

    Triton may batch requests only where that cannot change an answer: fp32, and int8 with fixed scales.
    """
    scales = bundle.manifest.settings.get("export", {}).get("activations", "fixed")
    batching = "" if precision == "int8" and scales == "dynamic" else "dynamic_batching { }\n"
    inputs = ",\n".join(
        f'  {{ name: "{given}" data_type: TYPE_INT64 dims: [ -1 ] }}' for given in bundle.tokenizer().input_names
    )
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


def _served_files(bundle: Bundle, precision: Precision) -> dict[str, bytes | str]:
    content = {TOKENIZER: bundle.read(TOKENIZER), GRAPH_OF_PRECISION[precision]: bundle.read_graph(precision)}
    kept = {name: bundle.manifest.files[name] for name in content}
    changes = {"files": kept, "precisions": (precision,), "schema_version": SCHEMA}
    return {**content, MANIFEST: bundle.manifest.model_copy(update=changes).to_bytes()}


def _hugging_face_files(bundle: Bundle, layout: Layout, precisions: Sequence[Precision]) -> dict[str, bytes | str]:
    folder = "onnx/" if layout == "transformers.js" else ""
    graphs: dict[Precision, str] = {"fp32": f"{folder}model.onnx", "int8": f"{folder}model_quantized.onnx"}
    return {
        **{name: bundle.read(name) for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG)},
        **{graphs[precision]: bundle.read_graph(precision) for precision in precisions},
    }


def _triton_files(bundle: Bundle, precision: Precision) -> dict[str, bytes | str]:
    model = bundle.path.resolve().name
    return {
        f"{model}/1/model.onnx": bundle.read_graph(precision),
        f"{model}/config.pbtxt": triton_config(bundle, name=model, precision=precision),
        f"{model}/labels.txt": "".join(f"{label}\n" for label in bundle.labels),
        f"{model}/{TOKENIZER}": bundle.read(TOKENIZER),
    }
