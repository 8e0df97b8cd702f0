"""Data augmentation: noisy copies of the texts, which only the teacher labels.

Small students lack texts more than labels (Tang et al., 2019, "Distilling Task-Specific Knowledge from BERT into Simple
Neural Networks"; TinyBERT, Jiao et al., 2020). A copy is the whole text, a span of it, or its first half joined to the
second half of another text. Then words are masked, dropped, or replaced by a neighbour in the teacher's embedding table.
The copies are strings, made one at a time, so teacher and student each use their own tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from distill.data import Dataset, fold
from distill.models.torch_classifier import TorchClassifier
from distill.settings import AugmentSettings, DistillSettings
from distill.texts import TextInput, content_of, of_parts, parts_of
from distill.training.lesson import TransferSet

NUM_NEIGHBOURS = 10
COSINES_AT_ONCE = 2**24
"""64 MB."""
_MAX_ATTEMPTS = 8
_WORD_STARTS = ("Ġ", "▁")
"""How byte-level BPE and SentencePiece mark a token that starts a word. WordPiece marks the other tokens, with ##."""


Neighbours = Mapping[str, Sequence[str]]
"""The nearest words of each whole-word token, nearest first."""


def neighbours_of(vocabulary: Mapping[str, int], vectors: NDArray[np.float32], *, count: int = NUM_NEIGHBOURS) -> Neighbours:
    """Find the nearest words of each word by the cosine of their vectors.

    Args:
        vocabulary: Tokens and their rows in `vectors`; tokens that are not a whole word of letters are left out.
        vectors: The input embeddings, shape (tokens, dimensions).
        count: Neighbours per word; fewer if the vocabulary is smaller.
    """
    ordered = sorted(vocabulary.items(), key=lambda entry: entry[1])
    if any(token.startswith(_WORD_STARTS) for token in vocabulary):
        ordered = [(token[1:], row) for token, row in ordered if token.startswith(_WORD_STARTS)]
    rows = {token: row for token, row in ordered if token.isalpha()}
    words = list(rows)
    count = min(count, len(words) - 1)
    if count < 1:
        return dict.fromkeys(words, ())
    unit = functional.normalize(torch.from_numpy(vectors[list(rows.values())].astype(np.float32)))
    nearest: list[list[int]] = []
    at_once = 1 + COSINES_AT_ONCE // len(words)
    for start in range(0, len(words), at_once):
        cosines = unit[start : start + at_once] @ unit.T
        cosines.diagonal(start).fill_(-2.0)  # a word is not its own neighbour
        nearest += cosines.topk(count).indices.tolist()
    return {word: [words[place] for place in places] for word, places in zip(words, nearest, strict=True)}


@dataclass(frozen=True)
class Augmentation:
    """How copies are made.

    Attributes:
        settings: How many copies, and how much they differ.
        seed: The same seed makes the same copies on any machine. The copies of a text do not depend on its position.
        mask_token: The mask token of both tokenizers; None if they have none in common, then masked words are dropped.
        neighbours: Words that may replace each word; None replaces no word.
    """

    settings: AugmentSettings
    seed: int
    mask_token: str | None = None
    neighbours: Neighbours | None = None

    def copies(
        self, texts: Iterable[TextInput], *, partners: Sequence[TextInput], never: Collection[str] = ()
    ) -> Iterator[TextInput]:
        """Yield up to `settings.augment` copies of each text; fewer if a text is too short to vary.

        Each text of a pair is varied by itself.

        Args:
            texts: The texts to copy.
            partners: Texts that supply the second half of a spliced text.
            never: Folded texts that no copy may equal: those that choose or measure.
        """
        for text in texts:
            # sha256, because hash() differs from process to process
            digest = hashlib.sha256(content_of(text)).digest()
            generator = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")])
            seen = {fold(text)}
            for _ in range(self.settings.augment):
                for _ in range(_MAX_ATTEMPTS):
                    copy = self._copy(text, partners, generator)
                    folded = fold(copy)
                    if all(parts_of(copy)) and folded not in seen and folded not in never:
                        seen.add(folded)
                        yield copy
                        break

    def _copy(self, text: TextInput, partners: Sequence[TextInput], generator: np.random.Generator) -> TextInput:
        made = []
        for place, part in enumerate(parts_of(text)):
            words = self._rearranged(part.split(), partners, place, generator)
            made.append(" ".join(self._with_noise(words, generator)))
        return of_parts(tuple(made))

    def _rearranged(
        self, words: list[str], partners: Sequence[TextInput], place: int, generator: np.random.Generator
    ) -> list[str]:
        """Return all words, a span of them, or the first half with the second half of another text."""
        draw = generator.random()
        if draw < self.settings.augment_span:
            length = int(generator.integers(1, max(2, len(words))))  # shorter than the text if it has two words or more
            start = int(generator.integers(0, max(1, len(words) - length + 1)))
            return words[start : start + length]
        if draw < self.settings.augment_span + self.settings.augment_splice and partners:
            other = parts_of(partners[int(generator.integers(len(partners)))])[place].split()
            return words[: (len(words) + 1) // 2] + other[len(other) // 2 :]
        return words

    def _with_noise(self, words: list[str], generator: np.random.Generator) -> Iterator[str]:
        """Yield the words; some are masked or dropped, and some are replaced by a neighbour."""
        masked, replaced = self.settings.augment_mask, self.settings.augment_neighbours
        for word, draw in zip(words, generator.random(len(words)), strict=True):
            if draw < masked:
                if self.mask_token is not None and draw < masked / 2:
                    yield self.mask_token
            elif draw < masked + replaced and self.neighbours is not None:
                yield _replaced(word, self.neighbours, generator)
            else:
                yield word


def _replaced(word: str, neighbours: Neighbours, generator: np.random.Generator) -> str:
    """Return the word with one of its neighbours in place of its letters; case and punctuation are kept."""
    core = word.strip(".,;:!?\"'()[]")
    choices = neighbours.get(core) or neighbours.get(core.lower())
    if not choices:
        return word
    choice = choices[int(generator.integers(len(choices)))]
    return word.replace(core, choice.capitalize() if core not in neighbours and core[0].isupper() else choice, 1)


def augmented_texts(
    teacher: TorchClassifier,
    student: TorchClassifier,
    transfer: TransferSet,
    *,
    held_out: Sequence[Dataset],
    settings: DistillSettings,
) -> Iterator[TextInput]:
    """Yield the noisy copies that a student's settings ask for; none by default.

    Args:
        teacher: Its embeddings decide which words are neighbours.
        student: If its tokenizer lacks the teacher's mask token, words are dropped instead.
        transfer: The texts that are copied.
        held_out: No copy may equal a text of these sets.
        settings: How many copies, of which texts, made how.
    """
    if not settings.augment:
        return
    mask_token = teacher.tokenizer_config.get("mask_token")
    masks = mask_token is not None and all(mask_token in one.tokenizer.vocabulary() for one in (teacher, student))
    replaces = settings.augment_neighbours > 0
    augmentation = Augmentation(
        settings=settings,
        seed=settings.augment_seed,
        mask_token=str(mask_token) if masks else None,
        neighbours=neighbours_of(teacher.tokenizer.vocabulary(), teacher.input_vectors()) if replaces else None,
    )
    never = {fold(text) for dataset in held_out for text in dataset.texts}
    labelled, unlabeled = transfer.labelled.texts, transfer.unlabeled
    for texts in {"all": (labelled, unlabeled), "labelled": (labelled,), "unlabeled": (unlabeled,)}[settings.augment_from]:
        yield from augmentation.copies(texts, partners=texts, never=never)
