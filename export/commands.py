"""The flags of the subcommands of this stage, and what they print.

Modules that compute are imported inside the functions, so that one subcommand does not load what another needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import GROUPS, Data, Flat, Json, Unlabeled, with_headings
from distill.cli.reading import adopting_texts, gate_texts, measuring_texts, reported_splits, stdin_texts
from distill.cli.terminal import print_json, print_made, print_report
from distill.errors import SettingsError
from distill.progress import Reporter, SilentReporter
from distill.settings import BUILTIN_MINILM, DataSettings, LongTexts, Precision, TextSettings
from export.settings import BenchSettings, DemoSettings, ExportSettings, FitSettings, Form, Layout
from export.trust.pins import TrustSettings

if TYPE_CHECKING:
    from distill.bundle import Bundle
    from distill.manifest import CascadeEntry
    from export.fitting.reporting.result import FitReport
    from export.measure.candidates import Candidate

OUTPUT, RUNNING = GROUPS["Output"], GROUPS["Running"]
Trust = Annotated[TrustSettings, Flat]
GraphBundle = Annotated[Path, Parameter(help="a bundle with an ONNX graph")]
FormFlag = Annotated[
    Form | None,
    Parameter(
        group=RUNNING,
        help="run the int8 graph, the fp32 graph or the PyTorch weights; default: the first of these that the bundle has",
    ),
]


@with_headings
def demo(
    *,
    out: Annotated[Path, Parameter(group=OUTPUT, help="folder for the report and the bundles")] = Path("demo"),
    settings: Annotated[DemoSettings, Flat] = DemoSettings(),
    json: Json = False,
) -> None:
    """Run `potstill fit` on the built-in movie sentences with a budget and recipes that finish soon."""
    from export.demo import run_demo

    _show_fit(run_demo(out, settings, reporter=reporter_for_terminal()), out, json=json)


@with_headings
def fit(
    *,
    data: Data = DataSettings(),
    teacher: Annotated[
        tuple[str, ...],
        Parameter(
            group=GROUPS["Teacher"],
            help="encoder to fine-tune, or fine-tuned classifier to adopt: a folder, a bundle, hub:ID or builtin:minilm; "
            "answers:FOLDER: the answers of `potstill ask`, which also replace --train if it is not given. Logits "
            "of several teachers are averaged; each must be fine-tuned before and is asked for all texts, so three of a "
            "size take three times as long as one",
        ),
    ] = (BUILTIN_MINILM,),
    unlabeled: Unlabeled = (),
    settings: Annotated[FitSettings, Flat] = FitSettings(),
    out: Annotated[
        Path, Parameter(group=OUTPUT, help="folder of the run: teacher, student, report; a rerun resumes there")
    ] = Path("fit"),
    dry_run: Annotated[
        bool, Parameter(group=RUNNING, help="print the plan and train nothing: students with predicted ms and MB, and minutes")
    ] = False,
    json: Json = False,
) -> None:
    """Find the student that fits the budget, train it, and write it with a report of what was tried.

    Without --max-ms, --max-mb and --min-kept every student fits, and the fastest of the best is chosen.
    """
    from distill.asking.teaching import labelled_by
    from distill.data import TextSources
    from distill.teachers.named import labels_of_named
    from export.fitting.run import fit as run_fit
    from export.fitting.run import plan_fit

    if data.teacher_logits_column is not None:
        raise SettingsError(
            "fit needs a teacher that answers new texts, not recorded logits; use `potstill distill --teacher-logits-column`"
        )
    reporter = reporter_for_terminal()
    answered = labelled_by(teacher)
    splits = reported_splits(data, SilentReporter(), labels=labels_of_named(teacher), train=answered)
    further = chain(TextSources(unlabeled, data), answered.texts if answered else ())
    given: Any = {"teacher": teacher, "unlabeled": further, "settings": settings, "reporter": reporter}
    if dry_run:
        plan = plan_fit(splits, **given)
        print_report(plan.to_dict(), plan.table(), *plan.lines(), json=json)
        return
    _show_fit(run_fit(splits, out=out, **given), out, json=json)


@with_headings
def export(
    bundle: Annotated[Path, Parameter(help="a bundle with PyTorch weights, a Hugging Face classifier or hub:ID")],
    /,
    *,
    data: Data = DataSettings(),
    settings: Annotated[ExportSettings, Flat] = ExportSettings(),
    out: Annotated[
        Path | None,
        Parameter(group=OUTPUT, help="for a Hugging Face classifier: folder of its new bundle; a bundle is changed in place"),
    ] = None,
    layout: Annotated[
        Layout | None,
        Parameter(
            group=OUTPUT,
            help="also write the files that this tool expects; web: a page that runs the student in the browser; bundle: "
            "one graph and no weights, small to ship. Needs no texts if the graphs exist",
        ),
    ] = None,
    layout_out: Annotated[Path | None, Parameter(group=OUTPUT, help="new folder for --layout")] = None,
    layout_precision: Annotated[
        Precision | None,
        Parameter(
            group=OUTPUT, help="graph to put into --layout; default: int8 where only one fits (triton, web, bundle), else all"
        ),
    ] = None,
    strip: Annotated[
        bool, Parameter(group=OUTPUT, help="delete the PyTorch weights afterwards; the bundle can then only be served")
    ] = False,
    json: Json = False,
) -> None:
    """Write, verify and save the graphs of a bundle; print its files.

    The gates need labelled texts: `--validation FILE`, or the `--train` that the bundle was trained on, of which the
    same share is cut off.
    """
    from distill.bundle import is_checkpoint
    from distill.opening import open_or_adopt
    from export.layouts import write_layout

    if is_checkpoint(bundle) and out is None:
        raise SettingsError(f"{bundle} is a Hugging Face classifier; name the folder of its bundle with --out")
    if (layout is None) != (layout_out is None):
        raise SettingsError("--layout and --layout-out must be given together")
    if layout_precision and layout is None:
        raise SettingsError("--layout-precision names a graph of --layout, which is not given")
    reporter = reporter_for_terminal()
    made = open_or_adopt(bundle, out=out, labelled=adopting_texts(data), reporter=reporter)
    if layout is None or data.train or data.validation:
        from export.pipeline import export_bundle

        made = export_bundle(made, validation=gate_texts(data, made.labels, reporter), settings=settings, reporter=reporter)
    if layout and layout_out:
        for path in write_layout(made, layout, layout_out, precision=layout_precision):
            reporter.say(f"export: wrote {path}")
    if strip:
        from export.pipeline import strip as strip_bundle

        made = strip_bundle(made)
    print_made(made, json=json)


@with_headings
def evaluate(
    bundles: Annotated[tuple[Path, ...], Parameter(help="one or more bundles, Hugging Face classifiers or hub:ID")],
    /,
    *,
    data: Data = DataSettings(),
    teacher: Annotated[
        Path | None,
        Parameter(
            group=RUNNING,
            help="teacher to compare with, a bundle, a Hugging Face classifier or hub:ID, run in PyTorch: adds agreement "
            "(share of equal answers) and retention (share of its macro-F1)",
        ),
    ] = None,
    form: FormFlag = None,
    trust: Trust = TrustSettings(),
    json: Json = False,
) -> None:
    """Print the quality of bundles on test texts, in total, by label, and the confusion matrix."""
    from export.measure.rows import SCHEMA, measure_quality
    from export.measure.tables import EVAL_COLUMNS, confusion_table, per_class_table, table_of

    reporter = reporter_for_terminal()
    opened = [_measurable(path, data, trust, reporter) for path in bundles]
    names = [path.resolve().name for path in bundles]
    unique = [name if names.count(name) == 1 else str(path) for name, path in zip(names, bundles, strict=True)]
    reference = _measurable(teacher, data, trust, reporter) if teacher else None
    candidates, against = _candidates(opened, unique, form, reference)
    test = measuring_texts(data, opened[-1].labels)
    rows = list(measure_quality(candidates, test, teacher=against, reporter=reporter).values())
    tables = (table_of(rows, EVAL_COLUMNS), per_class_table(rows), confusion_table(rows))
    print_report({"schema": SCHEMA, "rows": rows}, *tables, json=json)


@with_headings
def bench(
    bundle: Annotated[Path, Parameter(help="a bundle, a Hugging Face classifier or hub:ID")],
    /,
    *,
    data: Data = DataSettings(),
    teacher: Annotated[
        Path | None,
        Parameter(group=RUNNING, help="teacher to compare with, a bundle, a Hugging Face classifier or hub:ID, run in PyTorch"),
    ] = None,
    form: FormFlag = None,
    settings: Annotated[BenchSettings, Flat] = BenchSettings(),
    trust: Trust = TrustSettings(),
    json: Json = False,
) -> None:
    """Measure a bundle against its teacher in one run, save the result in the bundle, and print it."""
    from export.measure.bench import bench_bundle
    from export.measure.tables import table_of

    reporter = reporter_for_terminal()
    opened = _measurable(bundle, data, trust, reporter)
    reference = _measurable(teacher, data, trust, reporter) if teacher else None
    candidates, against = _candidates([opened], ["student"], form, reference)
    test = measuring_texts(data, opened.labels)
    report = bench_bundle(opened, candidates, test, teacher=against, settings=settings, reporter=reporter)
    marks = [f"{row['name']} {row['precision']}: {mark}" for row in report["rows"] for mark in row["marks"]]
    print_report(report, table_of(report["rows"]), "\n".join(marks), json=json)


@with_headings
def predict(
    bundle: GraphBundle,
    texts: Annotated[tuple[str, ...], Parameter(help="texts to label; default: those of --input, or the lines of stdin")] = (),
    /,
    *,
    input: Annotated[  # noqa: A002
        str | None, Parameter(group=GROUPS["Data"], help="file with a text column: CSV, TSV, JSONL or Parquet")
    ] = None,
    rows: Annotated[TextSettings, Flat] = TextSettings(),
    precision: Annotated[
        Precision | None, Parameter(group=RUNNING, help="graph to run; default: int8 if the bundle has it, else fp32")
    ] = None,
    threads: Annotated[
        int | None, Parameter(group=RUNNING, help="threads; default: the CPUs available to this process")
    ] = None,
    long_texts: Annotated[
        LongTexts,
        Parameter(group=RUNNING, help="texts longer than max_length: cut them, or average the logits of overlapping windows"),
    ] = "truncate",
    trust: Trust = TrustSettings(),
    json: Json = False,
) -> None:
    """Print label, score and text of each text; report on stderr how many texts exceeded max_length."""
    from distill.classifier import predict_stream
    from distill.data import read_texts
    from distill.texts import joined
    from export.runtime.long_texts import LongTextClassifier
    from export.runtime.sessions import OnnxClassifier
    from export.trust.pins import open_trusted

    if texts and input:
        raise SettingsError("texts were given both as arguments and with --input; choose one")
    if texts and rows.pair_column:
        raise SettingsError("texts given as arguments are single texts; read pairs from a file with --input")
    graph = OnnxClassifier.open(open_trusted(bundle, trust), precision=precision, threads=threads)
    classifier = LongTextClassifier(graph, long_texts=long_texts)
    answers = predict_stream(classifier, texts or (read_texts(input, rows) if input else stdin_texts(rows)))
    if json:
        print_json(
            {"predictions": [{"text": text, **asdict(answer)} for text, answer in answers], "num_cut": classifier.num_long}
        )
        return
    for text, answer in answers:
        print(f"{'|'.join(answer.labels)}\t{answer.score:.4f}\t{' '.join(joined(text).split())}")
    if classifier.words():
        reporter_for_terminal().say(classifier.words())


@with_headings
def cascade(
    student: Annotated[
        Path, Parameter(help="bundle of the student, with an ONNX graph; the threshold is saved in its manifest")
    ],
    fallback: Annotated[
        Path,
        Parameter(
            help="larger model for texts that the student is unsure of: a bundle with an ONNX graph, or "
            "answers:FOLDER, the answers of `potstill ask`"
        ),
    ],
    /,
    *,
    data: Data = DataSettings(),
    agreement: Annotated[
        float, Parameter(group=RUNNING, help="share of texts on which the cascade must answer like the fallback alone")
    ] = 0.98,
    confidence: Annotated[
        float | None,
        Parameter(
            group=RUNNING,
            help="statistical confidence, such as 0.95, that --agreement also holds on new texts; exit with 4 if no "
            "threshold reaches it; default: --agreement holds on the validation texts only",
        ),
    ] = None,
    trust: Trust = TrustSettings(),
    json: Json = False,
) -> None:
    """Set the cascade threshold of a student on validation texts, and print quality and cost."""
    from distill.asking.teaching import is_answers, labelled_by, open_answers, teacher_of
    from distill.bundle import Bundle
    from export.measure.tables import CASCADE_COLUMNS, table_of
    from export.threshold import set_cascade
    from export.trust.pins import open_trusted

    opened = open_trusted(student, trust)
    larger = teacher_of(open_answers(fallback)) if is_answers(fallback) else open_trusted(fallback, trust)
    texts = gate_texts(data, opened.labels, reporter_for_terminal(), train=labelled_by([fallback]))
    rows = set_cascade(opened, larger, validation=texts, wanted_agreement=agreement, confidence=confidence)
    entry = Bundle.open(student).manifest.cascade
    promise = "" if confidence is None or entry is None else _promise(entry)
    print_report({"rows": rows, "threshold": entry and entry.model_dump()}, table_of(rows, CASCADE_COLUMNS), promise, json=json)


def _promise(entry: CascadeEntry) -> str:
    return (
        f"with confidence {entry.confidence:g}, at least {entry.agreement_bound:.2%} of new texts like these get the label of "
        f"the fallback: {round((1 - entry.agreement) * entry.num_texts)} of {entry.num_texts} differ"
    )


def _measurable(source: Path, data: DataSettings, trust: TrustSettings, reporter: Reporter) -> Bundle:
    """Open what is measured, however bad it is; a Hugging Face classifier is adopted into the cache."""
    from distill.opening import open_or_adopt
    from export.trust.pins import require_trusted

    return require_trusted(open_or_adopt(source, labelled=adopting_texts(data), judged=False, reporter=reporter), trust)


def _candidates(
    bundles: Sequence[Bundle], names: Sequence[str], form: Form | None, teacher: Bundle | None
) -> tuple[list[Candidate], Candidate | None]:
    """Return the teacher, if there is one, and the bundles as candidates; and the teacher once more."""
    from export.measure.candidates import best_form, bundle_candidate

    reference = bundle_candidate(teacher, name="teacher", form="pytorch") if teacher else None
    students = [
        bundle_candidate(bundle, name=name, form=form or best_form(bundle)) for bundle, name in zip(bundles, names, strict=True)
    ]
    return [reference, *students] if reference else students, reference


def _show_fit(report: FitReport, out: Path, *, json: bool) -> None:
    from export.fitting.reporting.summary import summary_lines, summary_table

    verdict, *lines = summary_lines(report, out)
    print_report(asdict(report), f"\n{verdict}", summary_table(report), *lines, json=json)
