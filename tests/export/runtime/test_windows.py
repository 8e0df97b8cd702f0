"""Texts longer than a bundle reads, answered by its graph; tests/distill has the mean worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distill.bundle import Bundle
from export.runtime.long_texts import LongTextClassifier, answer_long, long_words
from export.runtime.sessions import OnnxClassifier


@pytest.fixture(scope="module")
def classifier(tiny_student: Bundle) -> OnnxClassifier:
    return OnnxClassifier.open(tiny_student, threads=1)


def long_text(classifier: OnnxClassifier, words: int) -> str:
    return " ".join((["lovely"] * classifier.tokenizer.max_length + ["dull"] * words)[:words])


def test_truncating_is_what_the_runtime_does_alone(classifier: OnnxClassifier) -> None:
    texts = ["lovely", long_text(classifier, 3 * classifier.tokenizer.max_length)]
    logits, num_long = answer_long(classifier, texts, long_texts="truncate")
    assert np.array_equal(logits, classifier.predict_logits(texts))
    assert num_long == 1


def test_a_window_more_moves_a_text_that_goes_on_otherwise(classifier: OnnxClassifier) -> None:
    text = long_text(classifier, 4 * classifier.tokenizer.max_length)  # begins lovely, and is dull for the most part
    cut, _ = answer_long(classifier, [text], long_texts="truncate")
    whole, _ = answer_long(classifier, [text], long_texts="windows")
    dull = classifier.labels.index("negative")
    assert whole[0, dull] > cut[0, dull]


def test_texts_that_fit_keep_their_logits_to_the_bit(classifier: OnnxClassifier) -> None:
    room = classifier.tokenizer.max_length - 2
    texts = ["", "dull film", long_text(classifier, room)]
    logits, num_long = answer_long(classifier, texts, long_texts="windows")
    assert np.array_equal(logits, classifier.predict_logits(texts))
    assert num_long == 0


def test_no_text_depends_on_what_stands_beside_it(classifier: OnnxClassifier) -> None:
    texts = [long_text(classifier, words) for words in range(1, 4 * classifier.tokenizer.max_length, 7)]
    together, num_long = answer_long(classifier, texts, long_texts="windows")
    alone = [answer_long(classifier, [text], long_texts="windows")[0][0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert num_long == sum(len(text.split()) > classifier.tokenizer.max_length - 2 for text in texts)


def test_it_counts_over_calls(classifier: OnnxClassifier) -> None:
    reader = LongTextClassifier(classifier, long_texts="windows")
    assert reader.words() == ""
    for texts in (["lovely", long_text(classifier, 2 * classifier.tokenizer.max_length)], ["dull", "dull"]):
        reader.predict_logits(texts)
    limit = classifier.tokenizer.max_length
    assert reader.words() == f"1 of 4 texts (25.0%) were longer than {limit} tokens and were read in windows"
    assert long_words(1, 8, long_texts="truncate").endswith("than the bundle reads and were cut (see --long-texts)")
