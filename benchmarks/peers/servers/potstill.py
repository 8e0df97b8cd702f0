"""What ships: `potstill serve` as it comes, without a flag, asked in text-embeddings-inference's protocol."""

from __future__ import annotations

import json

from benchmarks.peers.servers.protocol import ServerPeer, best_label

PEER = ServerPeer(
    name="potstill",
    source="docs/deploy/serve.md",
    settings=({},),
    command=lambda start: [str(start.python), "-m", "distill", "serve", str(start.folder), "--port", str(start.port)],
    path="/predict",
    body=lambda text: {"inputs": text, "truncate": True},
    label=lambda body: best_label(json.loads(body)),
    ready_path="/health/ready",
)
