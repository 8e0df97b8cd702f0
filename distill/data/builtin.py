"""The four built-in sentiment sets: movies, amazon, tweets, nyt.

They stand inside the *source* distribution of vaderSentiment 3.3.2 (MIT; Hutto and Gilbert, ICWSM 2014), which
pip brings once; two checksums are compared and the archive is kept in the cache folder. The sentences are never
part of potstill. Each carries the mean of twenty people's ratings in [-4, 4]; the label is its sign, and a
rating of exactly 0 has none. Of each there is also a task of three labels, such as tweets-three-way: neutral is nearer
to 0 than 0.5.
"""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.data.dataset import Dataset, fold, merge_duplicates, split_off
from distill.errors import DatasetError
from distill.storage import cache_dir, require_writable, write_atomically

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
_REQUIREMENT = "vaderSentiment==3.3.2"
_SOURCE_NAME = "vaderSentiment-3.3.2.tar.gz"
_SOURCE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_ARCHIVE_NAME = "hutto_ICWSM_2014.tar.gz"
_ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"

logger = logging.getLogger(__name__)


def load_builtin(name: str) -> tuple[Dataset, Dataset]:
    """Return (training texts, 2,000 test texts) of a built-in set; the cut is the same for every run.

    With three labels the test texts are those of the set with two (or a few less, where doubles contradict each other), so
    that a model that was trained on the one has never learnt from the test texts of the other.

    Raises:
        DatasetError: The name is unknown, or the texts are not in the cache and cannot be brought.
    """
    base = name.removesuffix(THREE_WAY)
    if base not in _FILES:
        known = ", ".join(f"builtin:{known}" for known in NAMES)
        raise DatasetError(f"builtin:{name} is not known; there are {known}, each also as NAME{THREE_WAY}")
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


def _read_ratings(name: str) -> list[tuple[float, str]]:
    source = f"builtin:{name}"
    with tarfile.open(fileobj=io.BytesIO(_archive())) as archive:
        member = archive.extractfile(f"hutto_ICWSM_2014/{_FILES[name]}")
        if member is None:
            raise DatasetError(f"{source}: the archive has no {_FILES[name]}", path=source)
        content = member.read().decode()
    cells = (line.split("\t") for line in content.splitlines())
    return [(float(rating), text.strip()) for _, rating, text in cells]


def _archive() -> bytes:
    """Return the archive with the four files, from the cache or, the first time, through pip."""
    kept = cache_dir() / "builtin" / _ARCHIVE_NAME
    if kept.is_file():
        content = kept.read_bytes()
        if _sha256(content) == _ARCHIVE_SHA256:
            return content
        logger.warning("%s is damaged; it is brought again", kept)
    require_writable(kept.parent)
    content = _archive_inside(_fetch_source())
    write_atomically(kept, content)
    return content


def _archive_inside(source: bytes) -> bytes:
    _require_digest(_SOURCE_NAME, source, _SOURCE_SHA256)
    with tarfile.open(fileobj=io.BytesIO(source)) as distribution:
        member = distribution.extractfile(f"vaderSentiment-3.3.2/additional_resources/{_ARCHIVE_NAME}")
        content = member.read() if member is not None else b""
    _require_digest(_ARCHIVE_NAME, content, _ARCHIVE_SHA256)
    return content


def _fetch_source() -> bytes:
    """Return the source distribution: one that the user laid into the cache folder, else brought by pip."""
    laid_by_hand = cache_dir() / "builtin" / _SOURCE_NAME
    if laid_by_hand.is_file():
        return laid_by_hand.read_bytes()
    logger.info("bringing the built-in texts (2.5 MB, once) with pip")
    with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
        # Not the wheel: only the source distribution holds the texts.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--no-binary", "vaderSentiment", "--dest", folder, "--requirement", f"{folder}/requirements.txt"]
        # pip runs a source distribution's build script to learn its name: with the digest it looks at it first.
        (Path(folder) / "requirements.txt").write_text(f"{_REQUIREMENT} --hash=sha256:{_SOURCE_SHA256}\n")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = Path(folder) / _SOURCE_NAME
        if done.returncode != 0 or not fetched.is_file():
            raise DatasetError(
                "the built-in texts are not in the cache and pip could not bring them "
                f"({_reason_in(done.stderr)}); connect to the network for the first use, or lay {_SOURCE_NAME} from the "
                f"package index into {laid_by_hand.parent}"
            )
        return fetched.read_bytes()


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
