"""infinity-emb: its `optimum` engine on the stock int8 export, `/classify`.

It prefers a file whose name holds "quantize" on a CPU and by default optimizes the graph once more; both ways are tried.
It has no way to cut a text that is too long for the student and answers nothing any more after one, its own warm-up texts
included: the client cuts them, for every server. Lengths are only counted for its usage figures; by characters is its
cheaper documented way.
"""

from __future__ import annotations

import json

from benchmarks.peers.servers.protocol import ServerPeer, Start, best_label


def _command(start: Start) -> list[str]:
    # Asked for a folder, infinity hands optimum a file name with the folder in it, which optimum 2 refuses.
    for path in start.folder.iterdir():
        (start.work / path.name).symlink_to(path)
    return [
        *(str(start.python), "-m", "infinity_emb.cli", "v2", "--model-id", ".", "--served-model-name", "student"),
        *("--host", "127.0.0.1", "--port", str(start.port), "--log-level", "warning"),
        *("--engine", "optimum", "--device", "cpu", "--batch-size", str(start.setting["batch_size"])),
        *("--no-model-warmup", "--no-lengths-via-tokenize", "--no-vector-disk-cache"),
        *("--no-trust-remote-code", "--no-bettertransformer"),
        *([] if start.setting["optimize"] else ["--onnx-disable-optimize"]),
    ]


PEER = ServerPeer(
    name="infinity",
    source="https://michaelfeil.eu/infinity/latest/cli_v2/ "
    "(optimum on a CPU, as https://github.com/michaelfeil/infinity advises)",
    settings=(
        {"batch_size": 32, "optimize": False},
        {"batch_size": 32, "optimize": True},
        {"batch_size": 8, "optimize": False},
    ),
    command=_command,
    path="/classify",
    body=lambda text: {"model": "student", "input": [text]},
    label=lambda body: best_label(json.loads(body)["data"][0]),
    ready_path="/health",
    # infinity asks for numpy 1, ours are built for numpy 2; optimum 2 keeps its ONNX classes in a package of their own.
    packages=(
        *("infinity-emb[server,optimum]==0.0.78", "sentence-transformers==3.4.1", "optimum-onnx[onnxruntime]==0.1.0"),
        *("transformers==4.57.6", "numpy==1.26.4", "pandas==2.3.3", "pyarrow==21.0.0", "datasets==4.0.0"),
        *("scikit-learn==1.7.2", "scipy==1.15.3"),
    ),
    variables={"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
)
