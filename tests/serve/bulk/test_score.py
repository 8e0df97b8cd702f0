"""`potstill score` on one machine: what goes in, what comes out, and what a kill or a bad row does."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_task import digest_of, read_parts, write_table
from tiny_task import Outcome, tiny_texts

from distill.bundle import Bundle
from distill.classifier import predict
from distill.errors import BundleError, DatasetError, SettingsError, StorageError
from distill.labels import ProblemType, task_of
from export.runtime.sessions import OnnxClassifier
from serve.bulk import scoring
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings
from serve.bulk.threads import run_in_threads
from serve.bulk.work import Finished, Job

ROOT = Path(__file__).parents[3]
SMALL = ScoreSettings(key=("id",), part_rows=64, workers=2)


def test_every_row_gets_the_answer_of_predict_and_keeps_its_key(tmp_path: Path, tiny_student: Bundle) -> None:
    texts = write_table(tmp_path / "in.parquet", 300)
    settings = SMALL.model_copy(update={"columns": ("stars",), "probabilities": True, "logits": True})
    summary = score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=settings)
    table = read_parts(tmp_path / "out")
    assert table.column_names == ["id", "stars", "label", "score", "probabilities", "logits"]
    assert table["id"].to_pylist() == list(range(300))
    assert table["stars"].to_pylist() == [str(number % 5) for number in range(300)]
    answers = predict(OnnxClassifier.open(tiny_student), texts)
    assert table["label"].to_pylist() == [answer.label for answer in answers]
    assert np.allclose(table["score"].to_numpy(), [answer.score for answer in answers], atol=1e-6)
    logits = np.array(table["logits"].to_pylist(), dtype=np.float32)
    shares = np.array(table["probabilities"].to_pylist(), dtype=np.float32)
    assert np.array_equal(task_of("single_label_classification").probabilities(logits), shares)
    assert summary["labels"] == {name: table["label"].to_pylist().count(name) for name in ("negative", "positive")}
    assert summary["mean_score"] == pytest.approx(float(np.mean(table["score"].to_numpy())), abs=1e-6)
    assert (summary["num_rows"], summary["num_bad"], summary["rows_scored"]) == (300, 0, 300)
    assert [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))] == [
        f"part-00000-{number:06d}.parquet"
        for number in range(5)  # 300 rows in parts of 64
    ]


def test_row_groups_workers_and_where_it_is_written_change_no_byte(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "a.parquet", 300, row_group_size=7)
    score(tiny_student, [str(tmp_path / "a.parquet")], str(tmp_path / "one"), settings=SMALL.model_copy(update={"workers": 1}))
    score(
        tiny_student, [str(tmp_path / "a.parquet")], str(tmp_path / "three"), settings=SMALL.model_copy(update={"workers": 3})
    )
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "three")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bulk/in/a.parquet", (tmp_path / "a.parquet").read_bytes())
    score(tiny_student, ["memory://bulk/in"], "memory://bulk/out", settings=SMALL)
    for path in (tmp_path / "one").iterdir():
        assert memory.cat_file(f"/bulk/out/{path.name}") == path.read_bytes()


def test_bad_rows_go_to_the_quarantine_with_the_reason_and_are_counted(tmp_path: Path, tiny_student: Bundle) -> None:
    lines = ['{"id": 1, "text": "lovely"}', '{"id": 2, "text": null}', '{"id": 3, "text": 7}', "not json", '{"id": 4}']
    lines += ['{"id": "five", "text": "dull"}', json.dumps({"id": 6, "text": "x" * 101}), '{"id": 7, "text": " "}']
    lines += ['{"id": 8, "text": "\\ud800"}', '{"id": 9, "text": "great"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    settings = ScoreSettings(key=("id",), max_text_chars=100)
    # The type of a kept column is that of the first rows: here a number, so the job is told of a mixed one.
    with pytest.raises(DatasetError, match="column 'id'"):
        score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "out"), settings=settings)
    (tmp_path / "in.jsonl").write_text("\n".join(line for line in lines if "five" not in line) + "\n")
    summary = score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "out"), settings=settings)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == [1, 9]
    bad = pq.read_table(tmp_path / "out" / "_quarantine").to_pylist()
    assert [(row["line"], row["id"]) for row in bad] == [(2, 2), (3, 3), (4, None), (5, 4), (6, 6), (7, 7), (8, 8)]
    facts = ["NoneType", "int", "JSON", "NoneType", "more than", "empty", "UTF-8"]
    assert all(fact in row["reason"] for fact, row in zip(facts, bad, strict=True)), bad
    assert (summary["num_rows"], summary["num_bad"]) == (2, 7)


def test_bytes_that_are_not_utf8_in_a_parquet_file_are_a_bad_row(tmp_path: Path, tiny_student: Bundle) -> None:
    texts = pa.array([b"lovely", b"caf\xe9", b"dull"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    summary = score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"))
    assert (summary["num_rows"], summary["num_bad"]) == (2, 1)


def test_texts_that_lose_their_end_are_counted(tmp_path: Path, tiny_student: Bundle) -> None:
    room = tiny_student.manifest.max_length - 2  # for words, beside the two special tokens
    texts = [" ".join(["film"] * words) for words in (1, room, room + 1, 2 * room)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    assert score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"))["num_cut"] == 2


def test_a_long_text_read_in_windows_has_the_mean_of_their_logits(tmp_path: Path, tiny_student: Bundle) -> None:
    room = tiny_student.manifest.max_length - 2
    step = room - room // 4
    words = ["lovely"] * room + ["dull"] * step  # two windows
    windows = [" ".join(words[:room]), " ".join(words[step:])]
    texts = [" ".join(words), *windows, "lovely"] * 20  # long ones between short ones, in batches of many
    pq.write_table(pa.table({"id": range(80), "text": texts}), tmp_path / "in.parquet")
    settings = ScoreSettings(key=("id",), logits=True, long_texts="windows")
    assert score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=settings)["num_cut"] == 20
    logits = np.array(read_parts(tmp_path / "out")["logits"].to_pylist(), dtype=np.float32)
    alone = [OnnxClassifier.open(tiny_student).predict_logits([text])[0] for text in (*windows, "lovely")]
    assert np.abs(alone[0] - alone[1]).max() > 0.01  # else any mixture of the two would pass
    np.testing.assert_allclose(logits, np.tile([(alone[0] + alone[1]) / 2, *alone], (20, 1)), atol=1e-6)


def test_a_broken_run_goes_on_and_ends_as_an_unbroken_one(
    tmp_path: Path, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "in.parquet", 500)
    score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "whole"), settings=SMALL)
    write, written = Path.replace, itertools.count(1)

    def write_some(self: Path, target: Path) -> Path:
        if target.name.startswith("part-") and next(written) > 4:  # counted in one step: two threads write
            raise OSError(28, "No space left on device")
        return write(self, target)

    monkeypatch.setattr(Path, "replace", write_some)
    with pytest.raises(StorageError, match=r"part-.*No space left"):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "broken"), settings=SMALL)
    monkeypatch.undo()
    kept = set((tmp_path / "broken").glob("part-*"))
    assert len(kept) == 4  # of 8
    assert not json.loads((tmp_path / "broken" / "_manifest.json").read_text())["complete"]
    (tmp_path / "broken" / ".part-00000-000003.parquet.0123abcd.tmp").write_bytes(b"half")
    summary = score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "broken"), settings=SMALL)
    assert summary["rows_scored"] == 500 - 4 * 64
    assert digest_of(tmp_path / "broken") == digest_of(tmp_path / "whole")
    again = score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "broken"), settings=SMALL)
    assert (again["rows_scored"], again["num_rows"]) == (0, 500)


def test_a_finished_job_starts_no_engine_and_reads_no_input(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 200)
    named = (tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"))
    first = score(*named, settings=SMALL)
    before = digest_of(tmp_path / "out")

    def refusing(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        raise AssertionError(f"started, although all {len(done)} parts of {job.output.url} are there")

    again = score(*named, settings=SMALL, runner=refusing)
    assert again == {**first, "rows_scored": 0, "seconds": again["seconds"], "rows_per_second": None}
    assert digest_of(tmp_path / "out") == before


def test_a_part_that_was_cut_is_made_again(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 200)
    score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL)
    before, part = digest_of(tmp_path / "out"), tmp_path / "out" / "part-00000-000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL)["rows_scored"] == 64
    assert digest_of(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["input", "settings", "strangers", "manifest"])
def test_a_folder_of_another_job_is_refused(tmp_path: Path, tiny_student: Bundle, change: str) -> None:
    write_table(tmp_path / "in.parquet", 100)
    out, settings = tmp_path / "out", SMALL
    if change == "strangers":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        score(tiny_student, [str(tmp_path / "in.parquet")], str(out), settings=settings)
    if change == "input":
        write_table(tmp_path / "in.parquet", 100, seed=1)
    if change == "settings":
        settings = SMALL.model_copy(update={"logits": True})
    if change == "manifest":
        (out / "_manifest.json").write_text((out / "_manifest.json").read_text().replace("100", "101", 1))
    before = digest_of(out)
    wanted, words = {
        "input": (SettingsError, "inputs"),
        "settings": (SettingsError, "settings"),
        "strangers": (SettingsError, r"thesis\.txt"),
        "manifest": (StorageError, r"_manifest\.json"),
    }[change]
    with pytest.raises(wanted, match=words):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(out), settings=settings)
    assert digest_of(out) == before


def test_a_bundle_that_changes_during_the_job_stops_it_and_keeps_what_is_done(
    tmp_path: Path, tiny_student: Bundle, copied: Callable[[Bundle], Bundle]
) -> None:
    write_table(tmp_path / "in.parquet", 300)
    bundle = copied(tiny_student)

    def change_after_one(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for number, finished in enumerate(run_in_threads(job, done)):
            if number == 1:
                (bundle.path / "manifest.json").write_text("{}")
            yield finished

    with pytest.raises(BundleError, match=re.escape(str(bundle.path))):
        score(bundle, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL, runner=change_after_one)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["parts"]


def test_names_that_collide_are_refused_and_a_prefix_helps() -> None:
    with pytest.raises(SettingsError, match=r"'label'.*--answer-prefix"):
        ScoreSettings(columns=("label",))
    assert ScoreSettings(columns=("label",), answer_prefix="our_").answers == {"label": "our_label", "score": "our_score"}


def test_the_command_prints_counts_rate_and_cost(
    tmp_path: Path, tiny_student: Bundle, potstill: Callable[..., Outcome]
) -> None:
    write_table(tmp_path / "in.parquet", 100)
    arguments = (
        "score", tiny_student.path, "--input", tmp_path / "in.parquet", "--output", tmp_path / "out",
        "--key", "id", "--price-per-hour", "0.36",
    )  # fmt: skip
    done = potstill(*arguments, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert sum(said["labels"].values()) == 100
    # 0.36 an hour is 0.0001 a second
    assert said["cost_per_million"] == pytest.approx(1e6 / said["rows_per_second"] * 0.0001)
    again = potstill(*arguments)
    assert (again.code, again.err.count("100 rows")) == (0, 1)
    assert f"{said['mean_score']:.4f}" in again.out
    assert "settings" in potstill(*arguments, "--logits").complaint


def test_the_command_reports_bad_rows_and_texts_that_were_cut(
    tmp_path: Path, tiny_student: Bundle, potstill: Callable[..., Outcome]
) -> None:
    (tmp_path / "in.csv").write_text("text\nlovely\n" + "dull " * 200 + "\nmuch,too many\n")
    done = potstill("score", tiny_student.path, "--input", tmp_path / "in.csv", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert all(fact in done.out for fact in ("2 rows labelled", "1 of 2 texts (50.0%)", "1 rows could not", "_quarantine")), (
        done.out
    )


def test_an_output_of_another_schema_is_refused(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 10)
    score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL)
    values = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    del values["sha256"]
    values["schema"] = 99
    spelled = json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
    signed = {**values, "sha256": hashlib.sha256(spelled.encode()).hexdigest()}
    (tmp_path / "out" / "_manifest.json").write_text(json.dumps(signed))
    with pytest.raises(SettingsError, match=r"schema 99.*writes 1"):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL)


def peak_bytes(arguments: list[str]) -> int:
    """Run the command in a process of its own and return the most memory it held."""
    program = "import sys; from distill.cli.main import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_table(tmp_path: Path, tiny_student: Bundle) -> None:
    texts, peaks = [text for text, _ in tiny_texts(1000)], []
    for times in (30, 150):
        table = pa.table({"id": range(1000 * times), "text": texts * times})
        pq.write_table(table, tmp_path / f"{times}.parquet")  # in one row group, as writers do
        files = ["--input", str(tmp_path / f"{times}.parquet"), "--output", str(tmp_path / f"out-{times}")]
        peaks.append(peak_bytes(["score", str(tiny_student.path), *files, "--key", "id"]))
    assert peaks[1] < 1_000_000_000
    assert peaks[1] - peaks[0] < 60_000_000  # the larger table alone has 120,000 rows more, 13 MB of text and its copies


def test_a_part_whose_rows_are_all_bad_has_the_columns_of_the_others(tmp_path: Path, tiny_student: Bundle) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "lovely"}\n{"id": 2, "text": "dull"}\n' + "not json\n" * 3)
    settings = ScoreSettings(key=("id",), part_rows=2)
    summary = score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "out"), settings=settings)
    assert (summary["num_rows"], summary["num_bad"]) == (2, 3)
    last = pq.read_table(tmp_path / "out" / "part-00000-000001.parquet")
    assert (last.num_rows, last.column_names) == (0, ["id", "label", "score"])
    bad = pq.read_table(tmp_path / "out" / "_quarantine").to_pylist()
    assert [(row["id"], row["line"]) for row in bad] == [(None, 3), (None, 4), (None, 5)]


def test_an_output_that_cannot_be_opened_or_read_is_an_error(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 5)
    with pytest.raises(SettingsError, match="nosuch://"):
        score(tiny_student, [str(tmp_path / "in.parquet")], "nosuch://bucket/out")
    (tmp_path / "out" / "_manifest.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"_manifest\.json"):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"))


def test_a_bundle_that_is_gone_during_the_job_stops_it(
    tmp_path: Path, tiny_student: Bundle, copied: Callable[[Bundle], Bundle]
) -> None:
    write_table(tmp_path / "in.parquet", 200)
    bundle = copied(tiny_student)

    def remove_after_one(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for finished in run_in_threads(job, done):
            (bundle.path / "manifest.json").unlink(missing_ok=True)
            yield finished

    with pytest.raises(BundleError, match=re.escape(str(bundle.path))):
        score(bundle, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL, runner=remove_after_one)


def test_labels_of_a_multi_label_bundle_are_lists() -> None:
    @dataclass(frozen=True)
    class Several:
        labels = ("a", "b")
        problem_type: ProblemType = "multi_label_classification"

    logits = np.array([[2.0, 1.0], [-1.0, 2.0], [-2.0, -1.0]], np.float32)
    columns, counts, _ = scoring._answers(Several(), logits, ScoreSettings())  # type: ignore[arg-type]
    assert columns["label"].to_pylist() == [["a", "b"], ["b"], []]
    assert counts == {"a": 1, "b": 2}
