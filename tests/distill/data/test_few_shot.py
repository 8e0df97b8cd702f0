"""Few labels: so many of each class, a fifth of them held out, the same for the same seed."""

from __future__ import annotations

import pytest

from distill.data import Splits
from distill.data.dataset import few_shot
from distill.errors import DatasetError


def test_few_shot_takes_so_many_of_each_class(tiny_splits: Splits) -> None:
    learnt, chosen = few_shot(tiny_splits.train, shots=8, seed=0)
    assert learnt.counts == {"negative": 7, "positive": 7}
    assert chosen.counts == {"negative": 1, "positive": 1}
    assert not set(learnt.texts) & set(chosen.texts)
    assert few_shot(tiny_splits.train, shots=8, seed=0)[0].texts == learnt.texts
    assert few_shot(tiny_splits.train, shots=8, seed=1)[0].texts != learnt.texts
    with pytest.raises(DatasetError, match="label 'negative' has 150 texts, 151 are wanted; lower --shots"):
        few_shot(tiny_splits.train, shots=151, seed=0)
