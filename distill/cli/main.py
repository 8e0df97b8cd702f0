"""The `potstill` command: its subcommands by name, the settings file, and exit codes.

Each stage's `commands` module holds the flags of its subcommands and prints their results. It is imported only when one
of them runs, so `potstill --help` loads neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Group, Parameter

from distill.cli.flags import shown_default
from distill.cli.terminal import exiting, settings_file

COMMANDS = {
    "fit": (
        "export.commands:fit",
        "Train, export and measure the student that fits a budget of time, size and quality, and write a report.",
        "--train reviews.csv --max-ms 1 --max-mb 10 --out reviews",
    ),
    "demo": (
        "export.commands:demo",
        "Run fit on built-in movie sentences: teacher, students, graphs, measurements, report.",
        "--out demo --profile quick",
    ),
    "ask": (
        "distill.asking.commands:ask",
        "Label texts with a language model behind an OpenAI-compatible endpoint. An interrupted run resumes where it stopped.",
        "--task task.toml --input texts.csv --endpoint http://127.0.0.1:8080/v1 --model smollm2 --out answers",
    ),
    "audit": (
        "distill.asking.commands:audit",
        "Judge the answers of `potstill ask` on a page: quality, calibration, influence of label order, suspect texts.",
        "answers --gold labelled_by_hand.csv",
    ),
    "select": (
        "distill.commands:select",
        "Rank pretrained encoders for your data without fine-tuning them.",
        "--train reviews.csv --candidates builtin:minilm teacher",
    ),
    "teacher": (
        "distill.commands:teacher",
        "Fine-tune a teacher on your data, from a pretrained encoder or from the bundle of another task.",
        "--train reviews.csv --out teacher",
    ),
    "adopt": (
        "distill.commands:adopt",
        "Convert a fine-tuned Hugging Face classifier into a bundle, without training.",
        "my-classifier --out teacher --validation held_out.csv",
    ),
    "distill": (
        "distill.commands:distill",
        "Train a student on your labels and on the logits of a teacher.",
        "teacher --train reviews.csv --out student --num-layers 2",
    ),
    "export": (
        "export.commands:export",
        "Write the ONNX graphs of a bundle and verify them. If a check fails, exit with 4 and change nothing.",
        "student --validation held_out.csv",
    ),
    "eval": (
        "export.commands:evaluate",
        "Measure the quality of bundles on --test: F1, precision, recall, calibration, agreement with --teacher.",
        "student --teacher teacher --test test.csv",
    ),
    "bench": (
        "export.commands:bench",
        "Measure latency, throughput, size, memory and quality of a bundle; the result is saved in the bundle.",
        "student --teacher teacher --test test.csv",
    ),
    "predict": (
        "export.commands:predict",
        "Label texts from arguments, a file or stdin. Prints label, score and text, separated by tabs.",
        'student "a masterpiece of boredom"',
    ),
    "score": (
        "serve.bulk.commands:score",
        "Label a large table on one machine or on a Ray cluster. An interrupted run resumes where it stopped.",
        "student --input reviews/ --output labels/ --key id",
    ),
    "serve": (
        "serve.commands:serve",
        "Serve bundles over HTTP, in the protocols of Hugging Face, text-embeddings-inference and Open Inference.",
        "student",
    ),
    "cascade": (
        "export.commands:cascade",
        "Find the confidence below which a student passes a text on to a larger model (potstill serve --fallback).",
        "student teacher --validation validation.csv",
    ),
    "inspect": (
        "export.trust.commands:inspect",
        "Verify the files of a bundle, and show its contents, origin and measurements.",
        "student",
    ),
    "sign": (
        "export.trust.commands:sign",
        "Sign a bundle, so that others can verify it with your public key (potstill inspect --verify-key).",
        "student --key private.pem",
    ),
    "push": (
        "export.trust.commands:push",
        "Upload a bundle and its card to the Hugging Face hub (extra: push). Needs a token: HF_TOKEN or `hf auth login`.",
        "student my-name/my-classifier",
    ),
}
"""Name -> where its function is, one line of help, the arguments of its example; in the order of the help."""


def _version() -> str:
    from importlib.metadata import version  # 20 ms, which `--help` need not pay

    return version("potstill")


app = App(
    name="potstill",
    help="Turn a large text classifier into a small, fast one, and measure what that cost.",
    help_epilogue="Example, every step on built-in data: potstill demo --out demo",
    version=_version,
    default_parameter=Parameter(consume_multiple=True, negative=(), show_default=shown_default),
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False  # the meta app has its own setting; `main` reports the interruption
for place, (name, (target, line, example)) in enumerate(COMMANDS.items()):
    app.command(target, name=name, help=line, help_epilogue=f"Example: potstill {name} {example}", sort_key=place)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            group=Group("Configuration", sort_key=99),
            help="TOML file with settings, one table per command ([distill]); flags override it",
        ),
    ] = None,
) -> object:
    app.config = () if config is None else (settings_file(config, commands=tuple(COMMANDS)),)
    return app(tokens, exit_on_error=False, print_error=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code: 0 done, 2 a setting, 3 data or bundle, 4 a gate, 5 a missing extra."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("distill", "export", "serve"):
        logging.getLogger(package).setLevel(logging.INFO)
    with exiting():
        app.meta(arguments, exit_on_error=False, print_error=False)
