"""What every part of the `transfer` scenario works with: its folder of cells, the domains' teachers, how a cell is made."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.transfer.figures import DOMAINS
from distill.bundle import MANIFEST, Bundle
from distill.classifier import top_labels
from distill.data import Dataset, Splits, load_splits
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM, DataSettings
from distill.storage import write_atomically
from distill.teacher_settings import TeacherSettings

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier
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
    """

    folder: Path
    reporter: Reporter
    limit: int | None = None

    @cached_property
    def domains(self) -> dict[str, Texts]:
        """The texts of each domain; the test texts choose nothing."""
        return {name: self.builtin(name) for name in DOMAINS}

    def builtin(self, name: str) -> Texts:
        """Return the texts of a built-in set."""
        splits: Splits = load_splits(DataSettings(train=(f"builtin:{name}",), test=f"builtin:{name}", limit=self.limit))
        assert splits.test is not None  # noqa: S101  (a built-in set has them)
        return Texts(splits.train, splits.validation, splits.test)

    def rows(self) -> list[dict[str, Any]]:
        """Return all finished rows."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((self.folder / "rows").glob("*.json"))]

    def done(self, name: str, **wanted: Any) -> bool:
        """Whether a cell is finished, and its row says what is wanted of it; one of an earlier recipe is made again."""
        path = self._path(name)
        if not path.is_file():
            return False
        row = json.loads(path.read_text(encoding="utf-8"))
        return all(row.get(key) == value for key, value in wanted.items())

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Write the row of a finished cell."""
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(name), json.dumps({"name": name, **row}, allow_nan=False))

    def _path(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.json"


def source_of(bench: Bench, domain: str, seed: int) -> Bundle:
    """Return the domain's own teacher, fine-tuned on all its labels; one in the folder is used again."""
    out, texts = bench.folder / f"source-{domain}-{seed}", bench.domains[domain]
    if (out / MANIFEST).is_file():
        found = Bundle.open(out)
        if found.manifest.lineage.train_fingerprint == texts.train.fingerprint() and found.manifest.lineage.seed == seed:
            return found
    bench.reporter.say(f"teacher of {domain}, seed {seed}")
    return tuned(bench, texts, Start(TeacherSettings(seed=seed, mixed_precision="auto")), out=out)


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


def tuned_cell(bench: Bench, name: str, row: dict[str, Any], texts: Texts, start: Start) -> None:
    """Fine-tune, keep the row with the quality on the test texts, and remove the bundle; nothing if the cell is finished."""
    if bench.done(name):
        return
    bench.reporter.say(name)
    with scratch(bench.folder) as out:
        bundle = tuned(bench, texts, start, out=out / "bundle")
        bench.keep(name, row | {"training_s": seconds_of(bundle)} | quality_of(bundle, texts.test))


def seconds_of(bundle: Bundle) -> float:
    """Return the seconds of a bundle's training."""
    return float(sum(epoch["seconds"] for epoch in bundle.manifest.history))


def quality_of(bundle: Bundle, test: Dataset) -> dict[str, Any]:
    """Return every quality figure of a bundle's PyTorch model, with the answers themselves."""
    return quality_of_logits(logits_of(classifier_of(bundle), test), test)


def classifier_of(bundle: Bundle) -> TorchClassifier:
    """Return a bundle's PyTorch model."""
    from distill.models.loading import load_bundle

    return load_bundle(bundle)


def logits_of(classifier: TorchClassifier, test: Dataset) -> Logits:
    """Return answers, computed in bf16 where the processor is quick at it."""
    from distill.models.devices import chosen_mixed_precision
    from distill.teachers.answers import teacher_logits

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
    path = Path(tempfile.mkdtemp(prefix=".cell-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def own_cache(path: Path) -> Iterator[None]:
    """Use an empty cache inside the block; the built-in texts are already read."""
    before = os.environ.get("POTSTILL_CACHE")
    os.environ["POTSTILL_CACHE"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["POTSTILL_CACHE"]
        else:
            os.environ["POTSTILL_CACHE"] = before
