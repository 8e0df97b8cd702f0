"""More texts for a small student: noisy copies that only the teacher labels.

Small students are short of texts, not of labels (Tang et al., 2019, "Distilling Task-Specific Knowledge from BERT into
Simple Neural Networks"; TinyBERT, Jiao et al., 2020). A copy is the whole text, a span of it, or the first half of it
joined to the second half of another; then words are masked, dropped, or replaced by a neighbour in the teacher's
embedding table. Strings in, strings out, one at a time, so that teacher and student each use their own tokenizer.
The maths is numpy's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset, fold
from distill.models.torch_classifier import TorchClassifier
from distill.settings import AugmentSettings, DistillSettings
from distill.training.lesson import TransferSet

NUM_NEIGHBOURS = 10
_BLOCK_ROWS = 512
_MAX_ATTEMPTS = 8
_WORD_STARTS = ("Ġ", "▁")
"""How byte-level BPE and SentencePiece mark a token that begins a word; WordPiece marks those that do not, by ##."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest words of each whole-word token.

    Attributes:
        words: The words, as the vocabulary writes them.
        nearest: Positions in `words` of the nearest others, nearest first, shape (words, neighbours).
    """

    words: tuple[str, ...]
    nearest: NDArray[np.int32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_positions", {word: position for position, word in enumerate(self.words)})

    def of(self, word: str) -> list[str]:
        """Return the neighbours of a word, nearest first; none if the vocabulary does not hold it whole."""
        positions: dict[str, int] = self._positions  # type: ignore[attr-defined]
        position = positions.get(word, positions.get(word.lower()))
        if position is None:
            return []
        found = [self.words[other] for other in self.nearest[position]]
        return found if word in positions or not word[0].isupper() else [other.capitalize() for other in found]


def neighbours_of(vocabulary: Mapping[str, int], vectors: NDArray[np.float32], *, count: int = NUM_NEIGHBOURS) -> Neighbours:
    """Find the nearest words of each word by the cosine of their vectors, a block of words at a time.

    Args:
        vocabulary: Tokens and their rows in `vectors`; only tokens that are a whole word of letters take part.
        vectors: The input embeddings, shape (tokens, dimensions).
        count: Neighbours per word; fewer when there are not as many words.
    """
    rows = _whole_words(vocabulary)
    words = tuple(rows)
    directions = vectors[list(rows.values())].astype(np.float32)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    count = max(0, min(count, len(words) - 1))
    nearest = np.empty((len(words), count), dtype=np.int32)
    for start in range(0, len(words) if count else 0, _BLOCK_ROWS):
        cosines = directions[start : start + _BLOCK_ROWS] @ directions.T
        block = np.arange(len(cosines))
        cosines[block, start + block] = -np.inf  # a word is not its own neighbour
        found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1, kind="stable")
        nearest[start + block] = np.take_along_axis(found, order, axis=1)
    return Neighbours(words, nearest)


def _whole_words(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return the tokens that are whole words, without the mark of a word's start, in the vocabulary's order."""
    ordered = sorted(vocabulary.items(), key=lambda entry: entry[1])
    if any(token.startswith(_WORD_STARTS) for token in vocabulary):
        ordered = [(token[1:], row) for token, row in ordered if token.startswith(_WORD_STARTS)]
    return {token: row for token, row in ordered if token.isalpha()}


@dataclass(frozen=True)
class Augmentation:
    """How copies are made.

    Attributes:
        settings: How many and how strong.
        seed: The same seed makes the same copies, on any machine. A text's copies do not depend on its place.
        mask_token: What stands for a hidden word in both tokenizers; None when they share none, then words are dropped.
        neighbours: Replacements; None when no word is to be replaced.
    """

    settings: AugmentSettings
    seed: int
    mask_token: str | None = None
    neighbours: Neighbours | None = None

    def copies(self, texts: Iterable[str], *, partners: Sequence[str], never: Collection[str] = ()) -> Iterator[str]:
        """Yield up to `settings.augment` copies of each text; fewer where a text is too short to vary.

        Args:
            texts: What is copied.
            partners: Where the second half of a spliced text is taken from.
            never: Folded texts that no copy may equal: those that choose or measure.
        """
        for text in texts:
            generator = np.random.default_rng([self.seed, _number_of(text)])
            seen = {fold(text)}
            for _ in range(self.settings.augment):
                copy = self._new_copy(text, partners, seen, never, generator)
                if copy is not None:
                    seen.add(fold(copy))
                    yield copy

    def _new_copy(
        self, text: str, partners: Sequence[str], seen: set[str], never: Collection[str], generator: np.random.Generator
    ) -> str | None:
        for _ in range(_MAX_ATTEMPTS):
            words = self._rearranged(text.split(), partners, generator)
            copy = " ".join(self._with_noise(words, generator))
            folded = fold(copy)
            if folded and folded not in seen and folded not in never:
                return copy
        return None

    def _rearranged(self, words: list[str], partners: Sequence[str], generator: np.random.Generator) -> list[str]:
        draw = generator.random()
        if draw < self.settings.augment_span:
            return _span(words, generator)
        if draw < self.settings.augment_span + self.settings.augment_splice and partners:
            other = partners[int(generator.integers(len(partners)))].split()
            return words[: (len(words) + 1) // 2] + other[len(other) // 2 :]
        return words

    def _with_noise(self, words: list[str], generator: np.random.Generator) -> Iterator[str]:
        masked, replaced = self.settings.augment_mask, self.settings.augment_neighbours
        for word, draw in zip(words, generator.random(len(words)), strict=True):
            if draw < masked:
                if self.mask_token is not None and draw < masked / 2:
                    yield self.mask_token
            elif draw < masked + replaced and self.neighbours is not None:
                yield _replaced(word, self.neighbours, generator)
            else:
                yield word


def _span(words: list[str], generator: np.random.Generator) -> list[str]:
    """Return a piece of one word or more, shorter than the whole where it can be."""
    length = int(generator.integers(1, max(2, len(words))))
    start = int(generator.integers(0, max(1, len(words) - length + 1)))
    return words[start : start + length]


def _replaced(word: str, neighbours: Neighbours, generator: np.random.Generator) -> str:
    core = word.strip(".,;:!?\"'()[]")
    choices = neighbours.of(core) if core else []
    if not choices:
        return word
    return word.replace(core, choices[int(generator.integers(len(choices)))], 1)


def _number_of(text: str) -> int:
    # not hash(), which differs from process to process
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "little")


def augmented_texts(
    teacher: TorchClassifier,
    student: TorchClassifier,
    transfer: TransferSet,
    *,
    held_out: Sequence[Dataset],
    settings: DistillSettings,
) -> Iterator[str]:
    """Yield the noisy copies that a student's settings ask for; none by default.

    Args:
        teacher: Its embeddings decide which words are neighbours.
        student: Its tokenizer, too, must know the mask token, or words are dropped instead.
        transfer: The texts that are copied.
        held_out: No copy may equal a text of these sets.
        settings: How many copies, of which texts, made how.
    """
    if not settings.augment:
        return
    replacing = settings.augment_neighbours > 0
    augmentation = Augmentation(
        settings=settings,
        seed=settings.augment_seed,
        mask_token=_shared_mask_token(teacher, student),
        neighbours=neighbours_of(teacher.tokenizer.vocabulary(), teacher.input_vectors()) if replacing else None,
    )
    never = {fold(text) for dataset in held_out for text in dataset.texts}
    labelled, unlabeled = transfer.labelled.texts, transfer.unlabeled
    sources = {"all": (labelled, unlabeled), "labelled": (labelled,), "unlabeled": (unlabeled,)}[settings.augment_from]
    for texts in sources:
        yield from augmentation.copies(texts, partners=texts, never=never)


def _shared_mask_token(teacher: TorchClassifier, student: TorchClassifier) -> str | None:
    token = teacher.tokenizer_config.get("mask_token")
    known = token is not None and all(token in one.tokenizer.vocabulary() for one in (teacher, student))
    return str(token) if known else None
