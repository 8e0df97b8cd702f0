"""A column of logits as the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_task import BAD_WORDS, GOOD_WORDS, tiny_texts

from distill.bundle import Bundle
from distill.data import Splits, read_teacher_logits
from distill.errors import DatasetError
from distill.settings import DataSettings, DistillSettings, TrialSettings
from distill.teachers.recorded import RecordedLogits
from distill.training import checkpoints
from distill.training.trials import run_trials

LABELS = ("negative", "positive")
ANSWERS = [("a film", [-1.5, 2]), ("dull", [3, -3.25])]
SETTINGS = DataSettings(teacher_logits_column="scores")


def test_the_recorded_logits_are_given_by_text(tmp_path: Path) -> None:
    teacher = RecordedLogits(iter(ANSWERS), labels=LABELS, folder=tmp_path)
    assert teacher.predict_logits(["dull", "a film", "dull"]).tolist() == [[3, -3.25], [-1.5, 2], [3, -3.25]]
    with pytest.raises(DatasetError, match="'A film'"):
        teacher.predict_logits(["dull", "A film"])


def test_the_digest_names_texts_logits_and_labels(tmp_path: Path) -> None:
    changed = [("a film", [-1.5, 2]), ("dull", [3, -3.26])]
    retold = [("A film", [-1.5, 2]), ("dull", [3, -3.25])]
    digests = [
        RecordedLogits(answers, labels=labels, folder=tmp_path / str(number)).digest()
        for number, (answers, labels) in enumerate(
            [(ANSWERS, LABELS), (changed, LABELS), (retold, LABELS), (ANSWERS, ("a", "b"))]
        )
    ]
    assert len(set(digests)) == 4
    assert RecordedLogits(ANSWERS, labels=LABELS, folder=tmp_path / "again").digest() == digests[0]
    assert RecordedLogits((), labels=LABELS, folder=tmp_path / "0").digest() == digests[0]  # another process, same folder


def test_one_changed_logit_makes_another_trial_and_another_checkpoint(
    tiny_splits: Splits, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    opened = checkpoints.Checkpoint.__init__

    def noting(self: Any, path: Path, *, key: str, **rest: Any) -> None:
        keys.extend([key] if key else [])  # the end of a run only deletes its files, by name
        opened(self, path, key=key, **rest)

    monkeypatch.setattr(checkpoints.Checkpoint, "__init__", noting)
    train, validation = tiny_splits.train.take(range(32)), tiny_splits.validation
    scores = {
        text: [-float(score), float(score)] for text, score in ((one, _score(one)) for one in (*train.texts, *validation.texts))
    }
    taught: list[str | None] = []
    for number, change in enumerate((0.0, 0.0, 0.25)):
        scores[train.texts[0]][0] += change
        teacher = RecordedLogits(scores.items(), labels=LABELS, folder=tmp_path / f"recorded-{number}")
        settings = DistillSettings(student=str(tiny_model), num_layers=1, max_length=16, epochs=1)
        splits, trials = Splits(train, validation, None), TrialSettings(seeds=1)
        bundle, _ = run_trials(teacher, splits, out=tmp_path / "out", settings=settings, trials=trials)
        taught.append(bundle.manifest.lineage.teacher_sha256)
    assert len(keys) == len(set(keys)) == 2  # the second time the run was finished, the third time it was another
    assert taught[0] == taught[1] != taught[2]


@pytest.mark.parametrize("logits", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")]])
def test_logits_that_do_not_fit_the_labels_are_refused(logits: list[float], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'a film'.*2 finite numbers.*negative, positive"):
        RecordedLogits([("a film", logits)], labels=LABELS, folder=tmp_path)


def test_every_kind_of_file_can_carry_them(tmp_path: Path) -> None:
    rows = [{"text": text, "scores": logits} for text, logits in ANSWERS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text("text,scores\n" + "".join(f'{text},"{json.dumps(logits)}"\n' for text, logits in ANSWERS))
    pq.write_table(pa.table({"text": ["a film", "dull"], "scores": [[-1.5, 2.0], [3.0, -3.25]]}), tmp_path / "a.parquet")
    wanted = [(text, tuple(logits)) for text, logits in ANSWERS]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert list(read_teacher_logits([str(tmp_path / name)], SETTINGS)) == wanted


@pytest.mark.parametrize("written", ["high", "[]", "[1, true]", "[1, NaN]", '["1", "2"]', "3"])
def test_a_row_whose_logits_cannot_be_read_is_named(written: str, tmp_path: Path) -> None:
    escaped = written.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'text,scores\na film,"[1, 2]"\ndull,"{escaped}"\n')
    with pytest.raises(DatasetError, match=r"a\.csv:3: the teacher logits are .* a list of numbers"):
        list(read_teacher_logits([str(tmp_path / "a.csv")], SETTINGS))


def test_a_missing_column_and_a_built_in_set_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na film,x\n")
    with pytest.raises(DatasetError, match="--teacher-logits-column"):
        list(read_teacher_logits([str(tmp_path / "a.csv")], SETTINGS))
    with pytest.raises(DatasetError, match="builtin:movies has no column of teacher logits"):
        list(read_teacher_logits(["builtin:movies"], SETTINGS))


def _score(text: str) -> int:
    words = text.split()
    return sum(word in GOOD_WORDS for word in words) - sum(word in BAD_WORDS for word in words)


def _written(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w") as file:
        for text, label in rows:
            score = _score(text)
            file.write(json.dumps({"text": text, "label": label, "scores": [-score, score]}) + "\n")
    return path


def test_the_command_teaches_a_pretrained_model_with_the_column_alone(
    potstill: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    train = _written(tmp_path / "train.jsonl", tiny_texts(60))
    further = _written(tmp_path / "further.jsonl", tiny_texts(20, seed=7))
    flags = ("--train", train, "--unlabeled", further, "--teacher-logits-column", "scores", "--max-length", 32)
    out = tmp_path / "student"
    done = potstill("distill", *flags, "--student", tiny_model, "--num-layers", 1, "--epochs", 1, "--out", out)
    assert done.code == 0, done.err
    made = Bundle.open(out).manifest
    assert len(made.lineage.teacher_sha256 or "") == 64
    assert made.lineage.unlabeled_fingerprint is not None
    assert not np.isnan(made.quality["pytorch"]["agreement_with_teacher"])
    assert not (out / ".recorded").exists()
    refused = potstill("distill", *flags, "--student", tiny_model, "--num-layers", 1, "--augment", 1, "--out", tmp_path / "b")
    assert refused.code == 3
    assert "--augment" in refused.complaint
