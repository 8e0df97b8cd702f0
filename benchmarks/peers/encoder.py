"""What peers that train start from: the base encoder that the teacher was made of, and a small copy of the teacher.

Importing it loads no torch: peers that answer without it must not pay for it.
"""

from __future__ import annotations

from pathlib import Path

from export.measure.protocol import Job

LAYERS = 3
EPOCHS = 3
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
SEED = 0


def base_of(job: Job) -> str:
    """Return the folder of the base encoder."""
    return str(job.options["base"])


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


def bytes_of(folder: Path, *names: str) -> int:
    """Return the bytes of files that must be shipped to answer."""
    return sum((folder / name).stat().st_size for name in names if (folder / name).exists())
