"""The portable writer: `torch.onnx.export`, standard ops only, any architecture.

Always with `dynamo=True`: with torch 2.13 the older exporter writes a BERT graph that loads, runs and is wrong by up to 0.24
in the logits.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor, nn

from distill.models.devices import eager_attention
from distill.models.static_network import FoldedStatic, StaticClassifier
from distill.models.torch_classifier import TorchClassifier
from distill.tokenization import INPUT_NAMES, TYPE_INPUT

# The lowest opset with Gelu as one op: below 20 the exporter writes five ops, each of them a pass over the widest activations.
OPSET = 20
OUTPUT_NAME = "logits"
_TRACED_TEXTS = ("a masterpiece of boredom", "nothing here is as it was said to be , and yet one stays")


class LogitsOnly(nn.Module):
    """The model with the inputs and the output of the graph: two or three tensors in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(**dict(zip((*INPUT_NAMES, TYPE_INPUT), inputs, strict=False))).logits


def write_portable_graph(classifier: TorchClassifier) -> onnx.ModelProto:
    """Return the fp32 graph, weights inside, both input axes symbolic ("batch", "length")."""
    batch = classifier.tokenizer.pad(classifier.tokenizer.encode(_TRACED_TEXTS)).inputs()
    inputs = tuple(map(torch.from_numpy, batch.values()))
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=classifier.tokenizer.max_length)}
    # A static model is fastest with its linear layer computed in advance for every token.
    model = FoldedStatic(classifier.model) if isinstance(classifier.model, StaticClassifier) else classifier.model
    # Eager attention computes the same as the fused one of PyTorch, without its guards against rows that are all masked, which
    # no text has: a fifth fewer nodes.
    with _quiet_exporter(), torch.no_grad(), eager_attention(classifier.model):
        program = torch.onnx.export(
            LogitsOnly(model).cpu().eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(tuple(dict(axes) for _ in inputs),),
            input_names=list(batch),
            output_names=[OUTPUT_NAME],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return _without_the_machine(program.model_proto)


def _without_the_machine(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the stack traces and docs that the exporter writes into nodes: they contain paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which prints its steps and warns about torchvision and renamed axes."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
