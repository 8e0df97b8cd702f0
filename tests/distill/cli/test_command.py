"""The command: help, settings, exit codes, stdout and stderr."""

from __future__ import annotations

import io
import json
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.cli.main import COMMANDS, app
from distill.errors import SettingsError
from distill.settings import Heading
from export.runtime.sessions import OnnxClassifier

Run = Callable[..., Outcome]
ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "sklearn", "matplotlib", "pyarrow")


def fresh(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process."""
    command = [sys.executable, "-m", "distill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def loaded_by(*arguments: object) -> set[str]:
    """Return which heavy libraries a new process has loaded after running the command."""
    script = (
        "import sys\nfrom distill.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as exc:\n    assert not exc.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    return set(HEAVY) & set(done.stderr.split())


@pytest.fixture
def texts_csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "texts.csv", tiny_texts(20, seed=3))


def test_help_answers_within_a_second_of_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert fresh("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # A slow processor takes 0.6 s; torch alone would take 3.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("arguments", [("--help",), ("distill", "--help"), ("teacher", "--help"), ("export", "--help")])
def test_help_loads_no_heavy_library(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments) == set()


def test_help_lists_the_commands_in_the_order_of_a_project(potstill: Run) -> None:
    done = potstill("--help")
    assert done.code == 0
    listed = [line.split()[1] for line in done.out.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert [name for name in listed if not name.startswith("-")] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_an_example_that_the_command_takes(command: str, potstill: Run) -> None:
    done = potstill(command, "--help")
    assert done.code == 0
    example = " ".join(done.out.rpartition("Example: ")[2].split())
    assert example == f"potstill {command} {COMMANDS[command][2]}"
    app.parse_args(shlex.split(example)[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_has_a_help_line_and_a_heading(command: str) -> None:
    flags = [flag for flag in app[command].assemble_argument_collection() if flag.name.startswith("-") and flag.show]
    for flag in flags:
        (group,) = flag.parameter.group
        assert flag.parameter.help, flag.name
        assert group.name in get_args(Heading), flag.name
    assert len({flag.name for flag in flags}) == len(flags)


def test_help_shows_defaults_as_they_are_typed(potstill: Run) -> None:
    shown = potstill("export", "--help").out + potstill("distill", "--help").out
    assert "[default: fp32 int8]" in " ".join(shown.replace("│", " ").split())  # it may be wrapped
    assert not any(f"default: {empty}]" in shown for empty in ("None", "()", "False"))


def test_help_of_distill_shows_the_groups_in_the_order_of_a_project(potstill: Run) -> None:
    headings = re.findall(r"^╭─ ([\w ]+) ─", potstill("distill", "--help").out, flags=re.MULTILINE)
    assert headings == [
        *("Arguments", "Data", "Student", "Losses", "Transfer set", "Augmentation", "Training", "Output", "Configuration"),
    ]


@pytest.mark.parametrize("package", ["distill", "export"])
def test_packages_run_as_the_command(package: str) -> None:
    done = subprocess.run([sys.executable, "-m", package, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == version("potstill")


def test_predict_loads_no_torch(tiny_student: Bundle) -> None:
    assert loaded_by("predict", tiny_student.path, "a lovely film") == {"onnxruntime"}


def test_a_setting_out_of_range_exits_with_2(potstill: Run, tiny_csv: Path, tmp_path: Path) -> None:
    done = potstill("teacher", "--train", tiny_csv, "--out", tmp_path / "out", "--epochs", 0)
    assert done.code == 2
    assert done.complaint == "epochs: input should be greater than or equal to 1, got '0'"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), 'Unknown command "nonsense"'),
        (("teacher", "--train", "a.csv"), "--out requires an argument; see potstill --help"),
        (("teacher", "--out", "x", "--bogus", "1"), "Unknown option: --bogus"),
        (("teacher", "--out", "x"), "no training texts; name a file with --train FILE"),
        (("teacher", "--out", "x", "--train", "a.csv", "--labels", "yes", "yes"), "labels must be distinct names"),
        (("predict", "bundle", "a text", "--input", "a.csv"), "choose one"),
        (("bench", "bundle", "--rounds", "few"), "rounds: input should be a valid integer"),
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(arguments: tuple[str, ...], said: str, potstill: Run) -> None:
    done = potstill(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.complaint
    assert len(done.err.splitlines()) == 1


def test_a_missing_file_or_bundle_exits_with_3(potstill: Run, tmp_path: Path) -> None:
    for arguments in (("inspect", tmp_path / "none"), ("teacher", "--train", tmp_path / "none.csv", "--out", tmp_path / "out")):
        done = potstill(*arguments)
        assert done.code == 3
        assert "none" in done.complaint


def test_a_failed_gate_exits_with_4(potstill: Run, tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path) -> None:
    swapped = {"negative": "positive", "positive": "negative"}
    turned = write_csv(tmp_path / "turned.csv", [(text, swapped[label]) for text, label in tiny_texts(100, seed=4)])
    out = tmp_path / "student"
    done = potstill("distill", tiny_teacher.path, "--train", tiny_csv, "--validation", turned, "--out", out)
    assert done.code == 4
    assert "teacher" in done.complaint
    assert not (out / "manifest.json").exists()


def test_a_missing_extra_exits_with_5_and_the_pip_line(
    potstill: Run, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "export.runtime.sessions", raising=False)
    done = potstill("predict", tiny_student.path, "a lovely film")
    assert done.code == 5
    assert "pip install 'potstill[serve]'" in done.complaint


def test_an_interruption_exits_with_130(potstill: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.demo.run_demo", interrupted)
    done = potstill("demo", "--out", tmp_path)
    assert done.code == 130
    assert done.complaint.startswith("interrupted; finished steps are kept")


def test_an_error_of_the_operating_system_is_one_line(potstill: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("export.demo.run_demo", refused)
    done = potstill("demo", "--out", tmp_path)
    assert done.code == 3
    assert "Permission denied: 'somewhere'" in done.complaint


class TestConfigFile:
    """`--config`: a table per command."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Callable[[str], Path]:
        def write(content: str) -> Path:
            path = tmp_path / "potstill.toml"
            path.write_text(content, encoding="utf-8")
            return path

        return write

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """Return what the demo was called with; it then refuses to run."""
        calls: list[object] = []

        def run_demo(out: Path, settings: object, **more: object) -> dict[str, object]:
            calls.append((str(out), settings.seed, settings.profile))  # type: ignore[attr-defined]
            raise SettingsError("not run")

        monkeypatch.setattr("export.demo.run_demo", run_demo)
        return calls

    def test_sets_values(self, potstill: Run, config: Callable[[str], Path], seen: list[object]) -> None:
        path = config('[demo]\nseed = 7\nprofile = "quick"\nout = "there"\n[teacher]\nepochs = 2\n')
        assert potstill("--config", path, "demo", "--json").code == 2
        assert seen == [("there", 7, "quick")]

    def test_flags_win_over_it_wherever_it_is_named(
        self, potstill: Run, config: Callable[[str], Path], seen: list[object]
    ) -> None:
        path = config('[demo]\nseed = 7\nprofile = "quick"\n')
        assert potstill("demo", "--json", "--seed", 3, "--config", path).code == 2
        assert seen == [("demo", 3, "quick")]

    def test_is_forgotten_by_the_next_run(self, potstill: Run, config: Callable[[str], Path], seen: list[object]) -> None:
        potstill("--config", config("[demo]\nseed = 7\n"), "demo", "--json")
        potstill("demo", "--json")
        assert seen == [("demo", 7, "full"), ("demo", 0, "full")]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[demo]\nbogus = 3\n", "bogus"),
            ("[demoo]\nseed = 3\n", "'demoo' is not the table of a command"),
            ("seed = 3\n", "'seed' is not the table of a command"),
            ("[demo]\nseed = -1\n", "seed: input should be greater than or equal to 0"),
            ("[demo\n", "as TOML"),
        ],
    )
    def test_is_refused_with_2(
        self, content: str, said: str, potstill: Run, config: Callable[[str], Path], seen: list[object]
    ) -> None:
        done = potstill("--config", config(content), "demo")
        assert done.code == 2
        assert said in done.complaint
        assert not seen

    def test_that_is_not_there_is_refused_with_2(self, potstill: Run, tmp_path: Path, seen: list[object]) -> None:
        done = potstill("--config", tmp_path / "none.toml", "demo")
        assert done.code == 2
        assert "none.toml as TOML: No such file" in done.complaint
        assert not seen


class TestPredict:
    """Texts from arguments, stdin and files."""

    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
        """Return a function that puts bytes on stdin."""
        return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    def test_labels_arguments_in_their_order(self, potstill: Run, tiny_student: Bundle) -> None:
        texts = ("a great warm lovely film", "the dull\tawful boring plot")
        done = potstill("predict", tiny_student.path, *texts)
        logits = OnnxClassifier.open(tiny_student).predict_logits(texts)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
        assert done.out.splitlines() == [
            f"positive\t{scores[0]:.4f}\ta great warm lovely film",
            f"negative\t{scores[1]:.4f}\tthe dull awful boring plot",
        ]

    def test_labels_the_lines_of_stdin_that_are_not_blank(
        self, potstill: Run, tiny_student: Bundle, given: Callable[[bytes], None]
    ) -> None:
        given(b"a great warm lovely film\r\n\n  \nthe dull awful boring plot")
        done = potstill("predict", tiny_student.path)
        assert done.code == 0
        assert [line.split("\t")[::2] for line in done.out.splitlines()] == [
            ["positive", "a great warm lovely film"],
            ["negative", "the dull awful boring plot"],
        ]

    def test_names_the_line_of_stdin_that_is_not_utf8(
        self, potstill: Run, tiny_student: Bundle, given: Callable[[bytes], None]
    ) -> None:
        given(b"fine\n\nna\xefve\n")
        done = potstill("predict", tiny_student.path)
        assert done.code == 3
        assert done.complaint.startswith("stdin:3: the text is not UTF-8")

    def test_the_limits_of_texts_hold_for_stdin_too(
        self, potstill: Run, tiny_student: Bundle, given: Callable[[bytes], None]
    ) -> None:
        given(b"fine\n" + b"long " * 10)
        done = potstill("predict", tiny_student.path, "--max-text-chars", 40)
        assert done.code == 3
        assert "stdin:2: the text has 49 characters, more than --max-text-chars 40" in done.complaint
        given(b"fine\n" + b"long " * 10)
        assert len(potstill("predict", tiny_student.path, "--max-text-chars", 40, "--skip-bad-rows").out.splitlines()) == 1

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_labels_a_column_of_a_file(self, kind: str, potstill: Run, tiny_student: Bundle, tmp_path: Path) -> None:
        path = tmp_path / f"texts.{kind}"
        rows = [("a great warm lovely film", "1"), ("the dull awful boring plot", "2")]
        if kind == "csv":
            write_csv(path, rows, header="review,stars")
        else:
            path.write_text("".join(json.dumps({"review": text}) + "\n" for text, _ in rows), encoding="utf-8")
        done = potstill("predict", tiny_student.path, "--input", path, "--text-column", "review", "--precision", "fp32")
        assert [line.split("\t")[0] for line in done.out.splitlines()] == ["positive", "negative"]

    def test_prints_one_json_object(self, potstill: Run, tiny_student: Bundle) -> None:
        done = potstill("predict", tiny_student.path, "a great warm lovely film", "--json")
        (prediction,) = json.loads(done.out)["predictions"]
        assert prediction["text"] == "a great warm lovely film"
        assert prediction["label"] == "positive"
        assert prediction["score"] == prediction["probabilities"]["positive"]
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("how", "said"), [("truncate", "were cut (see --long-texts)"), ("windows", "were read in windows")]
    )
    def test_reports_how_many_texts_exceed_max_length(self, how: str, said: str, potstill: Run, tiny_student: Bundle) -> None:
        limit = tiny_student.manifest.max_length
        texts = "lovely film", "lovely " * limit
        done = potstill("predict", tiny_student.path, *texts, "--long-texts", how)
        assert done.err == f"1 of 2 texts (50.0%) were longer than {limit} tokens and {said}\n"
        assert len(done.out.splitlines()) == 2
        assert json.loads(potstill("predict", tiny_student.path, *texts, "--json").out)["num_cut"] == 1

    def test_the_error_for_a_bundle_without_graphs_names_the_command_to_run(
        self, potstill: Run, tiny_unexported: Bundle
    ) -> None:
        done = potstill("predict", tiny_unexported.path, "a lovely film")
        assert done.code == 3
        assert f"run `potstill export {tiny_unexported.path}" in done.complaint


def test_a_closed_pipe_is_no_error(tiny_student: Bundle, tmp_path: Path) -> None:
    many = write_csv(tmp_path / "many.csv", tiny_texts(4000))  # more than a pipe holds
    command = [sys.executable, "-m", "distill", "predict", str(tiny_student.path), "--input", str(many)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(("negative\t", "positive\t"))
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_is_one_line(tiny_student: Bundle) -> None:
    command = [sys.executable, "-m", "distill", "predict", str(tiny_student.path), "a lovely film"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 3
    assert done.stderr == "potstill: the system refused: [Errno 28] No space left on device\n"


class TestFigures:
    """What `eval`, `bench` and `inspect` print of the tiny bundles."""

    def test_eval_shows_each_bundle_and_each_label(
        self, potstill: Run, tiny_student: Bundle, tiny_teacher: Bundle, texts_csv: Path
    ) -> None:
        done = potstill("eval", tiny_student.path, "--teacher", tiny_teacher.path, "--test", texts_csv)
        assert done.code == 0
        for said in ("macro-F1", "kept", "pytorch fp32", "onnxruntime int8", "negative", "positive"):
            assert said in done.out
        assert "quality: 40/40" in done.err

    def test_eval_prints_one_json_object_and_progress_on_stderr(
        self, potstill: Run, tiny_student: Bundle, texts_csv: Path
    ) -> None:
        done = potstill("eval", tiny_student.path, "--test", texts_csv, "--form", "fp32", "--limit", 10, "--json")
        assert len(done.out.splitlines()) == 1
        (row,) = json.loads(done.out)["rows"]
        assert (row["name"], row["precision"], row["num_texts"]) == (tiny_student.path.name, "fp32", 10)
        assert row["agreement"] is row["retention"] is None
        assert done.err.startswith("quality: 10/10")

    def test_eval_tells_two_folders_of_one_name_apart(
        self, potstill: Run, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], texts_csv: Path, tmp_path: Path
    ) -> None:
        other = copied(tiny_student).path.rename(tmp_path / tiny_student.path.name)
        done = potstill("eval", tiny_student.path, other, "--test", texts_csv, "--json")
        assert [row["name"] for row in json.loads(done.out)["rows"]] == [str(tiny_student.path), str(other)]

    def test_the_error_for_eval_without_texts_names_the_flag(self, potstill: Run, tiny_student: Bundle) -> None:
        done = potstill("eval", tiny_student.path)
        assert done.code == 2
        assert "--test FILE" in done.complaint

    def test_bench_measures_and_keeps_the_result_in_the_bundle(
        self, potstill: Run, tiny_student: Bundle, copied: Callable[[Bundle], Bundle], texts_csv: Path
    ) -> None:
        bundle = copied(tiny_student)
        quick = ("--rounds", 3, "--texts-per-round", 5, "--settle-s", 0.1, "--throughput-rounds", 3, "--throughput-texts", 8)
        done = potstill("bench", bundle.path, "--test", texts_csv, *quick)
        assert done.code == 0
        assert "onnxruntime int8" in done.out
        kept = json.loads((bundle.path / "benchmark.json").read_text(encoding="utf-8"))
        (row,) = kept["rows"]
        assert f"{row['p50_ms']:.2f}" in done.out
        assert kept["settings"]["rounds"] == len(row["latency_rounds_ms"]) == 3
        assert "benchmark.json" in Bundle.open(bundle.path).manifest.files

    def test_inspect_lists_the_files_and_verifies_them(self, potstill: Run, tiny_student: Bundle) -> None:
        done = potstill("inspect", tiny_student.path)
        assert done.code == 0
        for name, entry in tiny_student.manifest.files.items():
            assert f"{entry.sha256[:16]}…  {name}" in done.out
        assert done.out.endswith(
            f"{tiny_student.path} is whole: {len(tiny_student.manifest.files)} files match their SHA-256\n"
        )
        as_json = potstill("inspect", tiny_student.path, "--json")
        assert json.loads(as_json.out)["labels"] == ["negative", "positive"]
