"""What every part of the `transfer` scenario works with: its folder of cells, the domains' teachers, how a cell is measured.

Trains nothing but those teachers; a part says what else is made, and how.
"""

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
from distill.bundle import Bundle
from distill.classifier import top_labels
from distill.data import Dataset, Splits, load_splits
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.progress import Reporter
from distill.settings import DataSettings
from distill.storage import write_atomically
from distill.teacher_settings import TeacherSettings

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier


@dataclass(frozen=True)
class Bench:
    """Where a run of the scenario works.

    Attributes:
        folder: Holds a bundle for each domain and seed, and a row file for each cell.
        reporter: Told of each step.
    """

    folder: Path
    reporter: Reporter

    @cached_property
    def splits(self) -> dict[str, Splits]:
        """The texts of each domain; the test texts choose nothing."""
        return {name: load_splits(DataSettings(train=(f"builtin:{name}",), test=f"builtin:{name}")) for name in DOMAINS}

    def test(self, domain: str) -> Dataset:
        """Return the 2,000 test texts of a domain."""
        test = self.splits[domain].test
        assert test is not None  # noqa: S101  (a built-in set has them)
        return test

    def rows(self) -> list[dict[str, Any]]:
        """Return all finished rows."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((self.folder / "rows").glob("*.json"))]

    def done(self, name: str, **wanted: Any) -> bool:
        """Whether a cell is finished, and its row says what is wanted of it; one of an earlier recipe is made again."""
        path = self._path(name)
        if not path.is_file():
            return False
        row = json.loads(path.read_text(encoding="utf-8")) if wanted else {}
        return all(row.get(key) == value for key, value in wanted.items())

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Write the row of a finished cell."""
        write_atomically(self._path(name), json.dumps({"name": name, **row}, allow_nan=False))

    def _path(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.json"


def source_of(bench: Bench, domain: str, seed: int) -> Bundle:
    """Return the domain's own teacher, fine-tuned on all its labels; one that stands in the folder is used again."""
    from distill.training.fine_tuning import fit_teacher

    out = bench.folder / f"source-{domain}-{seed}"
    splits = bench.splits[domain]
    if (out / "manifest.json").is_file():
        found = Bundle.open(out)
        if found.manifest.lineage.train_fingerprint == splits.train.fingerprint() and found.manifest.lineage.seed == seed:
            return found
    bench.reporter.say(f"teacher of {domain}, seed {seed}")
    settings = TeacherSettings(seed=seed, mixed_precision="auto")
    return fit_teacher(train=splits.train, validation=splits.validation, out=out, settings=settings, reporter=bench.reporter)


def measured(bench: Bench, classifier: TorchClassifier, target: str) -> dict[str, Any]:
    """Return the quality on a domain's test texts."""
    return quality_of(classifier, bench.test(target))


def quality_of(classifier: TorchClassifier, test: Dataset) -> dict[str, Any]:
    """Return every quality figure, with the answers themselves; computed in bf16 where the processor is quick at it."""
    from distill.models.devices import chosen_mixed_precision
    from distill.teachers.answers import teacher_logits

    compute = chosen_mixed_precision("auto", classifier.model.device)
    return quality_of_logits(teacher_logits(classifier, test.texts, compute=compute).logits, test)


def quality_of_logits(logits: Logits, test: Dataset) -> dict[str, Any]:
    """Return every quality figure of some answers; `predicted` has them, a digit a text."""
    return {
        **asdict(evaluate(labels=test.label_ids, logits=logits, label_names=test.labels)),
        "predicted": "".join(map(str, top_labels(logits))),
    }


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
