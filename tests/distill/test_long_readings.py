"""Of a long text only the beginning is encoded, and the ids are those of the whole text, as the library cuts it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from distill.errors import BundleError
from distill.tokenization import PREFIX_CHARS, TextTokenizer

LENGTH = 12

WORDS = (
    "a",
    "the",
    "film",
    "unwatchable",
    "don't",
    "twenty-two",
    "naïve",
    "Straße",
    "ΣΊΣΥΦΟΣ",
    "İstanbul",
    "ﬁlm",
    "x²",
    "№7",
    "e.g.",
)
PIECES = (
    *WORDS,
    "漢字かな交じり文",
    "한국어",
    "\u1112\u1161\u11ab",  # the three jamo of one syllable
    "ｶﾞｷﾞ",  # half-width letters that join with their marks
    "e\u0301",
    "a\u0316\u0301",  # the second mark joins with the letter past the first
    "\u0301" * 70,
    "q" + "\u0323\u0307" * 40,
    "👩\u200d👩\u200d👧",
    "👍🏽",
    "🇩🇪🇫🇷",
    "☺\ufe0f",
    "x" * 200,
    "!?" * 60,
    "0" * 90,
    " ",
    " " * 150,
    "\n\r\n\t",
    "\u00a0\u3000\u2009",
    "\x00\x07\ufffd",
    "[SEP]",
    "[MASK]",
    "[mask]",
    "<s>",
    "</s>",
    "<extra one>",
    "नमस्ते",
    "ไม่สนุกเลย",
    "\u202e\u0645\u0631\u062d\u0628\u0627",
)
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES).map(lambda piece: f" {piece}"), st.text(max_size=12)),
    max_size=12,
).flatmap(lambda parts: st.integers(1, 40).map(lambda times: "".join(parts) * times))


def corpus() -> list[str]:
    pick = random.Random(0)
    return [" ".join(pick.choices(WORDS, k=8)) for _ in range(300)]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", AddedToken("[MASK]", lstrip=True, special=True)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return tokenizer


def one_word() -> Tokenizer:
    """Return a tokenizer that never divides a text into words."""
    tokenizer = byte_level_bpe()
    tokenizer.pre_tokenizer, tokenizer.normalizer = None, normalizers.NFD()
    return tokenizer


def added_with_space() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.add_special_tokens([AddedToken("<extra one>", normalized=False)])
    return tokenizer


def added_in_lower_case() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.add_tokens([AddedToken("<extra>", normalized=True)])
    return tokenizer


MAKERS = {make.__name__: make for make in (wordpiece, byte_level_bpe, unigram, one_word, added_with_space, added_in_lower_case)}
MADE = {name: make() for name, make in MAKERS.items()}
OURS = {name: TextTokenizer.from_json(library.to_str(), max_length=LENGTH, pad_id=0) for name, library in MADE.items()}


def by_the_library(library: Tokenizer, text: str) -> tuple[list[int], bool]:
    """Return the ids of a text that is encoded whole, and whether it was cut."""
    library.enable_truncation(LENGTH)
    encoding = library.encode(text)
    return encoding.ids, bool(encoding.overflowing)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150)
@given(text=TEXTS)
def test_the_ids_are_those_of_the_whole_text(name: str, text: str) -> None:
    (reading,) = OURS[name].read([text])
    assert (reading.ids.tolist(), reading.is_cut) == by_the_library(MADE[name], text)


@pytest.mark.parametrize("name", MAKERS)
def test_no_piece_that_is_cut_in_two_is_taken_for_two(name: str) -> None:
    fillers = ("unwatchable" * 8 + "filmfilm", "qqqqqqqqqqqqqqqqqq!" * 6, "quick film! " * 9)
    joined = ("ｶﾞ", "a" + "\u0316" * 8 + "\u0301", "\u1112\u1161\u11ab")
    pieces = (
        "unwatchable",
        "\u0301" * 70,
        "film" * 60,
        "!?" * 60,
        "👩\u200d👩\u200d👧",
        "[SEP]",
        "</s>",
        "<extra one>",
        "<EXTRA>",
        *joined,
    )
    for filler in fillers:
        for piece in pieces:
            for place in range(PREFIX_CHARS * LENGTH - 16, PREFIX_CHARS * LENGTH + 1):
                text = filler[:place] + piece + " the film" * 30
                (reading,) = OURS[name].read([text])
                assert (reading.ids.tolist(), reading.is_cut) == by_the_library(MADE[name], text)


@pytest.mark.parametrize("name", ["wordpiece", "byte_level_bpe", "unigram"])
def test_of_prose_only_the_beginning_is_encoded(name: str) -> None:
    text = "the film is unwatchable, don't. " * 3000
    (reading,) = OURS[name].read([text])
    assert (reading.ids.tolist(), reading.is_cut) == by_the_library(MADE[name], text)
    assert reading.num_chars < 1000


def test_of_a_text_without_spaces_only_the_beginning_is_encoded_where_each_character_is_a_word() -> None:
    for text in ("漢字" * 5000, "!" * 5000):
        (reading,) = OURS["wordpiece"].read([text])
        assert (reading.ids.tolist(), reading.is_cut) == by_the_library(MADE["wordpiece"], text)
        assert reading.num_chars < 1000


def test_a_text_is_encoded_at_most_twice_in_all() -> None:
    for text in ("x" * 5000, " " * 5000, "a" + "\u0301" * 5000, ("a" + " " * 70) * 70):
        for ours in OURS.values():
            (reading,) = ours.read([text])
            assert reading.num_chars <= 2 * len(text)


def test_a_word_of_100_000_characters_is_encoded_once_and_a_quarter() -> None:
    (reading,) = OURS["wordpiece"].read(["é" * 100_000])
    assert reading.num_chars < 125_000  # a part of four times the part before would make it 187,000


def test_short_and_long_texts_keep_their_order() -> None:
    texts = ["the film", "a " * 500, "the", "film " * 500, "漢" * 900, ""]
    readings = list(OURS["wordpiece"].read(texts))
    wanted = [by_the_library(MADE["wordpiece"], text) for text in texts]
    assert [(reading.ids.tolist(), reading.is_cut) for reading in readings] == wanted
    assert OURS["wordpiece"].count_truncated(texts) == 3


def test_texts_are_encoded_only_as_they_are_taken() -> None:
    readings = OURS["wordpiece"].read(["a " * 500, "the " * 500])
    assert next(readings).is_cut
    with pytest.raises(StopIteration):
        next(OURS["wordpiece"].read([]))


def test_a_tokenizer_that_splits_endless_words_is_refused(tmp_path: Path) -> None:
    model = models.WordPiece(vocab={"[UNK]": 0, "x": 1, "##x": 2}, unk_token="[UNK]", max_input_chars_per_word=100_000)
    (tmp_path / "tokenizer.json").write_text(Tokenizer(model).to_str())
    with pytest.raises(BundleError, match="words of 100,000 characters"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json", max_length=8, pad_id=0)
