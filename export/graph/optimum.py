"""The Optimum writer: Hugging Face's exporter, for models that it supports and our writers do not.

It traces with the older exporter of torch; its graph passes the same gates as the others. Its only release needs an older
transformers than training does, so it needs its own environment (extra `optimum`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import helper

from distill.errors import SettingsError, requires
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.tokenization import INPUT_NAMES

ZEROED_INPUT = "token_type_ids"


def write_optimum_graph(classifier: TorchClassifier) -> onnx.ModelProto:
    """Return the fp32 graph of the Optimum exporter, with the inputs and the output of our other graphs.

    Raises:
        MissingExtraError: optimum is not installed.
        SettingsError: optimum cannot export this architecture.
    """
    with requires("--exporter optimum"):
        from optimum.exporters.onnx import main_export
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model", Path(folder) / "onnx"
        model.mkdir()
        write_model_files(classifier, model)
        try:
            main_export(str(model), output=out, task="text-classification", device="cpu", do_validation=False)
        except (ValueError, KeyError, NotImplementedError) as exc:
            raise SettingsError(f"optimum cannot export this model: {exc}; use --exporter portable") from exc
        graph = onnx.load(out / "model.onnx")
        return graph if classifier.tokenizer.pairs == "typed" else without_token_types(graph)


def without_token_types(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the input of token types by zeros, which is what single texts have, in place, and return the graph."""
    inputs = graph.graph.input
    for place, given in enumerate(inputs):
        if given.name == ZEROED_INPUT:
            del inputs[place]
            graph.graph.node.insert(
                0, helper.make_node("Sub", ["input_ids", "input_ids"], [ZEROED_INPUT], name="zero_token_types")
            )
            break
    taken = [given.name for given in inputs]
    if sorted(taken) != sorted(INPUT_NAMES):
        raise SettingsError(f"the graph of optimum has inputs {taken}, expected {list(INPUT_NAMES)}; use --exporter portable")
    return graph
