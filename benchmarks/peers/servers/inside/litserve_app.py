"""The API that LitServe serves; runs in LitServe's environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import litserve

from benchmarks.peers.servers.inside.stock_model import StockModel


class StudentAPI(litserve.LitAPI):
    """A text in, its label and score out."""

    given: Mapping[str, Any]

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the graph, in each worker."""
        self._model = StockModel(
            Path(self.given["folder"]),
            threads=max(1, self.given["threads"] // self.given["workers"]),
        )

    def predict(self, requests: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Answer a batch."""
        answers = self._model.answer([request["text"] for request in requests])
        return [{"label": label, "score": score} for label, score in answers]


def main() -> None:
    """Serve until stopped."""
    given = json.loads(sys.argv[1])
    api = StudentAPI(max_batch_size=given["batch"], batch_timeout=given["timeout_s"])
    api.given = given
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
