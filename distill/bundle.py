"""The bundle: a folder with a classifier and a manifest of its files.

Files are written to a temporary name and renamed, the manifest last, so that every file that the manifest lists is complete at
any moment, even if the process is killed or the disk is full. Opening checks the size and sha256 of every file, and `read`
checks the bytes that it returns, so that a file replaced in between is never used. No torch.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from distill.errors import BundleError
from distill.manifest import SCHEMA, FileEntry, Manifest
from distill.settings import Precision
from distill.storage import cache_dir, sha256_of, write_atomically, writing_to
from distill.tokenization import TextTokenizer

MANIFEST = "manifest.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
BENCHMARK = "benchmark.json"
CARD = "README.md"
QUANTIZATION = "quantization.json"

GRAPH_OF_PRECISION: Final[dict[Precision, str]] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}

MAX_MANIFEST_BYTES: Final = 16 * 2**20

_STAGING: Final = ".staging-"

_OF_A_CHECKPOINT: Final = (CONFIG, "modules.json", "model_head.pkl", "adapter_config.json")
_ADVICE: Final = "the bundle is damaged: make or copy it again"


@dataclass(frozen=True)
class Bundle:
    """An open bundle: its folder and its manifest.

    Attributes:
        path: The folder.
        manifest: The manifest as it was when the bundle was opened.
        digest: SHA-256 of `manifest.json`, which holds the digests of all other files; empty before it is first written.
    """

    path: Path
    manifest: Manifest
    digest: str = ""

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
        if not folder.is_dir():
            raise BundleError(no_folder_words(str(path)))
        bundle = cls.of_manifest(folder, _manifest_bytes(folder))
        for name, entry in bundle.manifest.files.items():
            _require_whole(folder / name, entry, verify=verify)
        return bundle

    @classmethod
    def of_manifest(cls, folder: Path, content: bytes) -> Bundle:
        """Return the bundle with the bytes of a manifest; its files are checked only when they are read."""
        manifest = Manifest.from_bytes(content, source=folder / MANIFEST)
        return cls(folder, manifest, hashlib.sha256(content).hexdigest())

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

    def read(self, name: str, *, hint: str = "make the bundle again") -> bytes:
        """Return the content of a file, after checking the size and sha256 of these very bytes; see `file` for `hint`.

        Raises:
            BundleError: The bundle has no such file, or it was changed or replaced since the manifest was read.
        """
        path = self.file(name, hint=hint)
        entry = self.manifest.files[name]
        try:
            with path.open("rb") as file:
                content = file.read(entry.size_bytes + 1)  # not more, if the file has grown
        except OSError as exc:
            raise BundleError(f"cannot read {path}: {exc.strerror}") from exc
        _require_size(path, len(content) if len(content) <= entry.size_bytes else path.stat().st_size, entry)
        _require_digest(path, hashlib.sha256(content).hexdigest(), entry)
        return content

    def graph(self, precision: Precision) -> Path:
        """Return the path of the ONNX graph of a precision."""
        return self.file(GRAPH_OF_PRECISION[precision], hint=self._export_hint)

    def read_graph(self, precision: Precision) -> bytes:
        """Return the content of the ONNX graph of a precision; see `read`."""
        return self.read(GRAPH_OF_PRECISION[precision], hint=self._export_hint)

    @property
    def _export_hint(self) -> str:
        return f"run `potstill export {self.path} --validation FILE` to make it"

    def weights(self) -> Path:
        """Return the path of the PyTorch weights."""
        return self.file(WEIGHTS, hint="its PyTorch weights were removed by `potstill export --strip`")

    def tokenizer(self) -> TextTokenizer:
        """Return the bundle's tokenizer."""
        known = self.manifest
        return TextTokenizer.from_bytes(
            self.read(TOKENIZER),
            source=self.path / TOKENIZER,
            max_length=known.max_length,
            pad_id=known.pad_token_id,
            pairs=known.pairs,
        )

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
        if not (self.path / MANIFEST).exists():  # the bundle is new, or is being replaced
            return self
        current = Bundle.of_manifest(self.path, _manifest_bytes(self.path))
        if current.manifest.lineage != self.manifest.lineage:
            raise BundleError(f"{self.path} was replaced by another bundle since it was opened; run the command again")
        return current

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
        manifest = manifest.model_copy(update={"schema_version": SCHEMA})
        content = manifest.to_bytes()
        write_atomically(self.path / MANIFEST, content)
        return Bundle(self.path, manifest, hashlib.sha256(content).hexdigest())


def is_checkpoint(source: Path | str) -> bool:
    """Return whether this is `hub:ID`, or a folder that transformers saved, rather than a bundle or what is left of one."""
    if str(source).startswith("hub:"):
        return True
    folder = Path(source)
    if (folder / MANIFEST).exists() or any(folder.glob(f"{_STAGING}*")):
        return False
    return any((folder / name).is_file() for name in _OF_A_CHECKPOINT) or any(folder.glob(f"checkpoint-*/{CONFIG}"))


def no_folder_words(source: str) -> str:
    """Return what to say of a source that is no folder."""
    if is_checkpoint(source):
        return f"{source} is a model of the hub, not a bundle; {_adopting_words(source)}"
    hub = f"; a model of the hub is written hub:{source}" if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else ""
    return f"{source} is not a folder; expected a bundle, or a classifier that transformers saved{hub}"


def _no_manifest_words(folder: Path) -> str:
    if is_checkpoint(folder):
        return f"{folder} is a Hugging Face model, not a bundle; {_adopting_words(str(folder))}"
    return f"{folder} is not a bundle: it has no {MANIFEST}"


def _adopting_words(source: str) -> str:
    return (
        f"`potstill export {source} --out BUNDLE --validation FILE` makes one with graphs to predict, score and serve with, "
        f"`potstill adopt {source} --out BUNDLE` one without"
    )


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


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as exc:
        raise BundleError(_no_manifest_words(folder)) from exc
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes, which no manifest has; {_ADVICE}")
    return content


def _require_whole(path: Path, entry: FileEntry, *, verify: bool) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing; {_ADVICE}")
    _require_size(path, path.stat().st_size, entry)
    if not verify:
        return
    try:
        digest = sha256_of(path)
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}") from exc
    _require_digest(path, digest, entry)


def _require_size(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.size_bytes:
        raise BundleError(f"{path} has {size:,} bytes, the manifest says {entry.size_bytes:,}; {_ADVICE}")


def _require_digest(path: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise BundleError(f"{path} has sha256 {digest[:12]}…, the manifest says {entry.sha256[:12]}…; {_ADVICE}")
