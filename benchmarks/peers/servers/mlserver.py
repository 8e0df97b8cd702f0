"""MLServer: a custom runtime over the stock int8 export, adaptive batching and workers tried as its documentation advises.

Not its Hugging Face runtime: that one pins an optimum older than the graph's. The runtime stands in `inside/mlserver_model.py`.
"""

from __future__ import annotations

import json

from benchmarks.peers.servers.protocol import ServerPeer, Start
from export.measure.workers import ROOT

SOURCE = "https://docs.seldon.ai/mlserver/user-guide/custom, /adaptive-batching and /parallel-inference (found by trying)"


def _command(start: Start) -> list[str]:
    setting, port = start.setting, start.port
    server = {"debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    server |= {"parallel_workers": setting["workers"], "gzip_enabled": False}
    model = {
        "name": "student",
        "implementation": "benchmarks.peers.servers.inside.mlserver_model.StudentRuntime",
        "max_batch_size": setting["batch"],
        "max_batch_time": setting["batch_s"],
        "parameters": {"uri": str(start.folder), "extra": {"threads": max(1, start.threads // max(1, setting["workers"]))}},
    }
    (start.work / "settings.json").write_text(json.dumps(server))
    (start.work / "model-settings.json").write_text(json.dumps(model))
    return [str(start.python), "-m", "mlserver.cli.main", "start", "."]


def _request(text: str) -> dict[str, object]:
    return {"inputs": [{"name": "texts", "shape": [1], "datatype": "BYTES", "data": [text]}]}


PEER = ServerPeer(
    name="mlserver",
    source=SOURCE,
    settings=(
        {"workers": 0, "batch": 32, "batch_s": 0.001},
        {"workers": 0, "batch": 16, "batch_s": 0.005},
        {"workers": 0, "batch": 0, "batch_s": 0.0},
        {"workers": 1, "batch": 32, "batch_s": 0.001},
        {"workers": 2, "batch": 16, "batch_s": 0.001},
    ),
    command=_command,
    path="/v2/models/student/infer",
    body=_request,
    label=lambda body: str(json.loads(body)["outputs"][0]["data"][0]),
    ready_path="/v2/models/student/ready",
    # httptools comes with uvicorn[standard]; later versions of uvloop end its workers.
    packages=("mlserver==1.7.1", "uvicorn[standard]", "uvloop==0.21.0"),
    variables={"PYTHONPATH": str(ROOT)},
)
