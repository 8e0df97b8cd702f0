"""Few-shot sampling: a number of texts of each label, a fifth of them for validation, the same for the same seed."""

from __future__ import annotations

import pytest

from distill.data import Splits
from distill.data.dataset import few_shot
from distill.errors import DatasetError


def test_few_shot_draws_the_same_number_of_texts_of_each_label(tiny_splits: Splits) -> None:
    learnt, chosen = few_shot(tiny_splits.train, shots=8, seed=0)
    assert learnt.counts == {"negative": 7, "positive": 7}
    assert chosen.counts == {"negative": 1, "positive": 1}
    assert not set(learnt.texts) & set(chosen.texts)
    assert few_shot(tiny_splits.train, shots=8, seed=0)[0].texts == learnt.texts
    assert few_shot(tiny_splits.train, shots=8, seed=1)[0].texts != learnt.texts
    with pytest.raises(DatasetError, match=r"'negative' has 150 texts.*151.*--shots"):
        few_shot(tiny_splits.train, shots=151, seed=0)
