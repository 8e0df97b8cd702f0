"""The API that LitServe serves; runs in LitServe's environment.

Annotations are not postponed here: LitServe reads that of `decode_request`.
"""

import json
import sys
from typing import Any

import litserve

from benchmarks.peers.servers.inside.stock_model import StockModel


class StudentAPI(litserve.LitAPI):
    """A text in, its label and score out."""

    def __init__(self, *, folder: str, threads: int, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the graph, in each worker."""
        self._model = StockModel(self._folder, threads=self._threads)

    def decode_request(self, request: dict[str, Any]) -> str:
        """Take the text."""
        return str(request["text"])

    def predict(self, texts: list[str]) -> list[tuple[str, float]]:
        """Answer a batch."""
        return self._model.answer(texts)

    def encode_response(self, output: tuple[str, float]) -> dict[str, Any]:
        """Give label and score."""
        return {"label": output[0], "score": output[1]}


def main() -> None:
    """Serve until stopped."""
    given = json.loads(sys.argv[1])
    api = StudentAPI(
        folder=given["folder"],
        threads=max(1, given["threads"] // given["workers"]),
        max_batch_size=given["batch"],
        batch_timeout=given["timeout_s"],
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given["workers"], fast_queue=given["fast_queue"])
    server.run(
        host="127.0.0.1",
        port=given["port"],
        num_api_servers=given["api_servers"],
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
