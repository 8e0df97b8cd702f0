"""The recipes of docs/deploy/bulk-scoring.md, run as written by Spark and by Dask."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_task import tiny_texts

from distill.bundle import Bundle
from distill.classifier import predict
from export.runtime.sessions import OnnxClassifier

ROOT = Path(__file__).parents[2]

BEFORE = "import os, sys, json; os.chdir(sys.argv[1])\nos.environ['PYSPARK_PYTHON'] = sys.executable\n"
RAY_SERVE = """
import json, os, sys, urllib.request
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60")
import ray
from ray import serve
from serve.ray_serve import build
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
try:
    serve.start(http_options={"port": int(sys.argv[2])})
    serve.run(build({"bundle": sys.argv[1], "max_texts": "3"}))
    body = json.dumps({"inputs": sys.argv[3]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[2]}/", body, {"content-type": "application/json"})
    answer = json.load(urllib.request.urlopen(request))
finally:
    serve.shutdown()
    ray.shutdown()
print(json.dumps(answer))
"""

AFTER = "\nprint(json.dumps('done'))\n"


def recipe(engine: str) -> str:
    [code] = re.findall(
        rf"```python\n# {engine}\n(.*?)```", (ROOT / "docs" / "deploy" / "bulk-scoring.md").read_text(), re.DOTALL
    )
    return str(code)


@pytest.mark.other_side
@pytest.mark.parametrize("engine", ["Spark", "Dask"])
def test_the_recipe_gives_the_labels_of_predict(
    tmp_path: Path, tiny_student: Bundle, in_engines: Callable[..., Any], engine: str
) -> None:
    texts = [text for text, _ in tiny_texts(300)]
    (tmp_path / "reviews").mkdir()
    for part in range(2):
        ids = range(part * 150, part * 150 + 150)
        pq.write_table(pa.table({"id": ids, "text": [texts[number] for number in ids]}), tmp_path / f"reviews/{part}.parquet")
    shutil.copytree(tiny_student.path, tmp_path / "student")
    assert in_engines(BEFORE + recipe(engine) + AFTER, tmp_path) == "done"
    found = pq.read_table(tmp_path / "labels").sort_by("id")
    answers = predict(OnnxClassifier.open(tiny_student), texts)
    assert found["id"].to_pylist() == list(range(300))
    assert found["label"].to_pylist() == [answer.label for answer in answers]


@pytest.mark.other_side
def test_ray_serve_answers_as_the_server_does(tiny_student: Bundle, in_engines: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = "a lovely moving film"
    answer = in_engines(RAY_SERVE, tiny_student.path, port, text)
    [wanted] = predict(OnnxClassifier.open(tiny_student), [text])
    first = answer[0][0] if isinstance(answer[0], list) else answer[0]
    assert first["label"] == wanted.label
    assert first["score"] == pytest.approx(wanted.score, abs=1e-6)
