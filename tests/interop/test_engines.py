"""The recipes of the bulk section, run as they stand there by Spark and by Dask."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_task import tiny_texts

from distill.bundle import Bundle
from distill.classifier import predict
from export.runtime import OnnxClassifier

ROOT = Path(__file__).parents[2]

BEFORE = "import os, sys, json; os.chdir(sys.argv[1])\nos.environ['PYSPARK_PYTHON'] = sys.executable\n"
AFTER = "\nprint(json.dumps('done'))\n"


def recipe(engine: str) -> str:
    [code] = re.findall(rf"```python\n# {engine}\n(.*?)```", (ROOT / "serve" / "README.md").read_text(), re.DOTALL)
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
