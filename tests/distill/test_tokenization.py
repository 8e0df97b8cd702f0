"""Texts to ids, against a vocabulary small enough to do by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from distill.errors import BundleError, DatasetError, SettingsError
from distill.tokenization import TextTokenizer, token_ids

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "fine": 5, "film": 6}
PAD, UNKNOWN, START, END, A, FINE, FILM = WORDS.values()


def library_tokenizer(*, second_type: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{second_type} [SEP]:{second_type}",
        special_tokens=[("[CLS]", START), ("[SEP]", END)],
    )
    return tokenizer


def tokenizer(*, max_length: int = 8, second_type: int = 1, pad_id: int = PAD) -> TextTokenizer:
    return TextTokenizer(library_tokenizer(second_type=second_type), max_length=max_length, pad_id=pad_id)


def ids_of(texts: Any, **keywords: Any) -> list[list[int]]:
    return [row.tolist() for row in tokenizer(**keywords).encode(texts)]


def test_texts_become_ids_between_start_and_end() -> None:
    assert ids_of(["a fine film", "a bad film", ""]) == [
        [START, A, FINE, FILM, END],
        [START, A, UNKNOWN, FILM, END],
        [START, END],
    ]


def test_windows_overlap_by_a_quarter_of_their_words_and_hold_all_of_them() -> None:
    words = ["a", "fine", "film", "a", "a", "film", "fine"]  # 4 to a window beside start and end, 1 of them again
    ids = [WORDS[word] for word in words]
    rows = tokenizer(max_length=6).windows(" ".join(words))
    assert [row.tolist() for row in rows] == [[START, *ids[:4], END], [START, *ids[3:], END]]
    assert rows[0].dtype == np.int64
    assert [row.tolist() for row in tokenizer(max_length=6).windows("a film")] == [[START, A, FILM, END]]
    assert [len(row) for row in tokenizer(max_length=4).windows("a fine film")] == [4, 3]  # no room for an overlap


def test_windows_leave_the_tokenizer_as_it_was() -> None:
    ours = tokenizer(max_length=6)
    before = ours.to_json()
    ours.windows("a fine film a fine film")
    assert ours.to_json() == before
    assert ours.encode(["a fine film a fine"])[0].tolist() == [START, A, FINE, FILM, A, END]


def test_max_length_counts_start_and_end() -> None:
    assert ids_of(["a fine film"], max_length=5) == [[START, A, FINE, FILM, END]]
    assert ids_of(["a fine film"], max_length=4) == [[START, A, FINE, END]]


def test_texts_that_lose_tokens_are_counted() -> None:
    texts = ["a fine film", "film", "a a a a a", ""]
    assert tokenizer(max_length=5).count_truncated(texts) == 1
    assert tokenizer(max_length=4).count_truncated(texts) == 2
    assert tokenizer(max_length=8).count_truncated(texts) == 0


def test_many_texts_are_encoded_and_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # An encoding takes twenty times the memory of its ids: those of a whole training set must never exist together.
    sizes = []

    class Recording:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def encode_batch(self, texts: list[str]) -> Any:
            sizes.append(len(texts))
            return self.inner.encode_batch(texts)

        def encode_batch_fast(self, texts: list[str]) -> Any:
            sizes.append(len(texts))
            return self.inner.encode_batch_fast(texts)

    monkeypatch.setattr("distill.tokenization.ENCODED_AT_ONCE", 3)
    made = tokenizer(max_length=4)
    monkeypatch.setattr(made, "_tokenizer", Recording(made._tokenizer))
    texts = ["one two three four five", "one"] * 4
    assert made.count_truncated(texts) == 4
    assert sizes == [3, 3, 2]
    assert len(made.encode(texts)) == 8
    assert sizes == [3, 3, 2] * 2


def test_another_limit_leaves_the_first_tokenizer_as_it_is() -> None:
    long = tokenizer(max_length=8)
    short = long.with_max_length(4)
    assert [len(each.encode(["a a a a a a a"])[0]) for each in (long, short, long)] == [8, 4, 8]
    assert (long.max_length, short.max_length, short.pad_id) == (8, 4, PAD)


def test_a_file_that_asks_for_padding_or_cutting_is_overruled() -> None:
    library = library_tokenizer(second_type=1)
    library.enable_padding(length=20)
    library.enable_truncation(3)
    rows = TextTokenizer(library, max_length=8, pad_id=PAD).encode(["a fine film"])
    assert rows[0].tolist() == [START, A, FINE, FILM, END]


def test_a_tokenizer_file_gives_the_same_ids(tmp_path: Path) -> None:
    first = tokenizer(max_length=4, pad_id=6)
    (tmp_path / "tokenizer.json").write_text(first.to_json())
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json", max_length=4, pad_id=6)
    assert again.digest() == first.digest()
    assert again.encode(["a fine film"])[0].tolist() == first.encode(["a fine film"])[0].tolist()
    assert again.vocabulary_size == len(WORDS)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": {"type": "WordLe', b"\xff\xfe"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        TextTokenizer.from_file(path, max_length=8, pad_id=0)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read .*absent\.json: No such file"):
        TextTokenizer.from_file(tmp_path / "absent.json", max_length=8, pad_id=0)


def test_the_digest_moves_with_all_that_decides_the_ids() -> None:
    digests = {each.digest() for each in (tokenizer(), tokenizer(max_length=9), tokenizer(pad_id=1), tokenizer(second_type=0))}
    assert len(digests) == 4
    assert tokenizer().digest() == tokenizer().digest()


# What cannot be encoded


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        (None, "text 1 is NoneType"),
        (7, "text 1 is int"),
        (b"bytes", "text 1 is bytes"),
        (["a", "b"], "text 1 is list"),
        (("a", "b", "c"), "text 1 is tuple"),
        (("a", None), "text 1 is NoneType"),
    ],
)
def test_what_is_no_text_is_refused_with_its_position(text: object, culprit: str) -> None:
    with pytest.raises(DatasetError, match=culprit):
        tokenizer().encode(["fine", text])  # type: ignore[list-item]


def test_a_lone_surrogate_is_refused_with_its_position() -> None:
    with pytest.raises(DatasetError, match=r"text 1 .*surrogate at character 2"):
        tokenizer().encode(["fine", "a \ud83d film"])


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(DatasetError, match=r"pass \['a fine film'\]"):
        tokenizer().encode("a fine film")


def test_no_texts_give_no_rows() -> None:
    assert tokenizer().encode([]) == []


@pytest.mark.parametrize("text", ["a fine film", "", "a bad film", "a a a a a a a a a a a"])
def test_one_text_has_the_ids_that_it_has_among_others(text: str) -> None:
    first, second = ids_of([text, text])
    assert ids_of([text]) == [first] == [second]
    alone = tokenizer().pad(tokenizer().encode([text]))
    assert alone.input_ids.tolist() == [first]
    assert alone.attention_mask.tolist() == [[1] * len(first)]


def test_pairs_are_encoded_where_no_token_types_are_needed() -> None:
    assert ids_of([("a", "film"), "fine"], second_type=0) == [[START, A, END, FILM, END], [START, FINE, END]]


def test_pairs_that_need_token_types_are_refused() -> None:
    with pytest.raises(SettingsError, match="token type ids"):
        tokenizer(second_type=1).encode([("a", "film")])


def test_a_model_of_pairs_gets_the_type_of_each_token() -> None:
    typed = tokenizer(second_type=1).reading_pairs(has_types=True)
    assert typed.input_names == ("input_ids", "attention_mask", "token_type_ids")
    rows = typed.encode([("a", "film"), "fine"])
    batch = typed.pad(rows)
    assert batch.token_type_ids is not None
    assert batch.input_ids.tolist()[0] == [START, A, END, FILM, END]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert token_ids(rows[0]).tolist() == [START, A, END, FILM, END]
    assert typed.digest() != tokenizer(second_type=1).digest()
    assert typed.with_max_length(4).pairs == "typed"


@pytest.mark.parametrize(("second_type", "has_types"), [(1, False), (0, True)])
def test_pairs_have_no_types_where_model_or_tokenizer_has_none(second_type: int, has_types: bool) -> None:
    untyped = tokenizer(second_type=second_type).reading_pairs(has_types=has_types)
    assert untyped.pad(untyped.encode([("a", "film")])).inputs().keys() == {"input_ids", "attention_mask"}


# Padding


def test_rows_are_padded_on_the_right_to_the_longest() -> None:
    padded = tokenizer(pad_id=9).pad([np.array([1, 2, 3]), np.array([4]), np.array([], dtype=np.int64)])
    ids, mask = padded.inputs().values()
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_a_real_token_that_equals_the_padding_is_not_masked() -> None:
    mask = tokenizer(pad_id=0).pad([np.array([1, 0]), np.array([2])]).attention_mask
    assert mask.tolist() == [[1, 1], [1, 0]]


def test_no_rows_are_an_empty_batch() -> None:
    assert tokenizer().pad([]).input_ids.shape == (0, 0)
