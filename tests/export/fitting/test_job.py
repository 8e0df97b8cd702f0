"""What `potstill fit` finds out before it trains anything: bad texts, bad teachers, and a plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tiny_task import Listening, Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import BundleError, DatasetError, SettingsError, TeacherError
from distill.progress import SilentReporter
from export.fitting.job import Job, prepared
from export.fitting.run import fit, plan_fit
from export.settings import FitSettings

Run = Callable[..., Outcome]


def job_of(splits: Splits, teacher: Any, **settings: Any) -> Job:
    return prepared(splits, teacher, (), FitSettings(**settings), SilentReporter())


def relabelled(data: Dataset, labels: tuple[str, ...]) -> Dataset:
    return replace(data, labels=labels)


def test_other_labels_than_the_teachers_are_named(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    other = Splits(*(relabelled(part, ("no", "yes")) for part in (tiny_splits.train, tiny_splits.validation)), None)
    with pytest.raises(SettingsError, match=r"the teacher's labels are .*negative.*the labels of the data are .*no"):
        job_of(other, tiny_teacher)


def test_labels_in_another_order_are_put_in_the_teachers(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    turned = tuple(reversed(tiny_splits.train.labels))
    parts = (replace(part, labels=turned, label_ids=1 - part.label_ids) for part in (tiny_splits.train, tiny_splits.validation))
    job = job_of(Splits(*parts, None), tiny_teacher)
    assert job.splits.train.labels == tiny_teacher.labels
    assert [job.splits.train.label_names(row) for row in range(20)] == [tiny_splits.train.label_names(row) for row in range(20)]


def test_swapped_labels_are_refused_before_anything_takes_time(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    swapped = (replace(part, label_ids=1 - part.label_ids) for part in (tiny_splits.train, tiny_splits.validation))
    with pytest.raises(TeacherError, match="label order differs"):
        job_of(Splits(*swapped, None), tiny_teacher)


def test_a_teacher_that_does_not_know_the_language_is_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    validation = replace(
        tiny_splits.validation, texts=tuple(f"这部电影 {number}" for number in range(len(tiny_splits.validation)))
    )
    with pytest.raises(TeacherError, match="answers that ignore the text"):
        job_of(Splits(tiny_splits.train, validation, None), tiny_teacher)


def test_half_a_checkpoint_is_refused(tiny_splits: Splits, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="half a checkpoint"):
        job_of(tiny_splits, str(folder))


def test_a_folder_that_does_not_exist_is_refused(tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist; name a folder"):
        job_of(tiny_splits, str(tmp_path / "nowhere"))


def test_an_encoder_beside_a_classifier_is_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    with pytest.raises(SettingsError, match="builtin:minilm is an encoder, and only one can be fine-tuned"):
        job_of(tiny_splits, (tiny_teacher, "builtin:minilm"))


@pytest.mark.parametrize(
    ("metric", "complaint"), [("recall:great", "names no label of the data"), ("f1", "--metric must be one of")]
)
def test_an_unknown_metric_is_refused(tiny_splits: Splits, tiny_teacher: Bundle, metric: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        job_of(tiny_splits, tiny_teacher, metric=metric)


def test_test_texts_leave_the_training_texts(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    test = tiny_splits.train.take(range(40))
    job = job_of(replace(tiny_splits, test=test), tiny_teacher)
    assert not set(test.texts) & set(job.splits.train.texts)
    assert any("dropped 40 texts that are also in" in note for note in job.splits.notes)


def test_texts_of_one_label_are_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    only = tiny_splits.train.take(np.flatnonzero(tiny_splits.train.label_ids == 0))
    with pytest.raises(DatasetError, match="every text has the label 'negative'"):
        job_of(replace(tiny_splits, train=only), tiny_teacher)


def test_validation_texts_with_a_label_that_training_texts_lack_are_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    more = relabelled(tiny_splits.validation, (*tiny_splits.validation.labels, "mixed"))
    with pytest.raises(DatasetError, match=r"has the labels .*mixed"):
        job_of(replace(tiny_splits, validation=more), tiny_teacher)


def test_pairs_among_single_texts_are_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    with pytest.raises(SettingsError, match="unlabelled text 2 is one of pairs"):
        prepared(tiny_splits, tiny_teacher, ("one", ("a", "pair")), FitSettings(), SilentReporter())


def test_few_texts_choose_with_a_warning_and_measure_on_validation_texts(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    few = Splits(tiny_splits.train.take(range(36)), tiny_splits.validation.take(range(40)), None)
    job = job_of(few, tiny_teacher)
    assert job.splits.test is None
    assert any("the 40 validation texts choose the student, and" in note for note in job.splits.notes)
    assert any("the validation texts choose and measure" in note for note in job.splits.notes)


def test_few_texts_of_a_label_are_reported_where_they_choose_and_where_they_measure(
    tiny_splits: Splits, tiny_teacher: Bundle
) -> None:
    rows = np.argsort(tiny_splits.validation.label_ids, kind="stable")  # all of the first label, then the other
    first = int((tiny_splits.validation.label_ids == 0).sum())
    rare = tiny_splits.validation.take(rows[first - 4 :])  # four texts of the first label are left
    label, count = rare.labels[0], len(rare)
    job = job_of(replace(tiny_splits, validation=rare, test=None), tiny_teacher)
    expected = f"the {count} validation texts choose the student, and 4 of them have the rarest label {label!r}: one is 25.0%"
    assert any(note.startswith(expected) for note in job.splits.notes)


def test_many_texts_without_test_texts_lose_some_to_measure_on(tiny_teacher: Bundle) -> None:
    texts, labels = zip(*tiny_texts(900), strict=True)
    data = Dataset.from_texts(texts, labels)
    job = job_of(data, tiny_teacher)
    assert job.splits.test is not None
    assert [len(part) for part in (job.splits.train, job.splits.validation, job.splits.test)] == [688, 90, 122]
    assert not set(job.splits.train.texts) & set(job.splits.test.texts)


def test_a_second_run_in_one_folder_is_refused(tiny_splits: Splits, tiny_teacher: Bundle, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(SettingsError, match="another run is working in"):
        fit(tiny_splits, out=tmp_path, teacher=tiny_teacher)


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (("--teacher", "./nowhere"), 2, "./nowhere does not exist"),
        (("--metric", "f1"), 2, "--metric must be one of"),
        (("--teacher-logits-column", "logits"), 2, "potstill distill --teacher-logits-column"),
        (("--max-ms", "0"), 2, "greater than 0"),
        (("--recipes", "huge"), 2, "huge"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    potstill: Run, tiny_csv: Path, tmp_path: Path, flags: tuple[str, ...], code: int, complaint: str
) -> None:
    done = potstill("fit", "--train", tiny_csv, "--out", tmp_path / "out", *flags)
    assert done.code == code
    assert complaint in done.complaint


def test_a_validation_file_with_an_unknown_label_is_refused_by_line(
    potstill: Run, tiny_csv: Path, tiny_teacher: Bundle, tmp_path: Path
) -> None:
    validation = write_csv(tmp_path / "validation.csv", [("a film", "negative"), ("a plot", "mixed")])
    done = potstill("fit", "--teacher", tiny_teacher.path, "--train", tiny_csv, "--validation", validation, "--out", tmp_path)
    assert done.code == 3
    assert "validation.csv:3: label 'mixed'" in done.complaint


@pytest.mark.slow
def test_a_million_texts_are_planned_and_an_impossible_limit_is_refused(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    base = tiny_splits.train
    many = replace(
        base,
        texts=tuple(f"{base.texts[number % len(base)]} {number}" for number in range(1_000_000)),
        label_ids=np.resize(base.label_ids, 1_000_000),
    )
    splits = replace(tiny_splits, train=many)
    plan = plan_fit(splits, teacher=tiny_teacher, settings=FitSettings(recipes=("2-layers",)))
    assert plan.minutes["students"] > 0
    assert json.dumps(plan.to_dict())
    settings = FitSettings(recipes=("2-layers",), time_limit_min=0.01)
    with pytest.raises(SettingsError, match="even --effort quick would take"):
        plan_fit(splits, teacher=tiny_teacher, settings=settings)


@pytest.mark.slow
def test_texts_longer_than_the_model_reads_are_reported(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    train = replace(tiny_splits.train, texts=tuple(" ".join([text] * 40) for text in tiny_splits.train.texts))
    reporter = Listening()
    plan = plan_fit(
        replace(tiny_splits, train=train),
        teacher=tiny_teacher,
        settings=FitSettings(recipes=("2-layers",)),
        reporter=reporter,
    )
    assert plan.candidates.truncated == 1.0
    assert any("cuts 100.0% of the training texts" in text for text in reporter.said)
