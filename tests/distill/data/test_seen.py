"""A stream of texts is freed of repeats in 8 bytes a text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data import SeenTexts, fold
from distill.data import dataset as seen

TEXTS = st.lists(st.text(alphabet="aAbß ", max_size=4), max_size=40)


@given(before=TEXTS, texts=TEXTS)
def test_each_new_text_is_given_once_in_order(before: list[str], texts: list[str]) -> None:
    known = {fold(text) for text in before}
    expected = []
    for text in texts:
        if fold(text) not in known:
            known.add(fold(text))
            expected.append(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "_CHUNK_TEXTS", 3)
        remembered = SeenTexts(before)
        assert list(remembered.fresh(iter(texts))) == expected
    assert len(remembered) == len(known)
    assert all(text in remembered for text in (*before, *texts))
    assert "another" not in remembered


def test_a_stream_is_read_no_more_than_a_chunk_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_CHUNK_TEXTS", 4)

    def endless() -> Iterator[str]:
        number = 0
        while True:
            yield str(number)
            number += 1

    stream = SeenTexts().fresh(endless())
    assert [next(stream) for _ in range(10)] == [str(number) for number in range(10)]
