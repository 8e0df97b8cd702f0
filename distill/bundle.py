"""The bundle: a folder that is a classifier, and the manifest that proves it whole.

Writing goes beside and is renamed in, the manifest last, so that a file the manifest lists is there and whole at
every moment, a kill or a full disk included. Opening checks the size and sha256 of every file. No torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.errors import BundleError
from distill.labels import ProblemType
from distill.settings import Precision
from distill.storage import cache_dir, sha256_of, write_atomically, writing_to
from distill.tokenization import TextTokenizer

SCHEMA: Final = 1

MANIFEST = "manifest.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
BENCHMARK = "benchmark.json"
CARD = "README.md"
QUANTIZATION = "quantization.json"

Role = Literal["teacher", "student"]

GRAPH_OF_PRECISION: Final[dict[Precision, str]] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}

_STAGING: Final = ".staging-"

# A plain name: a manifest must not be able to point outside its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FileEntry(_Part):
    """One file of the bundle."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Link(_Part):
    """One model on the way to this one: fine-tuned for another task, and carried on from there."""

    weights_sha256: str
    labels: tuple[str, ...]
    train_fingerprint: str
    seed: int


class Lineage(_Part):
    """Where a bundle came from; digests and names, never paths or user names.

    `chain` names the models that its weights passed through on other tasks, the first first. `teacher_sha256` is of the
    first teacher's weights (its digest or name, where it was not a bundle); where several taught, `ensemble` names them all.
    """

    base_model: str
    chain: tuple[Link, ...] = ()
    adapted_fingerprint: str | None = None
    teacher_sha256: str | None = None
    ensemble: tuple[str, ...] = ()
    train_fingerprint: str
    validation_fingerprint: str
    unlabeled_fingerprint: str | None = None
    seed: int


class CascadeEntry(_Part):
    """From when on this student is sure enough beside a fallback, as `potstill cascade` found it.

    The digests are of the two graphs it was found with; for others it says nothing.
    """

    student_graph_sha256: str
    fallback_graph_sha256: str
    temperature: float = Field(gt=0)
    min_confidence: float = Field(ge=0)
    agreement: float = Field(ge=0, le=1)
    student_share: float = Field(ge=0, le=1)
    num_texts: int = Field(ge=1)


class Manifest(_Part):
    """What `manifest.json` says. Unknown keys are refused: they would be promises this version cannot check."""

    schema_version: int = Field(SCHEMA, alias="schema")
    role: Role
    labels: tuple[str, ...] = Field(min_length=1)
    problem_type: ProblemType
    max_length: int = Field(ge=4)
    pad_token_id: int = Field(ge=0)
    num_parameters: int = Field(ge=0)
    precisions: tuple[Precision, ...] = ()
    opset: int | None = None
    instruction_set: str | None = None
    target: Literal["portable", "vnni"] | None = None
    files: dict[FileName, FileEntry] = Field(default_factory=dict)
    lineage: Lineage
    calibration_temperature: float | None = Field(None, gt=0)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = Field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()
    cascade: CascadeEntry | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the one spelling of this manifest, its own digest included."""
        return _sealed(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, content: bytes, *, source: Path) -> Self:
        """Read a manifest and require that not one byte of it differs from how it was written."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise BundleError(f"{source} is not JSON ({exc}); the bundle is damaged: make or copy it again") from exc
        if not isinstance(values, dict):
            raise BundleError(f"{source} holds {type(values).__name__}, wanted an object; the bundle is damaged")
        if values.get("schema") != SCHEMA:
            raise BundleError(
                f"{source} has schema {values.get('schema')!r}, this version of potstill reads schema {SCHEMA}; "
                "install the version that wrote it, or make the bundle again"
            )
        values.pop("sha256", None)
        # On what was written, not on what this version would write: a later one may know more fields, with defaults.
        if not _is_sealed(values, content):
            raise BundleError(
                f"{source} does not match its own sha256; it was changed after it was written: make or copy it again"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BundleError(f"{source}: {where}: {first['msg']}; the bundle is damaged: make or copy it again") from exc


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a folder and the manifest it was opened with."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Bundle:
        """Open a bundle and check that it is whole.

        Args:
            path: The folder.
            verify: Compare the sha256 of every file; sizes are always compared.

        Raises:
            BundleError: It is not a bundle, or a file is missing, cut or changed.
        """
        folder = Path(path)
        manifest_path = folder / MANIFEST
        if not folder.is_dir():
            raise BundleError(f"{folder} is not a folder; wanted a bundle made by `potstill teacher` or `potstill distill`")
        try:
            content = manifest_path.read_bytes()
        except FileNotFoundError as exc:
            raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}; wanted one made by potstill") from exc
        except OSError as exc:
            raise BundleError(f"cannot read {manifest_path}: {exc.strerror}") from exc
        bundle = cls(folder, Manifest.from_bytes(content, source=manifest_path))
        for name, entry in bundle.manifest.files.items():
            _require_whole(folder / name, entry, verify=verify)
        return bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.manifest.labels

    def file(self, name: str, *, hint: str = "make the bundle again") -> Path:
        """Return the path of a file that the manifest lists.

        Args:
            name: Name of the file in the folder.
            hint: What to do when it is not there, for the message.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no {name}; {hint}")
        return self.path / name

    def graph(self, precision: Precision) -> Path:
        """Return the path of the ONNX graph of a precision."""
        return self.file(GRAPH_OF_PRECISION[precision], hint=f"run `potstill export {self.path} --validation FILE` to make it")

    def weights(self) -> Path:
        """Return the path of the PyTorch weights."""
        return self.file(WEIGHTS, hint="it was stripped of its PyTorch weights, or never had any")

    def tokenizer(self) -> TextTokenizer:
        """Return the bundle's tokenizer."""
        return TextTokenizer.from_file(
            self.file(TOKENIZER), max_length=self.manifest.max_length, pad_id=self.manifest.pad_token_id
        )

    def size_bytes(self, precision: Precision | None) -> int:
        """Return the bytes that must be shipped to answer: graph, tokenizer and manifest.

        Args:
            precision: Which graph; None counts what the PyTorch model needs (weights, tokenizer, config).
        """
        needed = self.weights() if precision is None else self.graph(precision)
        names = [needed.name, TOKENIZER, *([CONFIG] if precision is None else [])]
        listed = sum(self.manifest.files[name].size_bytes for name in names)
        return listed if precision is None else listed + (self.path / MANIFEST).stat().st_size

    def best_precision(self) -> Precision:
        """Return int8 where there is one, else fp32."""
        for precision in ("int8", "fp32"):
            if precision in self.manifest.precisions:
                return precision
        raise BundleError(f"{self.path} has no ONNX graph; run `potstill export {self.path} --validation FILE` to make one")

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder inside the bundle for files on their way in; it is gone afterwards."""
        with _staging_folder(self.path) as folder:
            yield folder

    def adding(self, files: Mapping[str, Path], *, dropping: Set[str] = frozenset(), **changes: Any) -> Bundle:
        """Return the bundle with files moved in, others removed, and the manifest changed, all in one seal.

        The manifest is read again under a lock, so that files which another process added since the bundle was opened stay
        listed. A file with the content that the manifest lists already is left where it is.

        Args:
            files: Name in the bundle -> path of the finished file, on the same disk.
            dropping: Names of files to remove, after the manifest stopped listing them.
            changes: Fields of the manifest to replace.

        Raises:
            BundleError: Another bundle was written to this folder since this one was opened.
        """
        with _locked(self.path):
            return self._current()._changed(files, dropping, changes)

    def _current(self) -> Bundle:
        """Return the bundle with the manifest that is in its folder now."""
        path = self.path / MANIFEST
        if not path.exists():  # a new bundle, or one that is being replaced
            return self
        current = Manifest.from_bytes(path.read_bytes(), source=path)
        if current.lineage != self.manifest.lineage:
            raise BundleError(f"{self.path} was replaced by another bundle since it was opened; run the command again")
        return Bundle(self.path, current)

    def _changed(self, files: Mapping[str, Path], dropping: Set[str], changes: Mapping[str, Any]) -> Bundle:
        entries = {name: _entry_of(path) for name, path in files.items()}
        listed = self.manifest.files
        moved = {name: path for name, path in files.items() if listed.get(name) != entries[name]}
        if moved.keys() & listed.keys():
            # A listed file is about to be replaced: first stop listing it, so that no kill can leave a wrong digest.
            self._seal(self._unlisting(moved.keys()))
        with writing_to(self.path):
            for name, source in moved.items():
                source.replace(self.path / name)
        kept = self._unlisting(dropping)
        bundle = self._seal(kept.model_copy(update={"files": {**kept.files, **entries}, **changes}))
        with writing_to(self.path):
            for name in dropping & listed.keys():
                (self.path / name).unlink(missing_ok=True)
        return bundle

    def with_cascade(self, entry: CascadeEntry) -> Bundle:
        """Return the bundle with a cascade's threshold in its manifest."""
        return self.adding({}, cascade=entry)

    def without(self, names: Set[str]) -> Bundle:
        """Return the bundle with some files removed: the manifest first, then the files."""
        return self.adding({}, dropping=names)

    def _unlisting(self, names: Set[str]) -> Manifest:
        kept = {name: entry for name, entry in self.manifest.files.items() if name not in names}
        precisions = tuple(precision for precision in self.manifest.precisions if GRAPH_OF_PRECISION[precision] not in names)
        return self.manifest.model_copy(update={"files": kept, "precisions": precisions})

    def _seal(self, manifest: Manifest) -> Bundle:
        write_atomically(self.path / MANIFEST, manifest.to_bytes())
        return Bundle(self.path, manifest)


@contextmanager
def new_bundle_folder(path: Path) -> Iterator[Path]:
    """Yield a staging folder for the files of a new bundle at `path`; what a killed run left there is swept."""
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
    for left in path.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    with _staging_folder(path) as folder:
        yield folder


def seal_new_bundle(path: Path, staged: Path, manifest: Manifest) -> Bundle:
    """Move the staged files in and write the manifest, last. A bundle that stood there is replaced.

    Args:
        path: The bundle's folder.
        staged: The folder from `new_bundle_folder`, holding finished files.
        manifest: Everything but `files`, which is read off the staged files.
    """
    files = {file.name: file for file in sorted(staged.iterdir())}
    with _locked(path):
        with writing_to(path):
            (path / MANIFEST).unlink(missing_ok=True)
            for stale in (*GRAPH_OF_PRECISION.values(), BENCHMARK, CARD, QUANTIZATION):
                (path / stale).unlink(missing_ok=True)
        return Bundle(path, manifest)._changed(files, frozenset(), {})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the manifest of a bundle."""
    # In the cache, not in the bundle: a signature covers every file of the folder.
    lock = cache_dir() / "locks" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.lock"
    with writing_to(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


@contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    with writing_to(path):
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=path))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _entry_of(path: Path) -> FileEntry:
    return FileEntry(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def _require_whole(path: Path, entry: FileEntry, *, verify: bool) -> None:
    advice = "the bundle is damaged: make or copy it again"
    if not path.is_file():
        raise BundleError(f"{path} is missing; {advice}")
    size = path.stat().st_size
    if size != entry.size_bytes:
        raise BundleError(f"{path} has {size:,} bytes, the manifest says {entry.size_bytes:,}; {advice}")
    try:
        digest = sha256_of(path) if verify else entry.sha256
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}") from exc
    if digest != entry.sha256:
        raise BundleError(f"{path} has sha256 {digest[:12]}…, the manifest says {entry.sha256[:12]}…; {advice}")


def _sealed(values: Mapping[str, Any]) -> bytes:
    """Return the one spelling of these values with their own digest among them."""
    return _spelled({**values, "sha256": hashlib.sha256(_spelled(values)).hexdigest()})


def _is_sealed(values: Mapping[str, Any], content: bytes) -> bool:
    try:
        return _sealed(values) == content
    except ValueError:  # NaN or a lone surrogate, which a manifest never holds
        return False


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
