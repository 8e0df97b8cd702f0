"""The mean over the windows of a long text, by hand: the logits are how many ids a row has, and their sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from distill.classifier import TextInput
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType
from distill.tokenization import TextTokenizer
from export.runtime.long_texts import LongTextClassifier, answer_long


class Adder:
    """Reads six tokens; words are their own ids, start and end are 10 and 20."""

    labels = ("count", "sum")
    problem_type: ProblemType = "single_label_classification"

    def __init__(self) -> None:
        vocabulary = {str(number): number for number in range(21)}
        library = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
        library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        library.post_processor = processors.TemplateProcessing(
            single="10 $A 20", pair="10 $A 20 $B:0 20:0", special_tokens=[("10", 10), ("20", 20)]
        )
        self.tokenizer = TextTokenizer(library, max_length=6, pad_id=0)

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        return np.array([[len(row), row.sum()] for row in rows], dtype=np.float32)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        return self.predict_encoded(self.tokenizer.encode(texts))


TEXTS = ("1 2", "1 2 3 4 5 6 7", "1 2 3 4")


def test_a_long_text_has_the_mean_of_its_windows() -> None:
    logits, num_long = answer_long(Adder(), TEXTS, long_texts="windows")
    # 1 2 3 4 and 4 5 6 7, each between 10 and 20: sums 40 and 52, of six ids each
    assert logits.tolist() == [[4, 33], [6, 46], [6, 40]]
    assert logits.dtype == np.float32
    assert num_long == 1


def test_windows_of_different_length_count_alike() -> None:
    logits, _ = answer_long(Adder(), ["1 1 1 1 5"], long_texts="windows")
    assert logits.tolist() == [[5, 35]]  # 1 1 1 1 has six ids that sum up to 34, 1 5 four that sum up to 36


def test_truncating_reads_the_beginning() -> None:
    logits, num_long = answer_long(Adder(), TEXTS, long_texts="truncate")
    assert logits.tolist() == [[4, 33], [6, 40], [6, 40]]
    assert num_long == 1


def test_a_long_pair_is_refused_and_a_short_one_is_not() -> None:
    assert answer_long(Adder(), [("1", "2")], long_texts="windows")[0].tolist() == [[5, 53]]
    with pytest.raises(SettingsError, match="a pair cannot be read in windows"):
        answer_long(Adder(), [("1 2 3", "4 5 6")], long_texts="windows")


def test_no_texts_have_no_words() -> None:
    reader = LongTextClassifier(Adder(), long_texts="windows")
    assert len(reader.predict_logits(["1"])) == 1
    assert reader.words() == ""
