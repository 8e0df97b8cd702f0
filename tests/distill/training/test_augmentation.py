"""Augmented texts: each operation by hand, the seed, and what no copy may be."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from distill.data import fold
from distill.errors import SettingsError
from distill.settings import AugmentSettings, DistillSettings
from distill.training.augmentation import Augmentation, neighbours_of

TEXT = "one two three four five six seven eight"
OTHER = "nine ten eleven twelve"

# Angles of 0, 10, 30, 90 and 180 degrees: who is near whom can be read off.
ANGLES = {"[MASK]": 45, "east": 0, "near": 10, "##piece": 5, "north": 30, "2nd": 20, "up": 90, "west": 180}
VECTORS = np.array([[np.cos(np.radians(a)), np.sin(np.radians(a))] for a in ANGLES.values()], dtype=np.float32)
LENGTHS = np.arange(1, 9, dtype=np.float32)[:, None]  # cosine ignores them; a dot product would not
VOCABULARY = {token: row for row, token in enumerate(ANGLES)}


def augmentation(*, seed: int = 0, **values: Any) -> Augmentation:
    strengths = {"augment_mask": 0, "augment_neighbours": 0, "augment_span": 0, "augment_splice": 0}
    neighbours = neighbours_of(VOCABULARY, VECTORS * LENGTHS, count=2)
    settings = AugmentSettings(**{"augment": 1, **strengths, **values})
    return Augmentation(settings=settings, seed=seed, mask_token="[MASK]", neighbours=neighbours)


def test_neighbours_are_the_nearest_whole_words_by_cosine() -> None:
    neighbours = neighbours_of(VOCABULARY, VECTORS * LENGTHS, count=2)
    assert neighbours == {
        "east": ["near", "north"],
        "near": ["east", "north"],
        "north": ["near", "east"],
        "up": ["north", "near"],
        "west": ["up", "north"],
    }


def test_neighbours_of_many_words_are_in_the_order_of_their_cosines() -> None:
    generator = np.random.default_rng(0)
    words = {"".join(generator.choice(list("abcdefgh"), 9)): row for row in range(50)}
    vectors = generator.normal(size=(50, 8)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(50)
    names = list(words)
    expected = [[names[place] for place in row] for row in np.argsort(-cosines, axis=1)[:, :4]]
    assert list(neighbours_of(words, vectors, count=4).values()) == expected


def test_byte_level_and_sentencepiece_words_are_found_without_their_mark() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert list(neighbours_of({"Ġgood": 0, "Ġbad": 1, "ly": 2}, vectors)) == ["good", "bad"]
    assert list(neighbours_of({"▁good": 0, "ly": 1, "▁": 2}, vectors)) == ["good"]


def test_no_copies_are_made_by_default() -> None:
    assert AugmentSettings().augment == 0
    assert list(augmentation(augment=0, augment_mask=0.5).copies([TEXT], partners=[TEXT])) == []


def test_masking_hides_or_drops_the_share_asked_for_and_keeps_the_order() -> None:
    words = [f"w{number}" for number in range(10_000)]
    (copy,) = augmentation(augment_mask=0.2).copies([" ".join(words)], partners=[])
    counts = Counter(copy.split())
    assert counts["[MASK]"] == pytest.approx(1_000, abs=150)  # 10 % of the words; five standard deviations are 150
    assert len(words) - counts.total() == pytest.approx(1_000, abs=150)
    assert [word for word in copy.split() if word != "[MASK]"] == [word for word in words if word in counts]


def test_without_a_shared_mask_token_words_are_dropped() -> None:
    with_mask = augmentation(augment_mask=0.5)
    without = Augmentation(settings=with_mask.settings, seed=0, mask_token=None)
    (copy,) = without.copies([TEXT], partners=[])
    assert set(copy.split()) < set(TEXT.split())


def test_replacement_takes_neighbours_and_keeps_punctuation() -> None:
    (copy,) = augmentation(augment_neighbours=1).copies(["(West,) absent"], partners=[])
    assert copy in {"(Up,) absent", "(North,) absent"}


def test_a_span_is_a_piece_of_the_text() -> None:
    copies = list(augmentation(augment=40, augment_span=1).copies([TEXT], partners=[]))
    assert all(f" {copy} " in f" {TEXT} " for copy in copies)
    assert {len(copy.split()) for copy in copies} >= {1, 2, 3}


def test_a_splice_is_the_first_half_and_the_second_half_of_another() -> None:
    (copy,) = augmentation(augment_splice=1).copies([TEXT], partners=[OTHER])
    assert copy == "one two three four eleven twelve"


def test_the_same_seed_makes_the_same_texts_in_any_process() -> None:
    mixed = {"augment": 3, "augment_mask": 0.3, "augment_span": 0.3, "augment_splice": 0.3}
    here = list(augmentation(seed=5, **mixed).copies([TEXT, OTHER], partners=[TEXT, OTHER]))
    assert here != list(augmentation(seed=6, **mixed).copies([TEXT, OTHER], partners=[TEXT, OTHER]))
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from test_augmentation import *\n"
        f"print(list(augmentation(seed=5, **{mixed!r}).copies([TEXT, OTHER], partners=[TEXT, OTHER])))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert there.stdout.strip() == repr(here)


def test_a_texts_copies_do_not_depend_on_the_texts_around_it() -> None:
    made = augmentation(augment=2, augment_mask=0.3)
    alone = list(made.copies([TEXT], partners=[]))
    assert list(made.copies([OTHER, TEXT], partners=[]))[-2:] == alone


def test_copies_differ_from_their_text_and_from_each_other() -> None:
    copies = list(augmentation(augment=20, augment_mask=0.1, augment_span=0.2).copies([TEXT], partners=[]))
    assert len({fold(copy) for copy in (TEXT, *copies)}) == len(copies) + 1
    assert len(copies) > 10


def test_no_copy_equals_a_text_that_chooses_or_measures() -> None:
    spans = augmentation(augment=200, augment_span=1)
    every_span = {fold(copy) for copy in spans.copies(["Red green blue"], partners=[])}
    assert every_span == {"red", "green", "blue", "red green", "green blue"}
    never = {fold("RED  green"), fold("Blue")}
    assert {fold(copy) for copy in spans.copies(["Red green blue"], partners=[], never=never)} == every_span - never


def test_a_text_too_short_to_vary_gives_no_copy() -> None:
    assert list(augmentation(augment=3, augment_mask=0, augment_span=1).copies(["word"], partners=[])) == []


def test_copies_are_made_one_at_a_time() -> None:
    def endless() -> Any:
        while True:
            yield TEXT

    copies = augmentation(augment_mask=0.5).copies(endless(), partners=[])
    assert len(list(islice(copies, 5))) == 5


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"augment_span and augment_splice .* got 1\.2"):
        DistillSettings(augment_span=0.6, augment_splice=0.6)
