"""A stream of texts without repeats and without the texts of other sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data import Dataset, fold, texts_not_in
from distill.data import dataset as dataset_module

TEXTS = st.lists(st.text(alphabet="aAbß ", max_size=4), max_size=40)


@given(known=TEXTS, texts=TEXTS)
def test_each_new_text_is_yielded_once_in_order(known: list[str], texts: list[str]) -> None:
    folds = {fold(text) for text in known}
    expected = []
    for text in texts:
        if fold(text) not in folds:
            folds.add(fold(text))
            expected.append(text)
    other = Dataset(tuple(known), np.zeros(len(known), dtype=np.int64), ("x",), "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_module, "_CHUNK_TEXTS", 3)
        assert list(texts_not_in(iter(texts), [other])) == expected


def test_a_stream_is_read_no_more_than_a_chunk_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_CHUNK_TEXTS", 4)

    def endless() -> Iterator[str]:
        number = 0
        while True:
            yield str(number)
            number += 1

    stream = texts_not_in(endless(), [])
    assert [next(stream) for _ in range(10)] == [str(number) for number in range(10)]
