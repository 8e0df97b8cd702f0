"""The flags of `potstill ask` and `potstill audit`, and what they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distill.asking.settings import AskSettings, AuditSettings
from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import GROUPS, Flat, Json, with_headings
from distill.cli.terminal import print_cells, print_json
from distill.errors import AddressError, SettingsError
from distill.settings import DataSettings, TextSettings

if TYPE_CHECKING:
    from distill.asking.audit import Audit
    from distill.asking.labelling import AskingReport


@with_headings
def ask(
    *,
    task: Annotated[Path, Parameter(group=GROUPS["Data"], help="TOML file with the labels and what they mean")],
    source: Annotated[
        tuple[str, ...], Parameter(name="--input", group=GROUPS["Data"], help="texts to label: FILE or builtin:NAME")
    ],
    out: Annotated[Path, Parameter(group=GROUPS["Output"], help="folder of the answers; run the same command again to resume")],
    settings: Annotated[AskSettings, Flat],
    data: Annotated[TextSettings, Flat] = TextSettings(),
    dry_run: Annotated[
        int | None,
        Parameter(
            group=GROUPS["Limits"],
            help="ask only this many texts, show the answers, and estimate tokens, time and cost of all texts",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Ask a language model for the label of each text, and keep every answer as it arrives."""
    from distill.asking.labelling import ask as ask_all
    from distill.asking.task import read_task
    from distill.data import TextSources

    if dry_run is not None and dry_run < 1:
        raise SettingsError(f"--dry-run must be at least 1, got {dry_run}")
    labels = read_task(task)
    texts = list(dict.fromkeys(TextSources(source, data)))
    report = ask_all(labels, texts, out=out, settings=settings, only=dry_run, reporter=reporter_for_terminal())
    figures = _figures(report, settings, len(texts))
    if json:
        print_json(figures)
    else:
        if dry_run is not None:
            _show_answers(out, settings, report)
        print(_in_words(figures, out))
    if report.num_unanswered:
        raise AddressError(
            f"{report.num_unanswered} questions got no answer, the last because {report.last_failure}; run it again to go on"
        )


@with_headings
def audit(
    answers: Annotated[Path, Parameter(help="folder of answers, the --out of `potstill ask`")],
    /,
    *,
    settings: Annotated[AuditSettings, Flat] = AuditSettings(),
    out: Annotated[
        Path | None, Parameter(group=GROUPS["Output"], help="HTML page to write; default: audit.html in the folder of answers")
    ] = None,
    json: Json = False,
) -> None:
    """Judge the answers of a language model, against gold labels where there are some, and write a page."""
    from distill.asking.audit import audit as judge
    from distill.asking.audit_page import write_page
    from distill.asking.combined import read_answered
    from distill.data import read_labelled

    answered = read_answered(answers)
    data = DataSettings(**{name: getattr(settings, name) for name in (*TextSettings.model_fields, "label_column")})
    gold = None if settings.gold is None else read_labelled(settings.gold, "test", data, labels=answered.labels)
    found = judge(answered, gold, wanted_width=settings.width, limit=settings.suspects)
    page = out or answers / "audit.html"
    write_page(page, found)
    if json:
        print_json({"page": str(page), **found.to_dict()})
        return
    _print_audit(found)
    print(f"page: {page}")


def _print_audit(found: Audit) -> None:
    print(found.verdict)
    print("answers: " + ", ".join(f"{name} {share:.1%}" for name, share in found.shares.items()))
    if found.gold is not None:
        if found.gold_unanswered:
            print(f"{found.gold_unanswered:,} gold texts have no answer and are left out")
        rows = [
            (name, str(one.support), f"{one.f1:.4f}", f"{one.precision:.4f}", f"{one.recall:.4f}")
            for name, one in found.gold.quality.per_class.items()
        ]
        print_cells(("label", "gold texts", "F1", "precision", "recall"), rows)
        print(
            f"calibration error {found.gold.quality.expected_calibration_error:.4f}; an interval {found.gold.wanted_width:g} "
            f"wide needs about {found.gold.needed:,} gold labels"
        )
    share, low, high = found.first_share
    print(
        f"the label listed first is the answer to {share:.1%} of the texts ({low:.1%} to {high:.1%}); without influence of the "
        f"order it would be {found.first_expected:.1%}"
    )
    if found.disagreeing is not None:
        print(f"the askings of {found.disagreeing:.1%} of the texts disagree")


def _figures(report: AskingReport, settings: AskSettings, num_texts: int) -> dict[str, object]:
    """Return what the run did, and, where it asked only some of the texts, what all of them will take."""
    figures: dict[str, object] = {
        "num_texts": report.num_texts,
        "num_asked": report.num_asked,
        "num_answers": report.num_answers,
        "num_quarantined": report.num_quarantined,
        "num_unanswered": report.num_unanswered,
        "parse_rate": report.num_answers / max(1, report.num_answers + report.num_quarantined),
        "input_tokens": report.spent.input,
        "output_tokens": report.spent.output,
        "cost": report.spent.cost(settings),
        "structured": report.abilities.structured,
        "log_probabilities": report.abilities.log_probabilities,
    }
    if report.num_texts < num_texts and report.num_asked:
        times = (num_texts - report.num_texts) * settings.askings / report.num_asked
        figures |= {
            "projected_tokens": round(
                sum((report.spent.input, report.spent.output))
                + times * report.asked_tokens.input
                + times * report.asked_tokens.output
            ),
            "projected_cost": report.spent.cost(settings) + times * report.asked_tokens.cost(settings),
            "projected_seconds": times * report.seconds,
        }
    return figures


def _in_words(figures: dict[str, object], out: Path) -> str:
    lines = [
        f"{figures['num_answers']:,} answers in {out}, {figures['num_quarantined']:,} in quarantine "
        f"(parse rate {figures['parse_rate']:.3f}), {figures['num_asked']:,} asked now",
        f"spent: {figures['input_tokens']:,} tokens of prompts, {figures['output_tokens']:,} of answers, "
        f"cost {figures['cost']:.4g}",
    ]
    if "projected_tokens" in figures:
        lines.append(
            f"all texts: {figures['projected_tokens']:,} tokens, cost {figures['projected_cost']:.4g}, "
            f"{figures['projected_seconds']:.0f} s more"
        )
    return "\n".join(lines)


def _show_answers(out: Path, settings: AskSettings, report: AskingReport) -> None:
    """Print a prompt as it is sent, and the answers."""
    from distill.asking.kept import QUARANTINE, read_asked, read_kept
    from distill.asking.prompts import question
    from distill.texts import joined

    answers = [*read_kept(out), *read_kept(out, QUARANTINE)][: report.num_texts * settings.askings]
    asked = read_asked(out)
    first = question(asked.task, answers[0].of_text, asking=0, model=asked.model, settings=settings, abilities=asked.abilities)
    for message in first.body["messages"]:
        print(f"[{message['role']}]\n{message['content']}\n")
    rows = [
        (
            " ".join(joined(answer.of_text).split())[:60],
            answer.label or f"quarantine: {answer.problem}"[:60],
            f"{answer.shares[answer.label]:.3f}" if answer.label in answer.shares else "",
        )
        for answer in answers
    ]
    print_cells(("text", "answer", "probability"), rows)
