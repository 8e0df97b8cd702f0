"""Choosing a source model: the scores against second implementations, and the ranking of a good and a useless encoder."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import DatasetError
from distill.evaluation.metrics import macro_f1
from distill.teacher_settings import SelectSettings
from distill.transfer.select import Ranked, h_score, linear_probe, log_maximum_evidence, nested_probe, recommendation, select


def made_up(signal: float, texts: int = 200, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.tile([0, 1], texts // 2)
    features = generator.normal(size=(texts, width))
    features[:, 0] += signal * (2 * labels - 1)
    return features.astype(np.float32), labels


def test_log_evidence_is_the_best_of_a_search_over_both_precisions() -> None:
    features, labels = made_up(1.0)
    found = log_maximum_evidence(features, np.eye(2, dtype=bool)[labels])
    exact = features.astype(np.float64)

    def evidence(answer: np.ndarray, alpha: float, beta: float) -> float:
        # Directly: the answers are normal with covariance I / beta + F F' / alpha.
        covariance = np.eye(len(answer)) / beta + exact @ exact.T / alpha
        return float(
            -0.5
            * (
                answer @ np.linalg.solve(covariance, answer)
                + np.linalg.slogdet(covariance)[1]
                + len(answer) * np.log(2 * np.pi)
            )
            / len(answer)
        )

    grid = np.exp(np.linspace(-1, 4, 21))
    searched = np.mean([max(evidence((labels == label).astype(float), a, b) for a in grid for b in grid) for label in (0, 1)])
    assert found == pytest.approx(searched, abs=0.003)
    assert found >= searched - 1e-9  # the fixed point is at least as good as any of the grid


def test_h_score_by_hand_and_by_signal() -> None:
    # One column, so that the score is the share of the variance between the labels: 1 of 1 + 1.
    features = np.array([[-2.0], [0.0], [0.0], [2.0]] * 500, dtype=np.float32)
    labels = np.array([0, 0, 1, 1] * 500)
    assert h_score(features, labels) == pytest.approx(0.5, abs=0.01)
    scores = [h_score(*made_up(signal)) for signal in (0.0, 0.5, 2.0)]
    assert scores == sorted(scores)
    assert scores[0] < 0.1
    assert scores[2] > 0.6


def test_the_probe_answers_only_what_it_has_not_learnt() -> None:
    # Noise of as many columns as texts can be learnt by heart; held-out answers must stay at chance.
    features, labels = made_up(0.0, width=200)
    assert macro_f1(labels, linear_probe(features, labels, num_labels=2, folds=5, seed=0)) < 0.65
    assert macro_f1(labels, linear_probe(*made_up(2.0), num_labels=2, folds=5, seed=0)) > 0.93
    with pytest.raises(DatasetError, match=r"3 texts.*5 folds.*--folds"):
        linear_probe(features[:6], labels[:6], num_labels=2, folds=5, seed=0)


def test_choosing_the_layer_does_not_flatter_the_estimate() -> None:
    # Twelve layers of noise: the best of twelve cross-validated scores is above chance, the nested estimate is not.
    flattered, nested = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        features = generator.normal(size=(60, 13, 8)).astype(np.float32)
        labels = np.tile([0, 1], 30)
        probes = [linear_probe(features[:, layer], labels, num_labels=2, folds=5, seed=0) for layer in range(1, 13)]
        scores = [macro_f1(labels, logits) for logits in probes]
        flattered.append(max(scores))
        layers, logits = nested_probe(features, labels, num_labels=2, folds=5, seed=0)
        assert scores[layers - 1] == flattered[-1]
        nested.append(macro_f1(labels, logits))
    assert np.mean(flattered) > 0.56
    assert abs(np.mean(nested) - 0.5) < 0.05


def test_candidates_are_compared_in_pairs_on_the_same_texts(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    # A candidate that errs on the same texts is never better than itself, however wide its own interval is.
    copy = shutil.copytree(tiny_teacher.path, tmp_path / "copy")
    settings = SelectSettings(max_length=32, max_texts=60)
    selection = select((str(tiny_teacher.path), str(copy)), tiny_splits.train, settings, folder=tmp_path / "features")
    assert [one.behind for one in selection.ranked] == [(0.0, 0.0), (0.0, 0.0)]
    assert str(copy) in selection.words


def test_a_trained_encoder_is_ranked_above_an_untrained_one(
    tiny_model: Path, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    settings = SelectSettings(max_length=32, max_texts=200, curve=True)
    names = (str(tiny_model), str(tiny_teacher.path))
    selection = select(names, tiny_splits.train, settings, folder=tmp_path)
    assert selection.recommended == str(tiny_teacher.path)
    assert selection.num_texts == 200
    best, other = selection.ranked
    assert best.expected_macro_f1 > 0.95
    assert best.interval[0] <= best.expected_macro_f1 <= best.interval[1]
    assert other.interval[0] < other.expected_macro_f1 < other.interval[1]
    assert best.expected_macro_f1 > other.expected_macro_f1
    assert best.log_maximum_evidence > other.log_maximum_evidence
    assert best.h_score > other.h_score
    assert [count for count, _ in selection.curve] == [8, 16, 32, 64, 128]
    again = select(names, tiny_splits.train, settings, folder=tmp_path)
    assert [one.num_cached for one in again.ranked] == [200, 200]
    assert [one.expected_macro_f1 for one in again.ranked] == [one.expected_macro_f1 for one in selection.ranked]


def test_planted_wrong_labels_are_listed(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    train = tiny_splits.train
    labels = train.label_ids.copy()
    planted = (3, 50, 120)
    labels[list(planted)] = 1 - labels[list(planted)]
    wrong: Dataset = replace(train, label_ids=labels)
    settings = SelectSettings(max_length=32, suspects=3)
    selection = select((str(tiny_teacher.path),), wrong, settings, folder=tmp_path)
    assert {one.text for one in selection.suspects} == {train.texts[row] for row in planted}


def ranked(candidate: str, score: float, low: float, high: float, behind: tuple[float, float]) -> Ranked:
    return Ranked(candidate, 3, score, (low, high), 0.0, 0.0, 1.0, 0, behind)


def test_the_recommendation_says_what_cannot_be_told() -> None:
    first, near = ranked("a", 0.80, 0.76, 0.84, (0.0, 0.0)), ranked("b", 0.78, 0.74, 0.82, (-0.01, 0.05))
    # Its own interval reaches the first one's score, and yet it is surely worse on the same texts.
    worse, far = ranked("d", 0.77, 0.73, 0.81, (0.01, 0.05)), ranked("c", 0.5, 0.45, 0.55, (0.2, 0.4))
    words = recommendation([first, near, worse, far], chance=0.33)
    assert re.match(r"\w+ a: .*0\.800 \(0\.760 to 0\.840\)", words)
    assert re.findall(r"\b[bcd]\b", words) == ["b"]
    assert ";" not in recommendation([first, far], chance=0.33)  # no other is named
    assert "0.480" in recommendation([far], chance=0.48)  # the score of the most frequent label
