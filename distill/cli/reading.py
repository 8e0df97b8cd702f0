"""What the command reads before a stage can begin: labelled texts for gates and measuring, a teacher recorded as a column.

Reads only; what is done with it is the stages' job. Heavy modules are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.terminal import say_all
from distill.errors import SettingsError
from distill.progress import Reporter
from distill.settings import DataSettings, Device

if TYPE_CHECKING:
    from distill.data import Dataset
    from distill.teachers.recorded import RecordedLogits
import logging
import sys
from typing import TYPE_CHECKING

from distill.settings import TextSettings

if TYPE_CHECKING:
    from distill.progress import Reporter


def gate_texts(data: DataSettings, labels: Sequence[str], reporter: Reporter) -> Dataset:
    """Return the labelled texts that gates judge by: `--validation`, or the same share of `--train` as at training.

    Args:
        data: What the user named.
        labels: The bundle's.
        reporter: Told of what was dropped.

    Raises:
        SettingsError: Neither was named.
    """
    from distill.data import load_splits, read_labelled

    if data.train:
        splits = load_splits(data, labels=labels)
        say_all(reporter, splits.notes)
        return splits.validation
    if data.validation is None:
        raise SettingsError("the gates need labelled texts; give --validation FILE, or the --train the bundle was made from")
    return read_labelled(data.validation, "validation", data, labels=labels)


def measuring_texts(data: DataSettings, labels: Sequence[str]) -> Dataset:
    """Return the labelled texts that measure.

    Raises:
        SettingsError: None were named.
    """
    from distill.data import limited, read_labelled

    if data.test is None:
        raise SettingsError("no texts to measure with; name labelled ones with --test FILE")
    return limited(read_labelled(data.test, "test", data, labels=labels), data.limit, seed=data.split_seed)


@contextmanager
def recorded_teacher(
    data: DataSettings, further: Sequence[str], train: Dataset, *, out: Path, device: Device
) -> Iterator[RecordedLogits]:
    """Yield the teacher that stands as a column of logits in the data; of several processes the first reads it for all.

    Args:
        data: What the user named.
        further: Other files that hold the column: unlabelled texts, and test texts where the teacher is compared on them.
        train: Says the labels.
        out: Where the answers are kept meanwhile.
        device: Where the processes compute that share them.
    """
    from distill.data import read_teacher_logits
    from distill.teachers.recorded import RecordedLogits
    from distill.training.processes import open_accelerator, wait_for_all
    from distill.training.shared_files import shared_files

    sources = [*data.train, *((data.validation,) if data.validation else ()), *further]
    accelerator = open_accelerator(device)
    with shared_files(out / ".recorded", accelerator) as files:
        answers = read_teacher_logits(sources, data) if accelerator.is_main_process else ()
        recorded = RecordedLogits(answers, labels=train.labels, problem_type=train.problem_type, folder=files.folder)
        wait_for_all(accelerator)
        yield recorded


logger = logging.getLogger(__name__)


def stdin_texts(settings: TextSettings) -> Iterator[str]:
    """Yield the lines of stdin that are not blank, without their ends, under the same rules as the rows of a file.

    Raises:
        DatasetError: A line is not UTF-8, or too long.
    """
    from distill.data.files import Columns, stop_at_bad_row, usable_rows
    from distill.data.sources import LeftOut

    left_out = LeftOut()
    lines = (line.decode(errors="surrogateescape").strip() for line in sys.stdin.buffer)
    records = ((number, {"text": text}) for number, text in enumerate(lines, start=1) if text)
    columns = Columns("text", None, settings.max_text_chars)
    for row in usable_rows("stdin", records, columns, left_out if settings.skip_bad_rows else stop_at_bad_row):
        yield row.text
    if left_out.count:
        logger.warning("%s", left_out.note("stdin"))
