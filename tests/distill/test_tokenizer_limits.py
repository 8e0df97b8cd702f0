"""Tokenizers that were made to keep whoever opens them busy: each is in a sealed bundle, and is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from distill.bundle import Bundle
from distill.errors import BundleError
from distill.tokenization import TextTokenizer
from distill.tokenizer_limits import KNOWN_PATTERNS

SOURCE = Path("tokenizer.json")
BACKTRACKING = r"(?:a+)+$"


def word_tokenizer(**parts: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1}, unk_token="[UNK]"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def opened(content: str, *, max_length: int = 8) -> TextTokenizer:
    return TextTokenizer.from_bytes(content.encode(), source=SOURCE, max_length=max_length, pad_id=0)


def refusal_of(tokenizer: Tokenizer | str) -> str:
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer that potstill runs") as caught:
        opened(tokenizer if isinstance(tokenizer, str) else tokenizer.to_str())
    return str(caught.value)


def test_the_tokenizer_of_a_planted_bundle_is_refused(tiny_student: Bundle, copied: Callable[[Bundle], Bundle]) -> None:
    bundle = copied(tiny_student)
    content = json.loads(bundle.read("tokenizer.json"))
    content["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": BACKTRACKING}, "behavior": "Isolated", "invert": False}
    with bundle.staging() as staged:
        (staged / "tokenizer.json").write_text(json.dumps(content))
        planted = bundle.adding({"tokenizer.json": staged / "tokenizer.json"})
    with pytest.raises(BundleError, match=r"its Split has the unknown regular expression '\(\?:a\+\)\+\$'"):
        Bundle.open(planted.path).tokenizer()


def test_an_unknown_regular_expression_is_found_wherever_it_is() -> None:
    split = pre_tokenizers.Split(Regex(BACKTRACKING), "isolated")
    deep = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Sequence([split])])
    assert "regular expression" in refusal_of(word_tokenizer(pre_tokenizer=deep))
    replace = normalizers.Replace(Regex(BACKTRACKING), "")
    assert "regular expression" in refusal_of(word_tokenizer(normalizer=normalizers.Sequence([replace])))


def test_a_part_that_is_given_twice_is_judged_as_the_library_takes_it() -> None:
    content = word_tokenizer(pre_tokenizer=pre_tokenizers.Split(Regex(BACKTRACKING), "isolated")).to_str()
    first = content.replace('"pre_tokenizer":', '"pre_tokenizer":{"type":"Whitespace"},"pre_tokenizer":')
    assert "regular expression" in refusal_of(first)
    last = content.replace('"post_processor":', '"pre_tokenizer":null,"post_processor":')
    assert opened(last).encode(["a" * 40])  # the library takes the last


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", sorted(KNOWN_PATTERNS))
def test_a_known_pattern_does_not_backtrack_on_texts_made_against_it(pattern: str) -> None:
    # Twice the largest text of a request; a pattern with quadratic effort, like " +▁" on spaces, runs into the timeout.
    tokenizer = word_tokenizer(pre_tokenizer=pre_tokenizers.Split(Regex(pattern), "isolated"))
    for text in (" " * 200_000 + "x", "a" * 200_000, "A" * 200_000, "1!" * 100_000, "\n " * 100_000):
        assert len(opened(tokenizer.to_str()).encode([text])[0]) <= 8


def test_a_replacement_that_makes_texts_longer_is_refused() -> None:
    doubling = [normalizers.Replace("a", "aa")] * 30  # a text of one letter would have 2^30
    assert "in place of a shorter text" in refusal_of(word_tokenizer(normalizer=normalizers.Sequence(doubling)))
    assert "in place of a shorter text" in refusal_of(word_tokenizer(normalizer=normalizers.Replace(Regex(" {2,}"), "aa")))
    assert "Prepend adds 1,000" in refusal_of(word_tokenizer(normalizer=normalizers.Prepend("a" * 1_000)))
    many = normalizers.Sequence([normalizers.Lowercase()] * 33)
    assert "it has 33 steps" in refusal_of(word_tokenizer(normalizer=many))


def precompiled(replacement: bytes) -> normalizers.Precompiled:
    """Return a table of one replacement, which no character has."""
    return normalizers.Precompiled((4).to_bytes(4, "little") + bytes(4) + replacement + b"\0")


def test_a_table_that_makes_texts_longer_is_refused() -> None:
    assert "makes 1,000 bytes of a character" in refusal_of(word_tokenizer(normalizer=precompiled(b"a" * 1_000)))
    twice = normalizers.Sequence([precompiled(b"a" * 60)] * 2)
    assert "several Precompiled steps" in refusal_of(word_tokenizer(normalizer=twice))
    opened(word_tokenizer(normalizer=precompiled(b"a" * 60)).to_str())


def test_words_that_are_taken_apart_with_cubic_effort_are_refused() -> None:
    model = models.WordPiece({"[UNK]": 0}, unk_token="[UNK]", max_input_chars_per_word=1_000_000)
    assert "words of 1,000,000 characters" in refusal_of(Tokenizer(model))
    unigram = models.Unigram([("<unk>", 0.0), ("a" * 5_000, -1.0)], unk_id=0)
    assert "a token of 5,000 characters" in refusal_of(Tokenizer(unigram))


def test_more_special_tokens_than_a_text_may_have_are_refused() -> None:
    template = processors.TemplateProcessing(single="[CLS] " * 9 + "$A", special_tokens=[("[CLS]", 1)])
    assert "adds 9 special tokens" in refusal_of(word_tokenizer(post_processor=template))
    echo = processors.TemplateProcessing(single="$A $A", pair="$A $B", special_tokens=[])
    assert "repeats the text" in refusal_of(word_tokenizer(post_processor=processors.Sequence([echo])))


def test_the_tokenizers_of_published_encoders_are_accepted() -> None:
    sentencepiece = word_tokenizer(
        normalizer=normalizers.Sequence(
            [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁"), normalizers.Replace("``", '"')]
        ),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    )
    byte_level = word_tokenizer(
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]),
        post_processor=processors.RobertaProcessing(("[CLS]", 1), ("[CLS]", 1)),
    )
    for tokenizer in (sentencepiece, byte_level):
        assert opened(tokenizer.to_str()).encode(["a text"])
