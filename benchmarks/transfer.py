"""The `transfer` scenario: four domains, every pair of them, and what a source brings where labels are few or none.

Cell by cell: a finished cell is a row file in the work folder and is not made again. Carries over with `fit_carried` and
`fit_student`, as a user does; adds rows, the intervals over them, and the figures.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.results import write_result
from benchmarks.transfer_figures import (
    CANDIDATES,
    COMMAND,
    DOMAINS,
    SEEDS,
    TASKS,
    matrix_of,
    missing_of,
    transfer_figures,
)
from benchmarks.transfer_recipes import CHOICE, CHOICE_TEXTS, FEW, LABELLED_BESIDE, STUDENT
from distill.bundle import Bundle
from distill.classifier import top_labels
from distill.data import Dataset, Splits, limited, load_splits
from distill.environment import describe_environment
from distill.errors import SettingsError
from distill.metrics import evaluate
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM, DataSettings, TeacherSettings
from distill.storage import write_atomically
from distill.transfer_settings import CarrySettings, SelectSettings

if TYPE_CHECKING:
    from distill.training.models import TorchClassifier


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

    def done(self, name: str) -> bool:
        """Whether a cell is finished."""
        return self._path(name).is_file()

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Write the row of a finished cell."""
        write_atomically(self._path(name), json.dumps({"name": name, **row}, allow_nan=False))

    def _path(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.json"


def run_transfer(folder: Path, *, parts: Sequence[str], seeds: Sequence[int] = SEEDS, reporter: Reporter) -> Bench:
    """Make what is missing of the parts and seeds, seed by seed.

    Args:
        folder: The work folder.
        parts: Of `PARTS`.
        seeds: Of the runs; they decide which labels are few, too.
        reporter: Told of each step.

    Raises:
        SettingsError: A part that is not known.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SettingsError(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    bench = Bench(folder, reporter)
    for seed in seeds:
        for part in parts:
            PARTS[part](bench, seed)
    return bench


def write_transfer(bench: Bench, **more: Any) -> Path:
    """Write the result file; cells that are missing are named in it.

    Args:
        bench: As `run_transfer` returns it.
        more: For `write_result`: another folder than the committed one.
    """
    rows = bench.rows()
    labels = {domain: "".join(map(str, bench.test(domain).label_ids)) for domain in DOMAINS}
    matrix = matrix_of(rows, labels)
    return write_result(
        "transfer",
        command=COMMAND,
        environment=describe_environment(),
        rows=rows,
        figures=transfer_figures(rows, matrix),
        matrix=matrix,
        missing=missing_of(rows),
        test_labels=labels,
        **more,
    )


def _source(bench: Bench, domain: str, seed: int) -> Bundle:
    """The domain's own teacher, fine-tuned on all its labels."""
    from distill.training.fit import fit_teacher

    out = bench.folder / f"source-{domain}-{seed}"
    splits = bench.splits[domain]
    if (out / "manifest.json").is_file():
        found = Bundle.open(out)
        if found.manifest.lineage.train_fingerprint == splits.train.fingerprint() and found.manifest.lineage.seed == seed:
            return found
    bench.reporter.say(f"teacher of {domain}, seed {seed}")
    settings = TeacherSettings(seed=seed, mixed_precision="auto")
    return fit_teacher(train=splits.train, validation=splits.validation, out=out, settings=settings, reporter=bench.reporter)


def _teachers(bench: Bench, seed: int) -> None:
    """Each domain's teacher on the test texts of all four: its own score, and what it can do without a label elsewhere."""
    from distill.training.models import load_bundle

    for domain in DOMAINS:
        if all(bench.done(f"whole-{domain}-{target}-{seed}") for target in DOMAINS):
            continue
        bundle = _source(bench, domain, seed)
        teacher = load_bundle(bundle)
        seconds = sum(epoch["seconds"] for epoch in bundle.manifest.history)
        for target in DOMAINS:
            row = {"kind": "whole", "source": domain, "target": target, "seed": seed, "training_s": seconds}
            bench.keep(f"whole-{domain}-{target}-{seed}", row | _measured(bench, teacher, target))


def _few(bench: Bench, seed: int) -> None:
    """With 200 labels of the target: from each other domain's teacher, from the encoder alone, from nothing."""
    for target in DOMAINS:
        for source in DOMAINS:
            if source == target:
                _few_cell(bench, "few", source, target, seed, model=BUILTIN_MINILM)
            else:
                _few_cell(bench, "few", source, target, seed, init=source)
    if seed == SEEDS[0]:
        for target in DOMAINS:
            _few_cell(bench, "scratch", "random", target, seed, model=str(_candidate(bench, "random", seed)))


def _few_cell(
    bench: Bench, kind: str, source: str, target: str, seed: int, *, model: str = BUILTIN_MINILM, init: str | None = None
) -> None:
    from distill.training.models import load_bundle
    from distill.transfer.fit import fit_carried

    name = f"{kind}-{source}-{target}-{seed}"
    if bench.done(name):
        return
    bench.reporter.say(f"{target} from {source}, seed {seed}")
    splits = bench.splits[target]
    with _scratch(bench.folder) as out:
        bundle = fit_carried(
            model,
            train=splits.train,
            validation=splits.validation,
            out=out / "bundle",
            settings=FEW.model_copy(update={"seed": seed}),
            init=None if init is None else _source(bench, init, seed),
            reporter=bench.reporter,
        )
        seconds = sum(epoch["seconds"] for epoch in bundle.manifest.history)
        row = {"kind": kind, "source": source, "target": target, "seed": seed, "training_s": seconds}
        bench.keep(name, row | _measured(bench, load_bundle(bundle), target))


def _features(bench: Bench, seed: int) -> None:
    """Movies by a head on frozen features, with an empty cache and again with a full one, against whole fine-tuning."""
    from distill.training.models import load_bundle, load_pretrained  # noqa: F401  (loaded before the clock starts)
    from distill.transfer.features import FOLDER
    from distill.transfer.fit import fit_carried

    name = f"features-{seed}"
    if bench.done(name):
        return
    splits = bench.splits["movies"]
    whole = _source(bench, "movies", seed)
    seconds = []
    with _scratch(bench.folder) as out, _own_cache(out / "cache"):
        for number in range(2):
            started = time.perf_counter()
            bundle = fit_carried(
                train=splits.train,
                validation=splits.validation,
                out=out / f"bundle-{number}",
                settings=CarrySettings(transfer="features", seed=seed, mixed_precision="auto"),
                reporter=bench.reporter,
            )
            seconds.append(time.perf_counter() - started)
        cache = sum(path.stat().st_size for path in (out / "cache" / FOLDER).iterdir())
        row = {
            "kind": "features",
            "target": "movies",
            "seed": seed,
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cache_bytes": cache,
            "layers": bundle.manifest.settings["teacher"]["feature_layer"],
            "fine_tuning_s": sum(epoch["seconds"] for epoch in whole.manifest.history),
            **_measured(bench, load_bundle(bundle), "movies"),
        }
    bench.keep(name, row)


def _choice(bench: Bench, seed: int) -> None:
    """Rank four candidates on five tasks without fine-tuning, then fine-tune each and compare the ranks."""
    from distill.training.models import load_bundle
    from distill.transfer.fit import fit_carried
    from distill.transfer.select import select

    for task in TASKS:
        name = f"choice-{task}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(f"choosing for {task}, seed {seed}")
        train, validation, test = _task(bench, task, seed)
        folders = {candidate: str(_candidate(bench, candidate, seed, task=task)) for candidate in CANDIDATES}
        settings = SelectSettings(max_texts=len(train), seed=seed)
        promised = {one.candidate: one for one in select(list(folders.values()), train, settings).ranked}
        found = []
        for candidate, folder in folders.items():
            with _scratch(bench.folder) as out:
                bundle = fit_carried(
                    folder,
                    train=train,
                    validation=validation,
                    out=out / "bundle",
                    settings=CHOICE.model_copy(update={"seed": seed}),
                    reporter=bench.reporter,
                )
                quality = _quality(load_bundle(bundle), test)
            found.append({**asdict(promised[folder]), "candidate": candidate, "macro_f1": quality["macro_f1"]})
        bench.keep(name, {"kind": "choice", "task": task, "seed": seed, "candidates": found, "num_texts": len(test)})


def _task(bench: Bench, task: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test texts of a task: a domain's sentiment, or which domain a text is of."""
    parts = (bench.splits[task].train, bench.splits[task].validation, bench.test(task)) if task in DOMAINS else _topics(bench)
    counts = (CHOICE_TEXTS, CHOICE_TEXTS // 5, 2000)
    train, validation, test = (limited(part, count, seed=seed) for part, count in zip(parts, counts, strict=True))
    return train, validation, test


def _topics(bench: Bench) -> tuple[Dataset, Dataset, Dataset]:
    parts = []
    for role in ("train", "validation", "test"):
        sets = [bench.test(name) if role == "test" else getattr(bench.splits[name], role) for name in DOMAINS]
        ids = np.concatenate([np.full(len(one), number, dtype=np.int64) for number, one in enumerate(sets)])
        texts = tuple(text for one in sets for text in one.texts)
        parts.append(Dataset(texts, ids, DOMAINS, f"domains ({role})"))
    return parts[0], parts[1], parts[2]


def _candidate(bench: Bench, candidate: str, seed: int, *, task: str = "") -> Path | str:
    """Return an encoder as a folder: the packaged one whole, its three lowest layers, drawn anew, or after another task."""
    from distill.training.models import load_pretrained, write_model_files
    from distill.training.students.layers import keep_layers
    from distill.transfer.parameters import draw_all_anew

    if candidate == "minilm":
        return BUILTIN_MINILM
    if candidate == "after_a_task":
        return _source(bench, "amazon" if task == "movies" else "movies", seed).path
    folder = bench.folder / f"{candidate}-{seed}"
    if not folder.is_dir():
        classifier = load_pretrained(BUILTIN_MINILM, labels=("negative", "positive"), max_length=128, seed=seed)
        if candidate == "lowest_3_layers":
            classifier = keep_layers(classifier, range(3))
        else:
            draw_all_anew(classifier.model, seed=seed)
        folder.mkdir(parents=True)
        write_model_files(classifier, folder)
    return folder


def _unlabelled(bench: Bench, seed: int) -> None:
    """A student for a domain of which no label is known: the teachers of the other three label its texts."""
    from distill.training.fit import fit_student
    from distill.training.models import load_bundle

    for target in DOMAINS[1:]:
        name = f"unlabelled-{target}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(f"{target} without labels, seed {seed}")
        movies = bench.splits["movies"]
        with _scratch(bench.folder) as out:
            bundle = fit_student(
                [_source(bench, domain, seed) for domain in DOMAINS if domain != target],
                train=limited(movies.train, LABELLED_BESIDE, seed=seed),
                validation=movies.validation,
                test=bench.test(target),
                unlabeled=(*bench.splits[target].train.texts, *bench.splits[target].validation.texts),
                out=out / "bundle",
                settings=STUDENT.model_copy(update={"seed": seed}),
                reporter=bench.reporter,
            )
            row = {"kind": "unlabelled", "source": "the other three", "target": target, "seed": seed}
            bench.keep(name, row | _measured(bench, load_bundle(bundle), target))


def _measured(bench: Bench, classifier: TorchClassifier, target: str) -> dict[str, Any]:
    return _quality(classifier, bench.test(target))


def _quality(classifier: TorchClassifier, test: Dataset) -> dict[str, Any]:
    """Every quality figure, with the answers themselves; computed in bf16 where the processor is quick at it."""
    from distill.training.devices import chosen_mixed_precision
    from distill.training.soft_targets import teacher_logits

    compute = chosen_mixed_precision("auto", classifier.model.device)
    logits = teacher_logits(classifier, test.texts, compute=compute).logits
    return {
        **asdict(evaluate(labels=test.label_ids, logits=logits, label_names=test.labels)),
        "predicted": "".join(map(str, top_labels(logits))),
    }


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a folder for the length of a block: a cell's bundle is not kept, its row is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".cell-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _own_cache(path: Path) -> Iterator[None]:
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


PARTS: Final[dict[str, Callable[[Bench, int], None]]] = {
    "teachers": _teachers,
    "features": _features,
    "few": _few,
    "unlabelled": _unlabelled,
    "choice": _choice,
}
"""The parts of the scenario, in the order in which they are made."""
