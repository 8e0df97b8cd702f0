"""optimum as the writer: Hugging Face's exporter, for a model it knows and ours do not.

It traces with torch's older exporter, so its graph goes through the same gates as ours. Its one release needs an older
transformers than training does, so it lives in an environment of its own (extra `optimum`).
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
    """Return the fp32 graph that optimum's exporter makes, with the inputs and the output every graph of ours has.

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
            raise SettingsError(f"optimum cannot export this model: {exc}; take --exporter portable") from exc
        return without_token_types(onnx.load(out / "model.onnx"))


def without_token_types(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with token types as what they are for single texts: zeros, made inside; changed in place."""
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
        raise SettingsError(f"optimum's graph takes {taken}, wanted {list(INPUT_NAMES)}; take --exporter portable")
    return graph
