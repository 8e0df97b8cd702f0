"""The `potstill` command: the composition root.

The one file that may reach into every package: for their settings, from which the flags are made, and inside the
subcommands for everything else. It holds flags, help and exit codes; what a subcommand does stands in the `command` module
of its stage. Importing it loads neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import App, Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.terminal import drop_stdout, fail, print_json, print_made, settings_file, words_of
from distill.errors import PotstillError, StorageError, requires
from distill.settings import BUILTIN_MINILM, DataSettings, DistillSettings, LongTexts, TextSettings, TrialSettings
from distill.transfer_settings import CarrySettings, OriginSettings, SelectSettings
from export.settings import BenchSettings, DemoSettings, ExportSettings

INTERRUPTED = 130
USAGE = 2


def _version() -> str:
    from importlib.metadata import version

    return version("potstill")


app = App(
    name="potstill",
    help=(
        "Turn a large text classifier into a small, fast one, and prove what that cost.\n\n"
        "Example, the whole job on built-in data: potstill demo --out demo"
    ),
    version=_version,
    default_parameter=Parameter(consume_multiple=True, negative=()),
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Flat = Parameter(name="*")
Data = Annotated[DataSettings, Flat]
Json = Annotated[bool, Parameter(help="print one JSON object, last, on stdout")]


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="folder for the report and the bundles")] = Path("demo"),
    settings: Annotated[DemoSettings, Flat] = DemoSettings(),
    json: Json = False,
) -> None:
    """Do the whole job on the built-in movie sentences: teacher, student, export, measure, report.

    A finished step is not repeated when the command is run again.

    Example: potstill demo --out demo --profile quick
    """
    from export.commands import run_and_show_demo

    run_and_show_demo(out, settings, json=json)


@app.command
def teacher(
    *,
    out: Annotated[Path, Parameter(help="folder of the bundle to make")],
    model: Annotated[str, Parameter(help="a folder, a hub id, or builtin:minilm")] = BUILTIN_MINILM,
    origin: Annotated[OriginSettings, Flat] = OriginSettings(),
    data: Data = DataSettings(),
    settings: Annotated[CarrySettings, Flat] = CarrySettings(),
    json: Json = False,
) -> None:
    """Fine-tune a teacher on your data, from a pretrained encoder or from the bundle of another task.

    Example: potstill teacher --train reviews.csv --out teacher
    """
    from distill.commands import make_teacher

    print_made(make_teacher(model, origin, data, settings, out=out, reporter=reporter_for_terminal()), json=json)


@app.command
def select(
    *,
    candidates: Annotated[tuple[str, ...], Parameter(help="encoders to rank: folders, bundles, hub ids, builtin:minilm")] = (
        BUILTIN_MINILM,
    ),
    data: Data = DataSettings(),
    settings: Annotated[SelectSettings, Flat] = SelectSettings(),
    json: Json = False,
) -> None:
    """Rank pretrained encoders for your data, without fine-tuning them.

    Example: potstill select --train reviews.csv --candidates builtin:minilm teacher
    """
    from distill.commands import print_selection, rank

    selection = rank(candidates, data, settings, reporter=reporter_for_terminal())
    print_json(selection.to_dict()) if json else print_selection(selection)


@app.command
def distill(
    teachers: Annotated[
        tuple[Path, ...], Parameter(help="the teacher's bundle; of several the mean teaches, the first lends its layers")
    ] = (),
    /,
    *,
    out: Annotated[Path, Parameter(help="folder of the bundle to make")],
    unlabeled: Annotated[tuple[str, ...], Parameter(help="files of further texts without labels, or builtin:NAME")] = (),
    scored: Annotated[
        tuple[Path, ...], Parameter(help="what `potstill score TEACHER --logits` wrote: it is not asked for those texts again")
    ] = (),
    data: Data = DataSettings(),
    settings: Annotated[DistillSettings, Flat] = DistillSettings(),
    trials: Annotated[TrialSettings, Flat] = TrialSettings(),
    json: Json = False,
) -> None:
    """Teach a student: made of the teacher's layers, trained on labels and on the teacher's answers.

    With --control or --seeds the runs stand in OUT/runs, the student that is best on the validation texts in OUT, and
    OUT/report.json compares them on --test, else on the validation texts. A finished run is not repeated.

    Example: potstill distill teacher --train reviews.csv --out student --num-layers 2
    """
    from distill.commands import teach

    teach(teachers, data, settings, trials, unlabeled=unlabeled, scored=scored, out=out, json=json)


@app.command
def export(
    bundle: Annotated[Path, Parameter(help="a bundle with PyTorch weights")],
    /,
    *,
    strip: Annotated[bool, Parameter(help="drop the PyTorch weights afterwards: what is left serves only")] = False,
    layout: Annotated[
        Literal["optimum", "transformers.js", "triton"] | None, Parameter(help="also write the files as this tool wants them")
    ] = None,
    layout_out: Annotated[Path | None, Parameter(help="where to write them: a new folder")] = None,
    data: Data = DataSettings(),
    settings: Annotated[ExportSettings, Flat] = ExportSettings(),
    json: Json = False,
) -> None:
    """Write and verify the ONNX graphs of a bundle; a gate that fails exits with 4 and seals nothing.

    The gates need labelled texts: `--validation FILE`, or the `--train` that the bundle was made from, of which the
    same share is cut off. With --layout and no texts, the graphs that the bundle has are taken.

    Example: potstill export student --validation held_out.csv
    """
    from export.commands import write_graphs

    write_graphs(bundle, data, settings, layout=layout, layout_out=layout_out, strip=strip, json=json)


@app.command(name="eval")
def evaluate(
    bundles: Annotated[tuple[Path, ...], Parameter(help="one or more bundles")],
    /,
    *,
    teacher: Annotated[Path | None, Parameter(help="the bundle that agreement and retention refer to")] = None,
    form: Annotated[
        Literal["pytorch", "fp32", "int8"] | None, Parameter(help="how to run them; without it the smallest form")
    ] = None,
    data: Data = DataSettings(),
    json: Json = False,
) -> None:
    """F1, precision, recall, calibration and agreement of one or more bundles on --test texts.

    Example: potstill eval student --teacher teacher --test test.csv
    """
    from export.commands import compare_quality

    compare_quality(bundles, data, teacher=teacher, form=form, json=json)


@app.command
def bench(
    bundle: Annotated[Path, Parameter(help="a bundle with a graph")],
    /,
    *,
    teacher: Annotated[Path | None, Parameter(help="the bundle it is compared with, run in PyTorch")] = None,
    form: Annotated[
        Literal["pytorch", "fp32", "int8"] | None, Parameter(help="how to run it; without it the smallest form")
    ] = None,
    data: Data = DataSettings(),
    settings: Annotated[BenchSettings, Flat] = BenchSettings(),
    json: Json = False,
) -> None:
    """Latency, rate, size, memory and quality of a bundle against its teacher, in one run; kept in the bundle.

    Example: potstill bench student --teacher teacher --test test.csv
    """
    from export.commands import measure_bundle

    measure_bundle(bundle, data, settings, teacher=teacher, form=form, json=json)


@app.command
def predict(
    bundle: Annotated[Path, Parameter(help="a bundle with a graph")],
    texts: Annotated[tuple[str, ...], Parameter(help="texts to label; without them --input, or the lines of stdin")] = (),
    /,
    *,
    input: Annotated[str | None, Parameter(help="a CSV, TSV, JSONL or Parquet file with a column of texts")] = None,  # noqa: A002
    precision: Annotated[
        Literal["fp32", "int8"] | None, Parameter(help="which graph; without it int8 where there is one")
    ] = None,
    threads: Annotated[int | None, Parameter(help="threads; without it what this process may really use")] = None,
    long_texts: Annotated[
        LongTexts, Parameter(help="a text past max_length is cut, or read in overlapping windows, whose logits are averaged")
    ] = "truncate",
    rows: Annotated[TextSettings, Flat] = TextSettings(),
    json: Json = False,
) -> None:
    """Label texts from arguments, a file or stdin: label, score and text, separated by tabs.

    Example: potstill predict student "a masterpiece of boredom"
    """
    from export.commands import label_texts

    label_texts(bundle, texts, rows, file=input, precision=precision, threads=threads, long_texts=long_texts, json=json)


@app.command
def cascade(
    student: Annotated[Path, Parameter(help="the student's bundle, with a graph; its manifest keeps the threshold")],
    fallback: Annotated[Path, Parameter(help="a larger bundle with a graph, for the texts that the student is unsure of")],
    /,
    *,
    agreement: Annotated[float, Parameter(help="share of texts to be answered as the fallback answers them")] = 0.98,
    data: Data = DataSettings(),
    json: Json = False,
) -> None:
    """Find how sure a student must be for its answer to stand: potstill serve STUDENT --fallback TEACHER.

    Example: potstill cascade student teacher --validation validation.csv
    """
    from export.commands import find_threshold

    find_threshold(student, fallback, data, agreement=agreement, json=json)


@app.command
def inspect(
    bundle: Annotated[Path, Parameter(help="a bundle")],
    /,
    *,
    verify_key: Annotated[Path | None, Parameter(help="public key that its signature must hold for")] = None,
    sbom: Annotated[bool, Parameter(help="print its bill of materials instead, as CycloneDX JSON")] = False,
    json: Json = False,
) -> None:
    """Say what a bundle is, where it came from, its figures, and whether it is whole.

    Example: potstill inspect student
    """
    from export.commands import describe

    describe(bundle, verify_key=verify_key, sbom=sbom, json=json)


@app.command
def sign(
    bundle: Annotated[Path, Parameter(help="a bundle; nothing may be added to it afterwards")],
    /,
    *,
    key: Annotated[Path, Parameter(help="private key on P-256, a PEM file: openssl ecparam -genkey -name prime256v1 -noout")],
    password: Annotated[str | None, Parameter(env_var="POTSTILL_KEY_PASSWORD", help="of the key, if it has one")] = None,
) -> None:
    """Sign a bundle, so that others can check with your public key that it is yours: potstill inspect --verify-key.

    Example: potstill sign student --key private.pem
    """
    from distill.bundle import Bundle
    from export.trust.signing import sign_bundle

    print(f"signed: {sign_bundle(Bundle.open(bundle), private_key=key, password=password)}")


# By name: their modules are loaded only when they are run, so the list of commands needs their first lines here.
app.command("serve.commands:serve", name="serve", help="Answer over HTTP.\n\nExample: potstill serve student")
app.command(
    "serve.bulk.commands:score",
    name="score",
    help="Label a large table, on one machine or on a Ray cluster; killed and run again, it goes on to the same bytes.\n\n"
    "Example: potstill score student --input reviews/ --output labels/ --key id",
)

app.meta.suppress_keyboard_interrupt = False  # it has a life of its own beside the app's; `main` says what was kept


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="a TOML file with a table per command; flags win over it")] = None,
) -> object:
    commands = [name for name in app if not name.startswith("-")]
    app.config = () if config is None else (settings_file(config, commands=commands),)
    return app(tokens, exit_on_error=False, print_error=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code: 0 done, 2 a setting, 3 data or bundle, 4 a gate, 5 a missing extra."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("distill", "export", "serve"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with requires("this command"):
            app.meta(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except cyclopts.CycloptsError as exc:
        sys.exit(fail(words_of(exc), USAGE))
    except PotstillError as exc:
        sys.exit(fail(str(exc), exc.exit_code))
    except BrokenPipeError:
        drop_stdout()  # the reader went away (`| head`); nothing is left to say
    except OSError as exc:
        drop_stdout()
        sys.exit(fail(f"the system refused: {exc}", StorageError.exit_code))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted; finished steps are kept, run the same command to go on", INTERRUPTED))
