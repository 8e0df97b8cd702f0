"""Wrong labels that were planted are found; without them none is suspected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill.data import Dataset
from distill.errors import SettingsError
from distill.evaluation.suspects import suspect_rows


def test_planted_wrong_labels_are_suspected_first() -> None:
    pytest.importorskip("cleanlab")
    generator = np.random.default_rng(0)
    true = np.tile([0, 1], 60)
    # A good model: 3 nats on the true side, give or take.
    logits = np.where(np.eye(2)[true] > 0, 1.5, -1.5).astype(np.float32) + generator.normal(0, 0.3, (120, 2)).astype(np.float32)
    planted = [5, 40, 77]
    labels = true.copy()
    labels[planted] = 1 - labels[planted]
    data = Dataset(tuple(f"text {row}" for row in range(120)), labels, ("bad", "good"), "made up")
    found = suspect_rows(data, logits, limit=10)
    # It lists as many as it reckons there are, and may reckon one too few; what it lists is planted.
    assert {one.row for one in found} <= set(planted)
    assert len(found) >= 2
    first = found[0]
    assert (first.label, first.likely) in {("bad", "good"), ("good", "bad")}
    assert first.confidence < 0.2
    assert suspect_rows(replace(data, label_ids=true), logits, limit=10) == []
    several = replace(data, label_ids=np.eye(2, dtype=np.int64)[labels])
    with pytest.raises(SettingsError, match="leave out --suspects"):
        suspect_rows(several, logits, limit=1)
