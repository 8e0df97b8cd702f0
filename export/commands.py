"""What the subcommands of this stage do, once `distill.cli.main` has read their flags: call the API and print.

Imports stand inside, so that one subcommand does not wait for what another needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.cli.bars import reporter_for_terminal
from distill.cli.reading import gate_texts, measuring_texts, stdin_texts
from distill.cli.terminal import print_cells, print_json, print_line, print_made
from distill.errors import SettingsError
from distill.settings import DataSettings, LongTexts, Precision, TextSettings
from export.settings import BenchSettings, DemoSettings, ExportSettings

if TYPE_CHECKING:
    from export.measure.candidates import Candidate


Layout = Literal["optimum", "transformers.js", "triton"]
Form = Literal["pytorch", "fp32", "int8"]


def run_and_show_demo(out: Path, settings: DemoSettings, *, json: bool) -> None:
    """Do the whole job on the built-in movie sentences and print its table."""
    from export.demo import run_demo
    from export.measure.tables import DEMO_COLUMNS, verdict_of

    report = run_demo(out, settings, reporter=reporter_for_terminal())
    if json:
        print_json(report)
        return
    _print_rows(report["rows"], DEMO_COLUMNS)
    print_line(f"\n{verdict_of(report['rows'])}\n")
    print_line(f"report  {out / 'report.html'}")
    print_line(f"student {out / 'student'}\ntry     potstill predict {out / 'student'} 'a masterpiece of boredom'")


def write_graphs(
    bundle: Path,
    data: DataSettings,
    settings: ExportSettings,
    *,
    layout: Layout | None,
    layout_out: Path | None,
    strip: bool,
    json: bool,
) -> None:
    """Write, verify and seal the graphs of a bundle, and what is wanted beside it.

    Raises:
        SettingsError: Of a layout and its folder only one is named.
    """
    from distill.bundle import Bundle
    from export.layouts import write_layout

    if (layout is None) != (layout_out is None):
        raise SettingsError("--layout and --layout-out belong together: which layout, and the folder to write it in")
    made = Bundle.open(bundle)
    reporter = reporter_for_terminal()
    if layout is None or data.train or data.validation:
        from export.pipeline import export_bundle

        made = export_bundle(made, validation=gate_texts(data, made.labels, reporter), settings=settings, reporter=reporter)
    if layout and layout_out:
        for path in write_layout(made, layout, layout_out):
            reporter.say(f"export: wrote {path}")
    if strip:
        from export.pipeline import strip as strip_bundle

        made = strip_bundle(made)
    print_made(made, json=json)


def compare_quality(
    bundles: Sequence[Path], data: DataSettings, *, teacher: Path | None, form: Form | None, json: bool
) -> None:
    """Print the quality of bundles on test texts."""
    from distill.bundle import Bundle
    from export.measure.candidates import best_form, bundle_candidate
    from export.measure.rows import measure_quality, rows_of
    from export.measure.tables import EVAL_COLUMNS, PER_CLASS_COLUMNS, confusion_table, per_class_cells

    candidates, reference = _with_teacher(teacher)
    names = [path.resolve().name for path in bundles]
    for path, name in zip(bundles, names, strict=True):
        opened = Bundle.open(path)
        told_apart = name if names.count(name) == 1 else str(path)
        candidates.append(bundle_candidate(opened, name=told_apart, form=form or best_form(opened)))
    test = measuring_texts(data, _labels_of(candidates))
    rows = rows_of(candidates, measure_quality(candidates, test, teacher=reference, reporter=reporter_for_terminal()))
    if json:
        print_json({"schema": 1, "rows": rows})
        return
    _print_rows(rows, EVAL_COLUMNS)
    print_cells(PER_CLASS_COLUMNS, per_class_cells(rows))
    columns, cells = confusion_table(rows)
    if cells:
        print_cells(columns, cells)


def measure_bundle(
    bundle: Path, data: DataSettings, settings: BenchSettings, *, teacher: Path | None, form: Form | None, json: bool
) -> None:
    """Measure a bundle against its teacher, keep that in the bundle, and print it."""
    from distill.bundle import Bundle
    from export.measure.bench import bench_bundle
    from export.measure.candidates import best_form, bundle_candidate
    from export.measure.tables import COLUMNS

    opened = Bundle.open(bundle)
    candidates, reference = _with_teacher(teacher)
    student = bundle_candidate(opened, name="student", form=form or best_form(opened))
    candidates.append(student)
    report = bench_bundle(
        opened,
        candidates,
        measuring_texts(data, _labels_of(candidates)),
        teacher=reference,
        settings=settings,
        reporter=reporter_for_terminal(),
    )
    if json:
        print_json(report)
        return
    _print_rows(report["rows"], COLUMNS)
    if any(row["noisy"] for row in report["rows"]):
        print_line("the machine was busy or unsteady: the rounds differ by more than 25 %; run it again on a quiet machine")


def label_texts(
    bundle: Path,
    texts: Sequence[str],
    rows: TextSettings,
    *,
    file: str | None,
    precision: Precision | None,
    threads: int | None,
    long_texts: LongTexts,
    json: bool,
) -> None:
    """Print label, score and text of each text: of those given, else of a file, else of stdin; on stderr how many were long.

    Raises:
        SettingsError: There are texts and a file.
    """
    from dataclasses import asdict

    from distill.classifier import predict_stream
    from distill.data import read_texts
    from export.runtime.long_texts import LongTextClassifier
    from export.runtime.sessions import OnnxClassifier

    if texts and file:
        raise SettingsError("texts were given as arguments and by --input; choose one")
    classifier = LongTextClassifier(OnnxClassifier.open(bundle, precision=precision, threads=threads), long_texts=long_texts)
    source = texts or (read_texts(file, rows) if file else stdin_texts(rows))
    answers = predict_stream(classifier, source)
    if json:
        found = [{"text": text, **asdict(answer)} for text, answer in answers]
        print_json({"predictions": found, "num_cut": classifier.num_long})
        return
    for text, answer in answers:
        print_line(f"{'|'.join(answer.labels)}\t{answer.score:.4f}\t{' '.join(text.split())}")
    if classifier.words():
        reporter_for_terminal().say(classifier.words())


def find_threshold(student: Path, fallback: Path, data: DataSettings, *, agreement: float, json: bool) -> None:
    """Set a student's cascade threshold on validation texts, and print what it costs."""
    from distill.bundle import Bundle
    from export.measure.tables import CASCADE_COLUMNS, cascade_cells
    from export.threshold import set_cascade

    opened = Bundle.open(student)
    texts = gate_texts(data, opened.labels, reporter_for_terminal())
    rows = set_cascade(opened, Bundle.open(fallback), validation=texts, wanted_agreement=agreement)
    if json:
        print_json({"rows": rows})
        return
    print_cells(CASCADE_COLUMNS, cascade_cells(rows))


def describe(bundle: Path, *, verify_key: Path | None, sbom: bool, json: bool) -> None:
    """Print what a bundle is, once it has proved whole and, with a key, signed."""
    from distill.bundle import Bundle
    from distill.card import card_text
    from export.trust.bill_of_materials import ml_bom
    from export.trust.signing import verify_signature

    opened = Bundle.open(bundle)
    if verify_key:
        verify_signature(opened, public_key=verify_key)
    if sbom:
        print_json(ml_bom(opened))
        return
    if json:
        print_json(opened.manifest.model_dump(mode="json", by_alias=True))
        return
    print_line(card_text(opened))
    for name, entry in opened.manifest.files.items():
        print_line(f"{entry.size_bytes:>12,}  {entry.sha256[:16]}…  {name}")
    print_line(f"\n{bundle} is whole: {len(opened.manifest.files)} files match their sha256")
    if verify_key:
        print_line(f"its signature holds for {verify_key}")


def _with_teacher(path: Path | None) -> tuple[list[Candidate], Candidate | None]:
    from distill.bundle import Bundle
    from export.measure.candidates import bundle_candidate

    if path is None:
        return [], None
    reference = bundle_candidate(Bundle.open(path), name="teacher", form="pytorch")
    return [reference], reference


def _labels_of(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    from distill.bundle import Bundle

    path = candidates[-1].bundle_path
    return Bundle.open(path, verify=False).labels if path else ()


def _print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from export.measure.tables import cells_of

    print_cells(columns, [cells_of(row, columns) for row in rows])
