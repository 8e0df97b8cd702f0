"""MLServer: a custom runtime over the stock int8 export, adaptive batching and workers tried as its documentation advises.

Not its Hugging Face runtime: that one pins an optimum older than the graph's. The runtime stands in `inside/mlserver_model.py`.
"""

from __future__ import annotations

import json

from benchmarks.peers.servers.protocol import ServerPeer, Start
from distill.machine import available_cpus


def _command(start: Start) -> list[str]:
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": start.port,
        "grpc_port": start.port + 1,
        "metrics_port": start.port + 2,
        "parallel_workers": start.setting["workers"],
        "gzip_enabled": False,
    }
    model = {
        "name": "student",
        "implementation": "benchmarks.peers.servers.inside.mlserver_model.StudentRuntime",
        "max_batch_size": start.setting["batch"],
        "max_batch_time": start.setting["batch_s"],
        "parameters": {
            "uri": str(start.folder),
            "extra": {"threads": max(1, available_cpus() // max(1, start.setting["workers"]))},
        },
    }
    (start.work / "settings.json").write_text(json.dumps(server))
    (start.work / "model-settings.json").write_text(json.dumps(model))
    return [str(start.python), "-m", "mlserver.cli.main", "start", "."]


PEER = ServerPeer(
    name="mlserver",
    source="https://docs.seldon.ai/mlserver/user-guide/custom, /adaptive-batching and /parallel-inference (found by trying)",
    settings=(
        {"workers": 0, "batch": 32, "batch_s": 0.001},
        {"workers": 0, "batch": 16, "batch_s": 0.005},
        {"workers": 0, "batch": 0, "batch_s": 0.0},
        {"workers": 1, "batch": 32, "batch_s": 0.001},
        {"workers": 2, "batch": 16, "batch_s": 0.001},
    ),
    command=_command,
    path="/v2/models/student/infer",
    body=lambda text: {"inputs": [{"name": "texts", "shape": [1], "datatype": "BYTES", "data": [text]}]},
    label=lambda body: str(json.loads(body)["outputs"][0]["data"][0]),
    ready_path="/v2/models/student/ready",
    # httptools comes with uvicorn[standard]; later versions of uvloop end its workers.
    packages=("mlserver==1.7.1", "uvicorn[standard]", "uvloop==0.21.0"),
)
