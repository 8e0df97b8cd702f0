"""The texts of a published set: whole sentences apart from their phrases, and what two sets share.

A folder has `train.tsv` and files that measure (`dev.tsv`, `test.tsv`). In SST-2, most training rows are phrases of other
rows. A row that lies inside a longer row belongs to that sentence, so no phrase of a validation sentence is learnt.
"""

from __future__ import annotations

import html
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data import Dataset, Splits, read_texts, texts_not_in
from distill.data.dataset import merge_duplicates, split_off, without_texts_of
from distill.data.sources import read_labelled
from distill.errors import DatasetError
from distill.settings import DataSettings
from distill.storage import sha256_of
from distill.texts import joined

TRAIN = "train.tsv"
VALIDATION_SHARE = 0.1
SPLIT_SEED = 0
SHORTEST = 20
"""Letters and digits of a shared sentence, at least: shorter ones occur by chance."""


@dataclass(frozen=True)
class FieldTexts:
    """The texts of a published set.

    Attributes:
        splits: Training rows and validation sentences; the test texts are the first of `measuring`.
        measuring: The sets that measure, by name; nothing is chosen on them.
        further: Texts of other sources, without labels, none of which shares a sentence with the set.
        counts: How many rows there are of each kind, for the result.
        digests: The sha256 of each file, by name.
    """

    splits: Splits
    measuring: Mapping[str, Dataset]
    further: tuple[str, ...]
    counts: Mapping[str, int]
    digests: Mapping[str, str]


def read_field(folder: Path, *, measuring: Sequence[str], unlabeled: Sequence[str]) -> FieldTexts:
    """Read the texts of a folder.

    Args:
        folder: Has `train.tsv` and a file for each set that measures.
        measuring: Names of those sets, such as "dev".
        unlabeled: Sources of further texts.

    Raises:
        DatasetError: A file is missing or cannot be read.
    """
    names = {name: f"{name}.tsv" for name in measuring}
    missing = [name for name in (TRAIN, *names.values()) if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{folder} has no {missing[0]}; name the folder of the set with --data", path=folder)
    settings = DataSettings()
    rows = read_labelled(str(folder / TRAIN), "train", settings)
    sets = {name: read_labelled(str(folder / file), "test", settings, labels=rows.labels) for name, file in names.items()}
    merged = merge_duplicates(rows)
    for held_out in sets.values():
        merged = without_texts_of(merged, held_out)
    train, validation = split_by_sentence(merged)
    sentences = train.take(sentences_of(train.single_texts()).whole)
    further = [joined(text) for source in unlabeled for text in read_texts(source, settings)]
    apart, counts = apart_from(further, {"train": sentences, "validation": validation, **sets})
    parts = (train, validation, *sets.values())
    return FieldTexts(
        splits=Splits(train, validation, next(iter(sets.values()))),
        measuring=sets,
        further=tuple(texts_not_in(apart, parts)),
        counts={
            "train_rows": len(rows),
            "distinct_rows": len(merged),
            "train": len(train),
            "train_sentences": len(sentences),
            "validation_sentences": len(validation),
            "left_out_phrases": len(merged) - len(train) - len(validation),
            **{f"{name}_texts": len(part) for name, part in sets.items()},
            **counts,
        },
        digests={name: sha256_of(folder / name) for name in (TRAIN, *names.values())},
    )


@dataclass(frozen=True)
class Sentences:
    """Which rows are whole sentences, and which are phrases of them.

    Attributes:
        whole: Places of the rows that lie inside no longer row.
        inside: For each row, the places of the whole sentences that it lies in; a whole sentence lies in itself.
    """

    whole: tuple[int, ...]
    inside: tuple[frozenset[int], ...]


def sentences_of(texts: Sequence[str]) -> Sentences:
    """Find the rows that lie inside longer rows, word by word; all rows must differ."""
    words = [tuple(text.split()) for text in texts]
    place_of = {row: place for place, row in enumerate(words)}
    inside: defaultdict[int, set[int]] = defaultdict(set)
    whole = []
    for place in sorted(range(len(words)), key=lambda place: -len(words[place])):
        if inside[place]:
            continue
        row = words[place]
        whole.append(place)
        spans = (row[start:end] for start in range(len(row)) for end in range(start + 1, len(row) + 1))
        for found in {place_of[span] for span in spans if span in place_of}:
            inside[found].add(place)
    return Sentences(tuple(sorted(whole)), tuple(frozenset(inside[place]) for place in range(len(words))))


def split_by_sentence(rows: Dataset) -> tuple[Dataset, Dataset]:
    """Return (training rows, validation sentences): no training row lies inside a validation sentence."""
    found = sentences_of(rows.single_texts())
    whole = rows.take(found.whole)
    _, validation = split_off(whole, count=round(VALIDATION_SHARE * len(whole)), seed=SPLIT_SEED, name="validation")
    place_of = {text: place for place, text in enumerate(rows.texts)}
    held_out = {place_of[text] for text in validation.texts}
    return rows.take([place for place, inside in enumerate(found.inside) if not inside & held_out]), validation


def apart_from(texts: Sequence[str], parts: Mapping[str, Dataset]) -> tuple[list[str], dict[str, int]]:
    """Return the texts that share no sentence with a set, and how many share one with each of its parts.

    Two texts share a sentence if one lies inside the other, letters and digits alone compared, or if they are near
    duplicates: some differ in a word's spelling.
    """
    from distill.transfer.guards import near_duplicates

    bare = [_bare(text) for text in texts]
    shared = {name: _sharing(bare, [_bare(text) for text in part.single_texts()]) for name, part in parts.items()}
    for name, part in parts.items():
        shared[name][[found.target_row for found in near_duplicates(part.texts, texts)]] = True
    anywhere = np.any([*shared.values()], axis=0) if shared else np.zeros(len(texts), dtype=bool)
    counts = {f"further_shared_with_{name}": int(found.sum()) for name, found in shared.items()}
    kept = [text for text, is_shared in zip(texts, anywhere, strict=True) if not is_shared]
    return kept, {"further_texts": len(texts), **counts, "further_kept": len(kept)}


def _sharing(texts: Sequence[str], others: Iterable[str]) -> np.ndarray:
    """Return which texts lie inside one of the others, or have one inside them, shape (texts,)."""
    long = [other for other in others if len(other) >= SHORTEST]
    joined_others, joined_texts = "\n".join(long), "\n".join(texts)
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
    shared = np.array([len(text) >= SHORTEST and text in joined_others for text in texts], dtype=bool)
    for other in long:
        place = joined_texts.find(other)
        while place >= 0:
            shared[np.searchsorted(starts, place, side="right") - 1] = True
            place = joined_texts.find(other, place + 1)
    return shared


def _bare(text: str) -> str:
    """Return the letters and digits of a text, without accents and in lower case: tokenizations differ in the rest."""
    plain = unicodedata.normalize("NFKD", html.unescape(text).lower())
    return "".join(letter for letter in plain.replace("-lrb-", "").replace("-rrb-", "") if letter.isalnum())
