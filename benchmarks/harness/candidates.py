"""What can be a row: a bundle in a form, a floor, a peer, a command, an address. Each says how its process is started.

Opens bundles only to learn their digests; measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.harness.environments import python_of
from benchmarks.harness.peer import module_of, peers
from benchmarks.harness.scenario import Context
from benchmarks.harness.weights import write_portable
from benchmarks.peers import external, http
from distill.bundle import WEIGHTS, Bundle
from distill.cli.reading import measuring_texts
from distill.data import Dataset, limited, load_splits
from distill.errors import SettingsError
from distill.labels import require_single_label
from distill.progress import Reporter
from distill.settings import DataSettings, Settings
from distill.storage import write_atomically
from export.measure import openers
from export.measure.protocol import Job
from export.measure.turns import Contender, dropping
from export.measure.workers import prepare

FORMS = ("pytorch", "fp32", "int8")
CALIBRATION_TEXTS = 300  # what nncf's documentation takes


class RowSettings(Settings):
    """What the rows are."""

    bundles: tuple[str, ...] = Field(
        (),
        description="bundles to measure: PATH or PATH:fp32|int8|pytorch; peers run the weights of the first; default: the "
        "bundles of the scenario quality",
    )
    teacher: Path | None = Field(
        None, description="bundle of the teacher, the reference of every row; default: the first row is the reference"
    )
    peers: tuple[str, ...] = Field((), description=f"peers, or all: {', '.join(peers())}")
    weights: Path | None = Field(None, description="bundle whose weights peers run; default: the first of --bundles")
    floors: bool = Field(False, description="also measure TF-IDF with logistic regression, and the commonest label")
    external: tuple[str, ...] = Field(
        (), description="commands to measure that read one text per line and write its label: CMD or NAME=CMD"
    )
    url: tuple[str, ...] = Field(
        (), description="servers to measure that answer {'inputs': text} with labels and scores: URL or NAME=URL"
    )


@dataclass(frozen=True)
class Candidate:
    """A row in the making.

    Attributes:
        name: Its name in tables, unlike any other's.
        kind: "bundle", "floor", "peer", "command" or "url".
        module: What its process opens.
        bundle: The folder whose weights it runs; for what has none of its own, the student's, for labels and length.
        precision: Numeric form, for bundles.
        options: What only its module knows.
        identity: What it is, by content: digests, never paths.
    """

    name: str
    kind: str
    module: str
    bundle: Path
    precision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def peer(self) -> str | None:
        """Name of the peer that runs it; several rows may have one."""
        return self.module.rpartition(".")[2] if self.kind == "peer" else None

    def digest(self, *more: Any) -> str:
        """Return a digest of what it is and of what is done with it."""
        told = {**vars(self), "bundle": None, "options": self.identity.get("options", self.options), "more": more}
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """What every candidate is measured on.

    Attributes:
        test: Labelled texts.
        train: Texts that floors and some peers are trained on; None if none were named.
        validation: Texts that peers calibrate on.
        teacher: The teacher's folder.
        work: Folder for what peers make; filled ones are used again.
    """

    test: Dataset
    train: Dataset | None
    validation: Dataset | None
    teacher: Path | None
    work: Path

    def contender(self, candidate: Candidate, *, threads: int) -> Contender:
        """Return what is started.

        Raises:
            PeerError: Its environment cannot be made.
        """
        return Contender(
            candidate.name,
            candidate.module,
            self.job(candidate, threads=threads),
            python=python_of(candidate.peer) if candidate.peer else None,
        )

    def job(self, candidate: Candidate, *, threads: int) -> Job:
        """Return what a candidate's process is given."""
        return Job(
            bundle=candidate.bundle,
            folder=self.folder(candidate),
            threads=threads,
            calibration=() if self.validation is None else tuple(self.validation.single_texts()[:CALIBRATION_TEXTS]),
            max_length=Bundle.open(candidate.bundle, verify=False).manifest.max_length,
            labels=self.test.labels,
            teacher=self.teacher,
            data=self._training_file(),
            options=candidate.options,
        )

    def folder(self, candidate: Candidate) -> Path:
        """Return the folder of what a candidate makes: another one for other weights or other training texts."""
        trained = [self.train and self.train.fingerprint(), self.teacher and _weights_digest(self.teacher)]
        made_of = _weights_digest(candidate.bundle) if _runs_weights(candidate) else trained
        return self.work / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16] / candidate.module.rpartition(".")[2]

    def _training_file(self) -> Path | None:
        if self.train is None:
            return None
        path = self.work / f"{self.train.fingerprint()[:16]}.json"
        if not path.exists():
            write_atomically(path, json.dumps({"train": self.train.texts, "train_labels": self.train.label_ids.tolist()}))
        return path


def task_of(rows: RowSettings, data: DataSettings, context: Context, *, texts: int | None = None) -> Task:
    """Return the texts that are measured on: the movie sentences unless data flags name others.

    Raises:
        SettingsError: Texts have several labels, which these scenarios do not measure.
    """
    if not data.train and data.test is None:
        data = data.model_copy(update=context.data.model_dump(include={"train", "test", "limit"}))
    named = rows.teacher or rows.weights or next((Path(place_and_form(each)[0]) for each in rows.bundles), None)
    own = named or context.trained("teacher")
    labels = Bundle.open(own, verify=False).labels
    test = measuring_texts(data, labels)
    require_single_label(test.problem_type, "the speed scenarios")
    splits = load_splits(data, labels=labels) if data.train else None
    return Task(
        test=limited(test, texts or None, seed=data.split_seed),
        train=splits.train if splits else None,
        validation=splits.validation if splits else None,
        teacher=rows.teacher or (own if named is None else None),
        work=context.work / "peers",
    )


def candidates_of(rows: RowSettings, context: Context) -> list[Candidate]:
    """Return the candidates in the order of the table, the reference first.

    Raises:
        SettingsError: Two have one name, or there is no such form or peer.
    """
    if not rows.bundles and rows.teacher is None and rows.weights is None:
        rows = everything(rows, context)
    bundles = bundle_candidates(rows.bundles)
    teacher = [bundle_candidate(Bundle.open(rows.teacher), "pytorch", name="teacher")] if rows.teacher else []
    own = rows.weights or [*bundles, *teacher][0].bundle
    found = [*teacher, *bundles, *(floor_candidates(own) if rows.floors else ()), *peer_candidates(rows.peers, student=own)]
    for kind, given, module in (("command", rows.external, external), ("url", rows.url, http)):
        found += [Candidate(name, kind, module.__name__, own, options={kind: what}) for name, what in map(_named, given)]
    ((name, count),) = Counter(each.name for each in found).most_common(1)
    if count > 1:
        raise SettingsError(f"two rows would both be called {name!r}; rename a folder, or name one NAME=...")
    return found


def everything(rows: RowSettings, context: Context) -> RowSettings:
    """Return settings with what the scenario `quality` trained, every peer and floor; in a quick run one peer."""
    teacher = context.trained("teacher")
    students = sorted(path for path in teacher.parent.glob("*-0") if (path / "model_int8.onnx").is_file())
    return rows.model_copy(
        update={
            "bundles": tuple(map(str, students)),
            "teacher": teacher,
            "weights": next((path for path in students if path.name == "2_layers-0"), None),
            "peers": rows.peers or (("stock",) if context.quick else ("all",)),
            "floors": True,
        }
    )


def place_and_form(text: str) -> tuple[str, str]:
    """Split `PATH:form`; without a form it is empty."""
    place, colon, form = text.rpartition(":")
    return (place, form) if colon and not Path(text).is_dir() else (text, "")


def bundle_candidates(given: Sequence[str]) -> list[Candidate]:
    """Return a candidate per bundle and form; `PATH:form` names one form, a bare path every graph that it has.

    Raises:
        SettingsError: There is no such form.
        BundleError: The bundle is not whole, or does not have the one form that was named.
    """
    found = []
    for text in given:
        place, form = place_and_form(text)
        if form and form not in FORMS:
            raise SettingsError(f"{text}: a bundle has the forms {', '.join(FORMS)}, not {form!r}")
        bundle = Bundle.open(place)
        found += [bundle_candidate(bundle, each) for each in ((form,) if form else bundle.manifest.precisions)]
    return found


def bundle_candidate(bundle: Bundle, form: str, *, name: str | None = None) -> Candidate:
    """Return a bundle in one form.

    Raises:
        BundleError: It does not have that form.
    """
    bundle.weights() if form == "pytorch" else bundle.graph(form)  # type: ignore[arg-type]
    shown = name or bundle.path.resolve().name.removesuffix("-0").replace("_", " ")
    return Candidate(
        name=f"{shown} {'PyTorch' if form == 'pytorch' else form}",
        kind="bundle",
        module=openers.__name__,
        bundle=bundle.path,
        precision="fp32" if form == "pytorch" else form,
        options={"form": form},
        identity={"form": form, "files": {file: entry.sha256 for file, entry in sorted(bundle.manifest.files.items())}},
    )


def floor_candidates(bundle: Path) -> list[Candidate]:
    """Return the floors; the bundle says the labels."""
    return [Candidate(name, "floor", openers.__name__, bundle, options={"floor": name}) for name in ("tfidf", "majority")]


def peer_candidates(names: Sequence[str], *, student: Path) -> list[Candidate]:
    """Return the peers, ("all",) being every one; those that run given weights run the student's.

    Raises:
        SettingsError: There is no such peer.
    """
    from distill.models.packaged import minilm_folder

    found = []
    for name in peers() if tuple(names) == ("all",) else names:
        if name not in peers():
            raise SettingsError(f"there is no peer {name!r}; there are {', '.join(peers())}")
        needs = peers()[name]
        weights = _weights_digest(student) if needs.starts_from == "weights" else None
        options = {"base": minilm_folder()} if needs.starts_from == "base" else {}
        identity: dict[str, Any] = {"packages": needs.packages, "weights": weights, "options": {}}
        found.append(Candidate(name, "peer", module_of(name).__name__, student, options=options, identity=identity))
    return found


def make_ready(
    candidates: Sequence[Candidate], task: Task, *, threads: int, reporter: Reporter
) -> tuple[list[Contender], dict[str, str]]:
    """Install, convert and train what is not there yet; return what is started, and by name why others cannot be."""
    ready, failed = list[Contender](), dict[str, str]()
    for candidate in candidates:
        with dropping(candidate.name, failed, reporter):
            contender = task.contender(candidate, threads=threads)
            if candidate.peer and hasattr(module_of(candidate.peer), "prepare"):
                reporter.say(f"{candidate.name} gets ready")
                if _runs_weights(candidate):
                    write_portable(candidate.bundle, task.folder(candidate).parent)
                prepare(contender.module, task.job(candidate, threads=1), python=contender.python)
            ready.append(contender)
    return ready, failed


def _runs_weights(candidate: Candidate) -> bool:
    return candidate.peer is not None and peers()[candidate.peer].starts_from == "weights"


def _named(text: str) -> tuple[str, str]:
    """Split `NAME=WHAT`; without a name the whole is one."""
    found = re.fullmatch(r"([\w-]+)=(.+)", text, re.DOTALL)
    return (found[1], found[2]) if found else (text, text)


def _weights_digest(path: Path) -> str:
    files = Bundle.open(path, verify=False).manifest.files
    return files[WEIGHTS].sha256 if WEIGHTS in files else "no weights"
