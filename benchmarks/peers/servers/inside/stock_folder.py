"""A Hugging Face folder with the stock int8 export of a student, as the peers' servers take one; made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness.weights import write_portable
from benchmarks.peers import stock
from export.measure.protocol import Job

GRAPH = "model_quantized.onnx"
"""A name that optimum and infinity look for."""


def write_stock_folder(bundle: Path, folder: Path) -> Path:
    """Fill `folder` unless an earlier run did, and return it."""
    if not (folder / GRAPH).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as place:
            made = Path(place) / "made"
            made.mkdir()
            write_portable(bundle, Path(place))
            stock.prepare(Job(bundle=bundle, folder=made, threads=1))
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                shutil.copy(bundle / name, folder / name)
            (made / stock.GRAPH).replace(folder / GRAPH)  # a server that looks for graphs must find one
    return folder
