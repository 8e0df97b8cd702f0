"""The bundle: a folder with a classifier and a manifest of its files.

Files are written to a temporary name and renamed, the manifest last, so that every file that the manifest lists is complete at
any moment, even if the process is killed or the disk is full. Opening checks the size and sha256 of every file. No torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.errors import BundleError
from distill.labels import ProblemType
from distill.settings import Precision
from distill.storage import cache_dir, sha256_of, write_atomically, writing_to
from distill.tokenization import Pairs, TextTokenizer

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

# A plain name, so that a manifest cannot point outside its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FileEntry(_Part):
    """A file of the bundle."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Link(_Part):
    """An earlier model in a transfer-learning chain: it was fine-tuned on another task, and training continued from it."""

    weights_sha256: str
    labels: tuple[str, ...]
    train_fingerprint: str | None
    seed: int | None


class Lineage(_Part):
    """The origin of a bundle, in digests and names; it has no paths or user names.

    Attributes:
        base_model: Name of the pretrained model.
        chain: Models on other tasks that the weights were trained from, oldest first.
        adapted_fingerprint: Digest of the unlabelled texts of the domain adaptation.
        teacher_sha256: Digest of the weights of the first teacher; if that is not a bundle, its own digest or name.
        ensemble: Digests or names of all teachers, if there are several.
        train_fingerprint: Digest of the training texts and labels; None, as the next two, if the classifier was adopted.
        validation_fingerprint: Digest of the validation texts and labels.
        unlabeled_fingerprint: Digest of the unlabelled texts.
    """

    base_model: str
    chain: tuple[Link, ...] = ()
    adapted_fingerprint: str | None = None
    teacher_sha256: str | None = None
    ensemble: tuple[str, ...] = ()
    train_fingerprint: str | None = None
    validation_fingerprint: str | None = None
    unlabeled_fingerprint: str | None = None
    seed: int | None = None


class CascadeEntry(_Part):
    """The confidence threshold of a student with a fallback, as found by `potstill cascade`.

    Attributes:
        student_graph_sha256: The threshold is valid only for this graph and that of the fallback.
        temperature: The student's logits are divided by it.
        min_confidence: The student answers texts with at least this probability; the fallback answers the others.
        agreement: Share (0-1) of validation texts with the same labels from the cascade and the fallback.
        student_share: Share (0-1) of validation texts that the student answered.
    """

    student_graph_sha256: str
    fallback_graph_sha256: str
    temperature: float = Field(gt=0)
    min_confidence: float = Field(ge=0)
    agreement: float = Field(ge=0, le=1)
    student_share: float = Field(ge=0, le=1)
    num_texts: int = Field(ge=1)


class Manifest(_Part):
    """The content of `manifest.json`. Unknown keys are rejected, because this version could not check them.

    Attributes:
        schema_version: Version of the format.
        max_length: Maximum tokens per text.
        precisions: Precisions of the ONNX graphs.
        opset: ONNX opset of the graphs.
        instruction_set: Instruction set of the processor on which the int8 graph was verified.
        target: Processors that the int8 graph is made for.
        files: Size and sha256 of each file, except the manifest.
        lineage: Origin of the weights.
        calibration_temperature: Temperature by which the logits were divided to calibrate the probabilities.
        settings: Settings of each stage.
        quality: Metrics of each precision.
        history: Metrics of each epoch.
        cascade: Confidence threshold of this student with a fallback.
    """

    schema_version: int = Field(SCHEMA, alias="schema")
    role: Role
    labels: tuple[str, ...] = Field(min_length=1)
    problem_type: ProblemType
    max_length: int = Field(ge=4)
    pad_token_id: int = Field(ge=0)
    pairs: Pairs | None = None
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
        """Return the canonical JSON of this manifest, including its own sha256."""
        return _sealed(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, content: bytes, *, source: Path) -> Self:
        """Parse a manifest; raise `BundleError` if any byte was changed after it was written."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise BundleError(f"{source} is not JSON ({exc}); the bundle is damaged: make or copy it again") from exc
        if not isinstance(values, dict):
            raise BundleError(f"{source} is a JSON {type(values).__name__}, expected an object; the bundle is damaged")
        if values.get("schema") != SCHEMA:
            raise BundleError(
                f"{source} has schema {values.get('schema')!r}, this version of potstill reads schema {SCHEMA}; "
                "install the version that wrote it, or make the bundle again"
            )
        values.pop("sha256", None)
        # Check the values as written, without defaults of fields that this version added.
        if not _is_sealed(values, content):
            raise BundleError(
                f"{source} does not match its own sha256, so it was changed after it was written: make or copy the bundle again"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise BundleError(
                f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}; the bundle is damaged: make or copy it again"
            ) from exc


@dataclass(frozen=True)
class Bundle:
    """An open bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Bundle:
        """Open a bundle and check its files.

        Args:
            path: The folder.
            verify: Check the sha256 of every file; sizes are always checked.

        Raises:
            BundleError: It is not a bundle, or a file is missing, truncated or changed.
        """
        folder = Path(path)
        manifest_path = folder / MANIFEST
        if not folder.is_dir():
            raise BundleError(f"{folder} is not a folder; expected a bundle made by `potstill teacher` or `potstill distill`")
        try:
            content = manifest_path.read_bytes()
        except FileNotFoundError as exc:
            raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from exc
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
        """Return the path of a file of the bundle.

        Args:
            name: Name of the file.
            hint: What to do if the bundle does not have it, for the error message.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no {name}; {hint}")
        return self.path / name

    def graph(self, precision: Precision) -> Path:
        """Return the path of the ONNX graph of a precision."""
        return self.file(GRAPH_OF_PRECISION[precision], hint=f"run `potstill export {self.path} --validation FILE` to make it")

    def weights(self) -> Path:
        """Return the path of the PyTorch weights."""
        return self.file(WEIGHTS, hint="its PyTorch weights were removed by `potstill export --strip`")

    def tokenizer(self) -> TextTokenizer:
        """Return the bundle's tokenizer."""
        known, path = self.manifest, self.file(TOKENIZER)
        return TextTokenizer.from_file(path, max_length=known.max_length, pad_id=known.pad_token_id, pairs=known.pairs)

    def size_bytes(self, precision: Precision | None) -> int:
        """Return the size of the files needed for inference: graph, tokenizer and manifest.

        Args:
            precision: Which graph; None counts the files of the PyTorch model (weights, tokenizer, config).
        """
        names = (self.weights().name, CONFIG) if precision is None else (self.graph(precision).name,)
        listed = sum(self.manifest.files[name].size_bytes for name in (*names, TOKENIZER))
        return listed if precision is None else listed + (self.path / MANIFEST).stat().st_size

    def best_precision(self) -> Precision:
        """Return int8 if the bundle has that graph, else fp32."""
        if not self.manifest.precisions:
            raise BundleError(f"{self.path} has no ONNX graph; run `potstill export {self.path} --validation FILE` to make one")
        return "int8" if "int8" in self.manifest.precisions else "fp32"

    def staging(self) -> AbstractContextManager[Path]:
        """Return a context manager with a temporary folder in the bundle, for files that are about to be added."""
        return _staging_folder(self.path)

    def adding(self, files: Mapping[str, Path], *, dropping: Set[str] = frozenset(), **changes: Any) -> Bundle:
        """Add files, remove others and change the manifest, in one step; return the new bundle.

        The manifest is read again under a lock, so files that another process added in the meantime are kept. Files whose
        content is unchanged are not replaced.

        Args:
            files: Path of each new file, by its name in the bundle; on the same disk, because it is moved.
            dropping: Names of files to delete, after the manifest no longer lists them.
            changes: New values of fields of the manifest.

        Raises:
            BundleError: The folder has another bundle since this one was opened.
        """
        with _locked(self.path):
            return self._current()._changed(files, dropping, changes)

    def _current(self) -> Bundle:
        """Return the bundle with the current manifest of its folder."""
        path = self.path / MANIFEST
        if not path.exists():  # the bundle is new, or is being replaced
            return self
        current = Manifest.from_bytes(path.read_bytes(), source=path)
        if current.lineage != self.manifest.lineage:
            raise BundleError(f"{self.path} was replaced by another bundle since it was opened; run the command again")
        return Bundle(self.path, current)

    def _changed(self, files: Mapping[str, Path], dropping: Set[str], changes: Mapping[str, Any]) -> Bundle:
        entries = {name: FileEntry(size_bytes=path.stat().st_size, sha256=sha256_of(path)) for name, path in files.items()}
        listed = self.manifest.files
        moved = {name: path for name, path in files.items() if listed.get(name) != entries[name]}
        if moved.keys() & listed.keys():
            # Remove the files to be replaced from the manifest first: a kill would leave them with a wrong digest.
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

    def _unlisting(self, names: Set[str]) -> Manifest:
        kept = {name: entry for name, entry in self.manifest.files.items() if name not in names}
        precisions = tuple(precision for precision in self.manifest.precisions if GRAPH_OF_PRECISION[precision] not in names)
        return self.manifest.model_copy(update={"files": kept, "precisions": precisions})

    def _seal(self, manifest: Manifest) -> Bundle:
        write_atomically(self.path / MANIFEST, manifest.to_bytes())
        return Bundle(self.path, manifest)


@contextmanager
def new_bundle_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder for the files of a new bundle at `path`; delete those that killed runs left."""
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
    for left in path.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    with _staging_folder(path) as folder:
        yield folder


def seal_new_bundle(path: Path, staged: Path, manifest: Manifest) -> Bundle:
    """Move the files into the bundle and write the manifest last. An existing bundle is replaced.

    Args:
        path: Folder of the bundle.
        staged: The temporary folder from `new_bundle_folder`, with the files.
        manifest: The manifest; its `files` are filled in from the temporary folder.
    """
    files = {file.name: file for file in sorted(staged.iterdir())}
    with _locked(path):
        with writing_to(path):
            for stale in (MANIFEST, *GRAPH_OF_PRECISION.values(), BENCHMARK, CARD, QUANTIZATION):
                (path / stale).unlink(missing_ok=True)
        return Bundle(path, manifest)._changed(files, frozenset(), {})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the manifest of a bundle."""
    # In the cache folder, because a signature covers every file in the bundle.
    lock = cache_dir() / "locks" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.lock"
    with writing_to(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


@contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    with writing_to(path):
        folder = tempfile.TemporaryDirectory(prefix=_STAGING, dir=path, ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


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
    """Return the canonical JSON of these values and of their sha256."""
    return _canonical_json({**values, "sha256": hashlib.sha256(_canonical_json(values)).hexdigest()})


def _is_sealed(values: Mapping[str, Any], content: bytes) -> bool:
    try:
        return _sealed(values) == content
    except ValueError:  # NaN or a lone surrogate, which potstill never writes
        return False


def _canonical_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
