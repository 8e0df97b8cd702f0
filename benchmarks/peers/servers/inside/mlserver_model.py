"""The runtime that MLServer serves; runs in MLServer's environment."""

from __future__ import annotations

from pathlib import Path

from mlserver import MLModel, types
from mlserver.codecs import StringCodec

from benchmarks.peers.servers.inside.stock_model import StockModel


class StudentRuntime(MLModel):
    """Texts in, labels and scores out."""

    async def load(self) -> bool:
        """Load the graph."""
        self._model = StockModel(Path(self.settings.parameters.uri), threads=self.settings.parameters.extra["threads"])
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Answer a batch."""
        answers = self._model.answer(StringCodec.decode_input(payload.inputs[0]))
        return types.InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[
                StringCodec.encode_output("label", [label for label, _ in answers]),
                types.ResponseOutput(
                    name="score", shape=[len(answers), 1], datatype="FP32", data=[score for _, score in answers]
                ),
            ],
        )
