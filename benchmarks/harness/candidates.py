"""What can be a row: a bundle in a form, a floor, a peer, a command, an address. Each says how its process is started.

Opens bundles only to learn their digests; measures nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.environments import REQUIREMENTS
from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset
from distill.errors import BundleError, SettingsError
from export.measure.protocol import Job

FORMS = ("pytorch", "fp32", "int8")
FLOORS = ("tfidf", "majority")
CALIBRATION_TEXTS = 300  # what nncf's documentation takes

ON_WEIGHTS = ("transformers", "stock", "optimum", "openvino", "ctranslate2")
"""Peers that run the student's own weights."""

CONVERTERS = frozenset({"stock", "optimum", "openvino", "ctranslate2"})
"""Those of them that write a graph of their own when they are first opened."""

FROM_BASE = ("sentence_transformers", "model2vec", "setfit")
"""Peers that train on the base encoder."""

DISTILLERS = ("textbrewer", "txtai", "torchdistill")
"""Peers that distil the teacher."""

PEERS = (*ON_WEIGHTS, *FROM_BASE, *DISTILLERS)
WITHOUT_ADAPTER = frozenset({"torchdistill"})
PREPARED = frozenset({"sentence_transformers", "model2vec", "setfit", "textbrewer", "txtai"})


@dataclass(frozen=True)
class Candidate:
    """A row in the making.

    Attributes:
        name: Its name in tables, unlike any other's.
        kind: "bundle", "floor", "peer", "command" or "url".
        module: The module under `benchmarks.peers` that its process runs.
        bundle: The folder whose weights it runs; for what has none of its own, the student's, for labels and length.
        precision: Numeric form, for bundles.
        options: What only its module knows.
        identity: What it is, by content: digests, never paths.
        slowdown: Share by which it is held back, to test the instrument.
    """

    name: str
    kind: str
    module: str
    bundle: Path
    precision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    slowdown: float = 0.0

    @property
    def environment(self) -> str | None:
        """The environment it needs; None is this one."""
        return self.module if self.module in REQUIREMENTS else None

    def digest(self, *more: Any) -> str:
        """Return a digest of what it is and of what is done with it."""
        told = {**asdict(self), "bundle": None, "options": self.identity.get("options", self.options), "more": more}
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """What every candidate is measured on.

    Attributes:
        test: Labelled texts.
        train: Texts that floors and some peers are trained on; None where none were named.
        validation: Texts that peers calibrate on.
        teacher: The teacher's folder.
        work: Folder for what peers make; filled ones are used again.
    """

    test: Dataset
    train: Dataset | None
    validation: Dataset | None
    teacher: Path | None
    work: Path

    def job(self, candidate: Candidate, *, threads: int) -> Job:
        """Return what a candidate's process is given."""
        calibration = () if self.validation is None else tuple(self.validation.single_texts()[:CALIBRATION_TEXTS])
        return Job(
            bundle=candidate.bundle,
            folder=self.folder(candidate),
            threads=threads,
            calibration=calibration,
            max_length=Bundle.open(candidate.bundle, verify=False).manifest.max_length,
            labels=self.test.labels,
            teacher=self.teacher,
            data=self._training_file(),
            slowdown=candidate.slowdown,
            options=candidate.options,
        )

    def folder(self, candidate: Candidate) -> Path:
        """Return the folder of what a candidate makes: another one for other weights or other training texts."""
        if candidate.module in ON_WEIGHTS:
            return self.work / _weights_digest(candidate.bundle)[:16] / candidate.module
        trained_on = [None if self.train is None else self.train.fingerprint(), self.teacher and _weights_digest(self.teacher)]
        return self.work / hashlib.sha256(json.dumps(trained_on).encode()).hexdigest()[:16] / candidate.module

    def _training_file(self) -> Path | None:
        if self.train is None:
            return None
        path = self.work / f"{self.train.fingerprint()[:16]}.json"
        if not path.exists():
            content = {"train": self.train.texts, "train_labels": self.train.label_ids.tolist()}
            if self.validation is not None:
                content |= {"validation": self.validation.texts, "validation_labels": self.validation.label_ids.tolist()}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        return path


def bundle_candidates(given: Sequence[str], *, forms: Sequence[str] = ("fp32", "int8")) -> list[Candidate]:
    """Return a candidate per bundle and form; `PATH:form` names one form, a bare path those of `forms` that it has.

    Raises:
        SettingsError: There is no such form.
        BundleError: The bundle is not whole, or does not have the one form that was named.
    """
    found = []
    for text in given:
        place, colon, form = text.rpartition(":")
        if not colon or Path(text).is_dir():
            place, form = text, ""
        if form and form not in FORMS:
            raise SettingsError(f"{text}: a bundle has the forms {', '.join(FORMS)}, not {form!r}")
        bundle = Bundle.open(place)
        wanted = (form,) if form else [each for each in forms if _has(bundle, each)]
        found += [bundle_candidate(bundle, each) for each in wanted]
    return _told_apart(found)


def bundle_candidate(bundle: Bundle, form: str, *, name: str | None = None) -> Candidate:
    """Return a bundle in one form.

    Raises:
        BundleError: It does not have that form.
    """
    if form == "pytorch":
        bundle.weights()
    else:
        bundle.graph(form)  # type: ignore[arg-type]
    precision = "fp32" if form == "pytorch" else form
    shown = name or bundle.path.resolve().name.replace("_", " ")
    return Candidate(
        name=f"{shown} {'PyTorch' if form == 'pytorch' else form}",
        kind="bundle",
        module="bundle",
        bundle=bundle.path,
        precision=precision,
        options={"form": form},
        identity={"form": form, "files": {file: entry.sha256 for file, entry in sorted(bundle.manifest.files.items())}},
    )


def teacher_candidate(path: Path) -> Candidate:
    """Return the teacher as it is run in the wild: PyTorch eager with its transformers tokenizer."""
    return bundle_candidate(Bundle.open(path), "pytorch", name="teacher")


def floor_candidates(student: Path) -> list[Candidate]:
    """Return the floors; the student says labels and length."""
    return [Candidate(name, "floor", "floor", student, options={"floor": name}) for name in FLOORS]


def peer_candidates(names: Sequence[str], *, student: Path, base: Callable[[], str]) -> list[Candidate]:
    """Return the peers: those that run given weights run the student's.

    Args:
        names: Which of `PEERS`.
        student: The bundle whose weights they run.
        base: Says the folder of the base encoder, asked only if a peer needs it.

    Raises:
        SettingsError: There is no such peer.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SettingsError(f"there is no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    found = []
    for name in names:
        identity: dict[str, Any] = {"requires": REQUIREMENTS.get(name)}
        if name in ON_WEIGHTS:
            identity["weights"] = _weights_digest(student)
        options = {"base": base()} if name in FROM_BASE else {}
        found.append(Candidate(name, "peer", name, student, options=options, identity={**identity, "options": {}}))
    return found


def command_candidates(commands: Sequence[str], *, student: Path) -> list[Candidate]:
    """Return commands that read texts on stdin, one a line, and write a label a line."""
    named = [_named(text, "command") for text in commands]
    return [Candidate(name, "command", "external", student, options={"command": what}) for name, what in named]


def url_candidates(addresses: Sequence[str], *, student: Path) -> list[Candidate]:
    """Return addresses that answer `{"inputs": text}` with labels and scores."""
    named = [_named(text, "url") for text in addresses]
    return [Candidate(name, "url", "http", student, options={"url": what}) for name, what in named]


def _named(text: str, word: str) -> tuple[str, str]:
    """Split `NAME=WHAT`; without a name the whole is one."""
    name, equals, what = text.partition("=")
    if not text.strip():
        raise SettingsError(f"an empty {word} cannot be a row")
    return (name, what) if equals and what and name.replace("-", "").replace("_", "").isalnum() else (text, text)


def _has(bundle: Bundle, form: str) -> bool:
    try:
        bundle.weights() if form == "pytorch" else bundle.graph(form)  # type: ignore[arg-type]
    except BundleError:
        return False
    return True


def _weights_digest(path: Path) -> str:
    files = Bundle.open(path, verify=False).manifest.files
    return files[WEIGHTS].sha256 if WEIGHTS in files else "no weights"


def _told_apart(candidates: list[Candidate]) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"two bundles would both be called {twice!r}; rename a folder")
    return candidates
