"""Variants of the int8 graph: changes computed by hand, and each variant on a real graph."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scenarios.int8 import WAYS, changes, int8_figures, int8_table, run_int8_ways
from distill.bundle import Bundle
from distill.data import Splits
from distill.progress import SilentReporter


def test_changes_by_hand() -> None:
    # probabilities 3/4 and 1/4 become 1/2 and 1/2 (another label: the first of equals), then 1/4 and 3/4 stay
    exact = np.log(np.array([[0.25, 0.75], [0.25, 0.75]], dtype=np.float32))
    found = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], dtype=np.float32))
    assert changes(exact, found, "single_label_classification") == {
        "labels_changed": 1,
        "probability_change_mean": pytest.approx(0.125),  # of 0.25 and 0
    }


def test_fixed_scales_give_a_text_its_own_answer_in_every_form(tiny_student: Bundle, tiny_splits: Splits) -> None:
    rows = run_int8_ways(
        tiny_student,
        texts=tiny_splits.train.texts[:60],
        calibration=tiny_splits.validation.texts,
        reporter=SilentReporter(),
    )
    assert [row["name"] for row in rows] == [way.name for way in WAYS]
    by_name = {row["name"]: row for row in rows}
    assert by_name[WAYS[0].name]["probability_change_by_batch"] > 2e-5  # one scale for whatever is in the batch
    assert all(row["probability_change_by_batch"] < 2e-6 for row in rows[1:])
    assert all(0 < row["probability_change_mean"] < 0.1 for row in rows)
    sizes = {name: by_name[name]["graph_bytes"] for name in by_name}
    assert sizes["alpha 0.8, 4-bit embeddings"] < sizes["fixed, balanced with alpha 0.8"] < sizes["alpha 0.8, fp32 embeddings"]
    figures = int8_figures({"rows": rows})
    assert len(figures) == 4 * len(rows)
    assert figures["alpha_0_8__fp32_embeddings_labels_changed"] == by_name["alpha 0.8, fp32 embeddings"]["labels_changed"]
    lines = int8_table({"rows": rows}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:10]] == [f"| {way.name}" for way in WAYS]
    assert lines[-1].startswith("60 training and validation texts of the movie task")
