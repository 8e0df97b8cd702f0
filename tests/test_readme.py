"""Every command and every Python example of the README and of the pages on fitting and adopting runs as written.

They run in this process, as loading torch anew takes seconds. Teachers are fine-tuned from a tiny encoder: the default one
takes minutes. `fit` and `bench` get flags that make them fast, too.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face import save_encoder, save_trained
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.data import Dataset
from distill.evaluation.floors import TfidfClassifier

ROOT = Path(__file__).parent.parent
NOT_RUN_HERE = ("make demo", "make test", "potstill predict demo/student", "potstill fit --teacher my-finetuned-bert")
MORE = {
    "fit": ("--effort", "quick", "--recipes", "static", "--teacher", "my-encoder"),
    "teacher": ("--model", "my-encoder"),
    "bench": ("--settle-s", "0.1", "--rounds", "3", "--throughput-rounds", "3", "--throughput-texts", "8"),
}
PAGES = ("README.md", "docs/start/steps.md", "docs/start/your-classifier.md")


def blocks(page: str, language: str) -> list[str]:
    content = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", content, flags=re.MULTILINE | re.DOTALL)
    return [content for named, content in found if named == language]


def commands(page: str) -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(NOT_RUN_HERE)]


@pytest.fixture(scope="module")
def workplace(tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    save_encoder(folder / "my-encoder", save_trained(folder / "my-classifier", tiny_teacher, ("LABEL_0", "LABEL_1")))
    write_csv(folder / "reviews.csv", tiny_texts(240))
    write_csv(folder / "test.csv", tiny_texts(60, seed=5))
    return folder


@pytest.fixture
def inside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter the workplace. Its few texts would make a teacher of one or two layers, too few for the pages' students."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("distill.teachers.defaults.FEW_TEXTS", 0)
    return workplace


def test_the_pages_name_every_command_of_the_walkthrough() -> None:
    assert [shlex.split(line)[1] for line in commands("README.md")] == ["fit", "predict", "serve"]
    steps = ["teacher", "distill", "export", "eval", "bench", "predict", "inspect", "score", "serve"]
    assert [shlex.split(line)[1] for line in commands("docs/start/steps.md")] == steps
    assert [shlex.split(line)[1] for line in commands("docs/start/your-csv.md")] == ["fit", "fit", "fit"]
    adopting = ["export", "eval", "predict", "distill", "adopt", "inspect"]
    assert [shlex.split(line)[1] for line in commands("docs/start/your-classifier.md")] == adopting


def assert_serves(arguments: list[str], workplace: Path) -> None:
    """Start the server, send it a request as the README shows, and stop it with SIGTERM."""
    with subprocess.Popen([sys.executable, "-m", "distill", *arguments], cwd=workplace) as process:
        try:
            answer = asked("http://127.0.0.1:8080/", {"inputs": "a masterpiece of boredom"}, seconds=60)
        finally:
            process.terminate()
        assert {found["label"] for found in answer[0]} == {"negative", "positive"}
        assert process.wait(30) == 0


def asked(address: str, body: dict[str, str], *, seconds: float) -> Any:
    """Post a request, and repeat it until the server answers."""
    end = time.monotonic() + seconds
    while True:
        request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.loads(reply.read())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("short_fits")
@pytest.mark.parametrize("page", PAGES)
def test_commands_run_as_they_stand(page: str, inside: Path, potstill: Callable[..., Outcome]) -> None:
    for line in commands(page):
        program, *arguments = shlex.split(line)
        assert program == "potstill"
        if arguments[0] == "serve":
            assert_serves(arguments, inside)
            continue
        done = potstill(*arguments, *MORE.get(arguments[0], ()))
        assert done.code == 0, f"{line}\n{done.err}"
        assert done.out.strip(), line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_runs_as_it_stands(page: str, inside: Path) -> None:
    examples = blocks(page, "python")
    assert examples
    for example in examples:
        exec(compile(example.replace("builtin:minilm", "my-encoder"), page, "exec"), {"__name__": "__main__"})


def test_the_floor_that_a_page_deploys_is_the_one_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, others = tiny_texts(120), [text for text, _ in tiny_texts(20, seed=5)]
    write_csv(tmp_path / "reviews.csv", texts)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("".join(blocks("docs/choose/do-i-need-distillation.md", "python")), names)
    measured = TfidfClassifier(Dataset.from_texts([text for text, _ in texts], [label for _, label in texts]))
    assert names["floor"].predict_log_proba(others) == pytest.approx(measured.predict_logits(others), abs=1e-5)
