"""The texts that a command reads: labelled texts for gates and measuring, recorded logits, lines of stdin.

Modules that read data are imported inside the functions, so that importing the flags stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import SettingsError
from distill.opening import LabelledReader
from distill.progress import Reporter, SilentReporter
from distill.settings import DataSettings, Device, TextSettings
from distill.texts import TextInput

if TYPE_CHECKING:
    from distill.data import Dataset, Splits
    from distill.teachers.recorded import RecordedLogits


def reported_splits(
    data: DataSettings, reporter: Reporter, *, labels: Sequence[str] = (), train: Dataset | None = None
) -> Splits:
    """Read the splits and report how they were read: dropped rows, chosen columns, cut-off validation texts."""
    from distill.data import load_splits

    splits = load_splits(data, labels=labels, train=train)
    for note in splits.notes:
        reporter.say(note)
    return splits


def gate_texts(data: DataSettings, labels: Sequence[str], reporter: Reporter, *, train: Dataset | None = None) -> Dataset:
    """Return the labelled texts for the gates: `--validation`, or the share cut off `--train`, as in training.

    Args:
        data: The data flags.
        labels: Labels of the bundle.
        reporter: Told which rows were dropped.
        train: What the bundle was trained on, where the flags name neither.

    Raises:
        SettingsError: Neither `--validation` nor `--train` was given.
    """
    from distill.data import read_labelled

    if data.train or (train is not None and data.validation is None):
        return reported_splits(data, reporter, labels=labels, train=train).validation
    if data.validation is None:
        raise SettingsError("the gates need labelled texts; give --validation FILE, or the --train the bundle was made from")
    return read_labelled(data.validation, "validation", data, labels=labels)


def measuring_texts(data: DataSettings, labels: Sequence[str]) -> Dataset:
    """Return the labelled texts of `--test`.

    Raises:
        SettingsError: `--test` was not given.
    """
    from distill.data import limited, read_labelled

    if data.test is None:
        raise SettingsError("no texts to measure on; give labelled ones with --test FILE")
    return limited(read_labelled(data.test, "test", data, labels=labels), data.limit, seed=data.split_seed)


def adopting_texts(data: DataSettings) -> LabelledReader | None:
    """Return what reads the texts that show the labels of an adopted classifier: those for the gates, else those of `--test`.

    None if the flags name neither. Nothing is reported, because the command reads and reports the same texts again.
    """
    if data.train or data.validation:
        return lambda labels: gate_texts(data, labels, SilentReporter())
    return (lambda labels: measuring_texts(data, labels)) if data.test else None


@contextmanager
def recorded_teacher(
    data: DataSettings, further: Sequence[str], train: Dataset, *, out: Path, device: Device
) -> Iterator[RecordedLogits]:
    """Yield a teacher whose logits are a column of the data; with several processes, the first reads it for all.

    Args:
        data: The data flags.
        further: More files with that column: unlabelled texts, and test texts if the teacher is measured on them.
        train: The training texts; the teacher has their labels.
        out: Folder under which the logits are kept while training.
        device: Device of the processes that share them.
    """
    from distill.data import read_teacher_logits
    from distill.teachers.recorded import RecordedLogits
    from distill.training.processes import open_accelerator, shared_files, wait_for_all

    sources = [*data.train, *((data.validation,) if data.validation else ()), *further]
    with open_accelerator(device) as accelerator, shared_files(out / ".recorded", accelerator) as files:
        answers = read_teacher_logits(sources, data) if accelerator.is_main_process else ()
        recorded = RecordedLogits(answers, labels=train.labels, problem_type=train.problem_type, folder=files.folder)
        wait_for_all(accelerator)
        yield recorded


def stdin_texts(settings: TextSettings) -> Iterator[TextInput]:
    """Yield the non-blank lines of stdin, stripped, under the same rules as rows of a file.

    Raises:
        DatasetError: A line is not UTF-8, or longer than `max_text_chars`.
        SettingsError: Pairs are to be read.
    """
    if settings.pair_column is not None:
        raise SettingsError("stdin has lines, not columns; read pairs from a file")
    from distill.data.files import BadRows, Columns, usable_rows

    bad_rows = BadRows(settings.skip_bad_rows)
    lines = (line.decode(errors="surrogateescape").strip() for line in sys.stdin.buffer)
    records = ((number, {"text": text}) for number, text in enumerate(lines, start=1) if text)
    columns = Columns("text", None, settings.max_text_chars)
    yield from bad_rows.texts("stdin", usable_rows("stdin", records, columns, bad_rows))
