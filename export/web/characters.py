"""The characters that a BERT tokenizer drops, takes for accents or for punctuation, as classes of a regular expression.

They are measured: the tokenizers library follows an older version of Unicode than browsers do, in which some 800 characters
have another category. No tokenizer is needed, for all of its kind have the same classes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from functools import cache

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer


@cache
def _every_character() -> tuple[str, ...]:
    return tuple(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)


def character_classes() -> dict[str, str]:
    """Return the inside of the brackets of each class."""
    cleaning = BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    stripping = BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    return {
        "dropped": _class_of(_removed_by(cleaning, between="a")),
        # No other character is decomposed into a line feed.
        "accents": _class_of(_removed_by(stripping, between="\n")),
        "punctuation": _class_of(_punctuation()),
    }


def _removed_by(normalizer: BertNormalizer, *, between: str) -> set[str]:
    others = [character for character in _every_character() if character != between]
    left = normalizer.normalize_str(between.join(others)).split(between)
    return {character for character, part in zip(others, left, strict=True) if not part}


def _punctuation() -> set[str]:
    """Return the characters that are words by themselves even between letters."""
    words = BertPreTokenizer().pre_tokenize_str("a".join(_every_character()))
    return {word for word, _ in words if len(word) == 1} - {"a"}


def _class_of(characters: Collection[str]) -> str:
    return "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in _ranges(sorted(map(ord, characters))))


def _ranges(codes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of consecutive numbers, which are sorted."""
    first = last = codes[0]
    for code in codes[1:]:
        if code != last + 1:
            yield first, last
            first = code
        last = code
    yield first, last
