"""What a peer is: a file of `benchmarks/peers/` with `PEER`, `open_peer(job)` and, if it makes something first, `prepare(job)`.

The heavy imports are inside those two functions: the harness reads `PEER` in its own interpreter, and a peer runs in its own.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers as rooms
from export.measure.protocol import BATCH, Job, Logits, Peer, in_length_order

if TYPE_CHECKING:
    import onnxruntime as ort

LAYERS = 3
EPOCHS = 3
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
SEED = 0
SHIPPED = ("tokenizer.json", "config.json")
"""What every classifier needs beside its weights or graph."""


@dataclass(frozen=True)
class Needs:
    """What a peer starts from and needs.

    Attributes:
        starts_from: The student's `weights`, the `base` encoder, or the `teacher`, which it distils.
        packages: Requirements that pip installs into an environment of its own; none runs in the harness's.
    """

    starts_from: Literal["weights", "base", "teacher"]
    packages: tuple[str, ...] = ()


@cache
def peers() -> dict[str, Needs]:
    """Return what each peer needs, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(rooms.__path__) if not module.ispkg)
    return {name: found for name in names if (found := getattr(module_of(name), "PEER", None)) is not None}


def module_of(name: str) -> ModuleType:
    """Return the module of a peer."""
    return importlib.import_module(f"{rooms.__name__}.{name}")


def teacher_of(job: Job) -> Path:
    """Return the teacher's folder.

    Raises:
        ValueError: None was named.
    """
    if job.teacher is None:
        raise ValueError("it distils, and there is no teacher; give --teacher")
    return job.teacher


def write_first_layers(job: Job, folder: Path) -> Path:
    """Write the teacher's first layers as a model of its own, with its tokenizer, and return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(teacher_of(job), num_hidden_layers=LAYERS)
    AutoModelForSequenceClassification.from_pretrained(teacher_of(job), config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_of(job)).save_pretrained(folder)
    return folder


def bytes_of(folder: Path, *files: str | Path) -> int:
    """Return the bytes that must be shipped to answer: these files, and a folder's tokenizer and config."""
    return sum((folder / name).stat().st_size for name in (*files, *SHIPPED) if (folder / name).exists())


def config_of(job: Job) -> dict[str, Any]:
    """Return the Hugging Face config of the student."""
    return dict(json.loads((job.bundle / "config.json").read_text()))


def reader_of(job: Job) -> Callable[[list[str]], dict[str, NDArray[np.int64]]]:
    """Return what turns texts into the padded inputs of a graph, by the tokenizer of the student."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(job.bundle / "tokenizer.json"))
    tokenizer.enable_truncation(job.max_length)
    tokenizer.enable_padding(pad_id=config_of(job)["pad_token_id"] or 0)

    def inputs_of(texts: list[str]) -> dict[str, NDArray[np.int64]]:
        rows = tokenizer.encode_batch_fast(texts)
        return {
            "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
        }

    return inputs_of


def peer_of(
    answer: Callable[[list[str]], Logits], job: Job, *, source: str, size_bytes: int, order: str = "by length", **settings: Any
) -> Peer:
    """Return a peer that answers one text as a batch of one, and many in batches of 32.

    Args:
        answer: From texts to their logits.
        job: What the peer was given.
        source: Where its settings come from.
        size_bytes: What must be shipped to answer.
        order: "by length" sorts many texts and cuts them into batches here; a peer that does so itself says how.
        settings: What else was set.
    """
    return Peer(
        one=lambda text: answer([text])[0],
        many=lambda texts: in_length_order(texts, answer) if order == "by length" else answer(list(texts)),
        settings={"threads": job.threads, "batch": BATCH, "order": order, **settings},
        source=source,
        size_bytes=size_bytes,
    )


def session_options(threads: int) -> ort.SessionOptions:
    """Return the default options of a session of ONNX Runtime on so many threads, that says nothing but errors."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


def scores_of(answers: Any, labels: Sequence[str]) -> Logits:
    """Return what a pipeline of transformers answers, a list of label and score for each text, in the order of the labels."""
    rows = [{answer["label"]: answer["score"] for answer in answers_of_text} for answers_of_text in answers]
    return np.array([[row[label] for label in labels] for row in rows])
