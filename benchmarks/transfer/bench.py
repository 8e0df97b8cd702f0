"""What every part of the `transfer` scenario works with: its folder of rows, the domains' teachers, how a cell is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import Row
from benchmarks.harness.texts import measured_on
from benchmarks.transfer.figures import DOMAINS
from distill.bundle import Bundle
from distill.classifier import top_labels
from distill.data import Dataset, Splits, load_splits
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM, DataSettings
from distill.teacher_settings import TeacherSettings

if TYPE_CHECKING:
    from distill.training.origin import Origin


@dataclass(frozen=True)
class Texts:
    """Texts to learn from, to choose on and to measure with."""

    train: Dataset
    validation: Dataset
    test: Dataset


@dataclass(frozen=True)
class Start:
    """What a model is fine-tuned from, and how.

    Attributes:
        settings: Of the fine-tuning.
        model: A pretrained encoder.
        origin: A teacher whose body is taken instead, or texts to adapt to first.
    """

    settings: TeacherSettings
    model: str = BUILTIN_MINILM
    origin: Origin | None = None


@dataclass(frozen=True)
class Bench:
    """Where a run of the scenario works.

    Attributes:
        folder: Holds a bundle for each domain and seed, and a row file for each cell.
        reporter: Told of each step.
        limit: Texts of each split, at most; None: all.
        teacher: How a domain's teacher is fine-tuned, all but the seed.
    """

    folder: Path
    reporter: Reporter
    limit: int | None = None
    teacher: TeacherSettings = field(default_factory=TeacherSettings)

    @cached_property
    def domains(self) -> dict[str, Texts]:
        """The texts of each domain; the test texts choose nothing."""
        return {name: self.builtin(name) for name in DOMAINS}

    def builtin(self, name: str) -> Texts:
        """Return the texts of a built-in set."""
        splits = load_splits(DataSettings(train=(f"builtin:{name}",), test=f"builtin:{name}", limit=self.limit))
        return Texts(splits.train, splits.validation, measured_on(splits))

    @cached_property
    def pieces(self) -> Pieces:
        """The rows of finished cells, by name."""
        return Pieces(self.folder / "rows")

    def done(self, row: Row) -> bool:
        """Whether a cell is finished; one whose kept row says something else of it is not."""
        kept = self.pieces.find(row["name"])
        return kept is not None and row.items() <= kept.items()

    def make(self, row: Row, make: Maker) -> None:
        """Make a cell unless it is finished, and keep its row."""
        if not self.done(row):
            self.reporter.say(row["name"])
            self.pieces.put(row["name"], {**row, **make(self, row)})


Maker = Callable[[Bench, Row], Mapping[str, Any]]
"""From a row that says what a cell is to the rest of it: what was measured."""


def source_of(bench: Bench, domain: str, seed: int) -> Bundle:
    """Return the domain's own teacher, fine-tuned on all its labels; one in the folder is used again."""
    from export.fitting.training import tuned_teacher

    texts, settings = bench.domains[domain], bench.teacher.model_copy(update={"seed": seed})
    splits = Splits(texts.train, texts.validation, None)
    name = f"source-{domain}-{seed}"
    return tuned_teacher(BUILTIN_MINILM, splits, settings, out=bench.folder, name=name, reporter=bench.reporter)


def tuned(bench: Bench, texts: Texts, start: Start, *, out: Path) -> Bundle:
    """Fine-tune as a user does."""
    from distill.training.fine_tuning import fit_teacher

    return fit_teacher(
        start.model,
        train=texts.train,
        validation=texts.validation,
        out=out,
        settings=start.settings,
        origin=start.origin,
        reporter=bench.reporter,
    )


def tuned_figures(bench: Bench, texts: Texts, start: Start) -> dict[str, Any]:
    """Fine-tune and return the time and the quality on the test texts; the bundle is not kept."""
    with scratch(bench.folder) as out:
        bundle = tuned(bench, texts, start, out=out / "bundle")
        return {"training_s": bundle.manifest.training_s, **quality_of(bundle, texts.test)}


def quality_of(bundle: Bundle, test: Dataset) -> dict[str, Any]:
    """Return every quality figure of a bundle's PyTorch model, with the answers themselves."""
    return quality_of_logits(logits_of(bundle, test), test)


def logits_of(bundle: Bundle, test: Dataset) -> Logits:
    """Return the answers of a bundle's PyTorch model, computed in bf16 where the processor is quick at it."""
    from distill.models.devices import chosen_mixed_precision
    from distill.models.loading import load_bundle
    from distill.teachers.answers import teacher_logits

    classifier = load_bundle(bundle)
    compute = chosen_mixed_precision("auto", classifier.model.device)
    return teacher_logits(classifier, test.texts, compute=compute).logits


def quality_of_logits(logits: Logits, test: Dataset) -> dict[str, Any]:
    """Return every quality figure of some answers; `predicted` has them, a digit a text."""
    found = evaluate(labels=test.label_ids, logits=logits, label_names=test.labels)
    return {**asdict(found), "predicted": "".join(map(str, top_labels(logits)))}


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a folder for the length of a block: a cell's bundle is not kept, its row is."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".cell-", dir=folder, ignore_cleanup_errors=True) as place:
        yield Path(place)
