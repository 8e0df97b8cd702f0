"""LitServe: batching and workers as its documentation has them, over the stock int8 export.

The API it serves stands in `inside/litserve_app.py`, which runs in LitServe's environment.
"""

from __future__ import annotations

import json

from benchmarks.peers.servers.protocol import ServerPeer
from distill.machine import available_cpus

PEER = ServerPeer(
    name="litserve",
    source="https://lightning.ai/docs/litserve/features/batching and /api-reference/litserver (CPU workers, fast_queue)",
    settings=(
        {"workers": 1, "api_servers": 1, "batch": 32, "timeout_s": 0.0, "fast_queue": True},
        {"workers": 1, "api_servers": 1, "batch": 16, "timeout_s": 0.005, "fast_queue": True},
        {"workers": 2, "api_servers": 1, "batch": 16, "timeout_s": 0.0, "fast_queue": True},
        {"workers": 2, "api_servers": 2, "batch": 16, "timeout_s": 0.0, "fast_queue": True},
        {"workers": 2, "api_servers": 2, "batch": 16, "timeout_s": 0.005, "fast_queue": False},
    ),
    command=lambda start: [
        *(str(start.python), "-m", "benchmarks.peers.servers.inside.litserve_app"),
        json.dumps({"folder": str(start.folder), "port": start.port, "threads": available_cpus(), **start.setting}),
    ],
    path="/predict",
    body=lambda text: {"text": text},
    label=lambda body: str(json.loads(body)["label"]),
    ready_path="/health",
    packages=("litserve==0.2.19",),
)
