"""Choosing a source model: which of several encoders will serve a task best, said without fine-tuning any of them.

Each candidate's pooled features are computed once and kept in the cache; three scores are taken on them. The linear probe
decides, because its figure is one that people know; LogME and the H-score stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data import Dataset, limited
from distill.errors import DatasetError
from distill.evaluation.intervals import macro_f1_interval
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits, indicator, task_of_labels
from distill.models.devices import chosen_device, chosen_mixed_precision, on_device, using_threads
from distill.models.loading import load_pretrained
from distill.progress import Reporter, SilentReporter
from distill.transfer.features import Features, pooled_features
from distill.transfer.guards import Suspect, suspect_rows
from distill.transfer.head import fit_head
from distill.transfer_settings import SelectSettings

CURVE_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)
CURVE_DRAWS = 3


@dataclass(frozen=True)
class Ranked:
    """One candidate and what its features promise.

    Attributes:
        candidate: As it was named.
        layers: Layers after which its features serve best.
        expected_macro_f1: Of a linear probe on them, cross-validated.
        interval: Its 95 % interval over texts.
        log_maximum_evidence: LogME of the same features.
        h_score: See `scores`.
        seconds: Features and scores.
        num_cached: Texts whose features were in the cache.
    """

    candidate: str
    layers: int
    expected_macro_f1: float
    interval: tuple[float, float]
    log_maximum_evidence: float
    h_score: float
    seconds: float
    num_cached: int


@dataclass(frozen=True)
class Selection:
    """The candidates, the best first, and what is recommended.

    Attributes:
        ranked: Each candidate.
        num_texts: Texts they were ranked on.
        words: The recommendation in a sentence.
        suspects: Rows whose label is probably wrong, where they were asked for.
        curve: Macro-F1 of the recommended candidate's probe by the number of labels, where it was asked for.
    """

    ranked: tuple[Ranked, ...]
    num_texts: int
    words: str
    suspects: tuple[Suspect, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def recommended(self) -> str:
        """The first candidate."""
        return self.ranked[0].candidate

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {"recommended": self.recommended, **asdict(self)}


@dataclass(frozen=True)
class _Looked:
    ranked: Ranked
    features: Features
    probe: Probe


def select(
    candidates: Sequence[str],
    dataset: Dataset,
    settings: SelectSettings | None = None,
    *,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> Selection:
    """Rank encoders for a task.

    Args:
        candidates: Folders, bundles, hub ids, or `builtin:minilm`; one or more.
        dataset: Labelled texts of the task; at most `max_texts` of them are looked at.
        settings: Pooling, folds and the like.
        folder: Where the cached features stand; None is the user's cache folder.
        reporter: Told of progress.

    Raises:
        BundleError: A candidate cannot be loaded.
        DatasetError: A label is too rare to be cross-validated.
    """
    settings = settings or SelectSettings()
    reporter = reporter or SilentReporter()
    sample = limited(dataset, settings.max_texts, seed=settings.seed)
    looked = [_look_at(candidate, sample, settings, folder, reporter) for candidate in candidates]
    looked.sort(key=lambda one: -one.ranked.expected_macro_f1)
    best = looked[0]
    ranked = tuple(one.ranked for one in looked)
    return Selection(
        ranked=ranked,
        num_texts=len(sample),
        words=recommendation(ranked, chance=_chance(sample)),
        suspects=tuple(suspect_rows(sample, best.probe.logits, limit=settings.suspects)) if settings.suspects else (),
        curve=_curve(best, sample, settings) if settings.curve else (),
    )


def recommendation(ranked: Sequence[Ranked], *, chance: float) -> str:
    """Return the recommendation in words, with what cannot be told apart from it.

    Args:
        ranked: Candidates, the best first.
        chance: Macro-F1 of always giving the commonest label.
    """
    first = ranked[0]
    low, high = first.interval
    said = (
        f"Take {first.candidate}: expected macro-F1 {first.expected_macro_f1:.3f} ({low:.3f} to {high:.3f}) on frozen features"
    )
    close = [one.candidate for one in ranked[1:] if one.interval[1] >= first.expected_macro_f1]
    if low <= chance:
        said += f", which is not surely above always giving the commonest label ({chance:.3f}): expect little of any of them"
    elif close:
        said += f"; {', '.join(close)} may be as good: take the smaller, or fine-tune both"
    return f"{said}. Fine-tuning usually adds some hundredths."


def _look_at(candidate: str, sample: Dataset, settings: SelectSettings, folder: Path | None, reporter: Reporter) -> _Looked:
    started = time.perf_counter()
    classifier = load_pretrained(
        candidate, labels=sample.labels, max_length=settings.max_length, seed=0, problem_type=sample.problem_type
    )
    on_device(classifier.model, chosen_device(settings.device))
    compute = chosen_mixed_precision(settings.mixed_precision, classifier.model.device)
    with using_threads(), torch.random.fork_rng(devices=[]):
        pooled = pooled_features(classifier, sample.texts, settings, compute=compute, folder=folder, reporter=reporter)
    num_labels = len(sample.labels)
    probes = {
        layers: linear_probe(
            pooled.after(layers), sample.label_ids, num_labels=num_labels, folds=settings.folds, seed=settings.seed
        )
        for layers in range(1, pooled.values.shape[1])
    }
    layers = max(probes, key=lambda layers: probes[layers].macro_f1)
    features, probe = pooled.after(layers), probes[layers]
    ranked = Ranked(
        candidate=candidate,
        layers=layers,
        expected_macro_f1=probe.macro_f1,
        interval=probe.interval,
        log_maximum_evidence=log_maximum_evidence(features, sample.label_ids, num_labels=num_labels),
        h_score=h_score(features, sample.label_ids, num_labels=num_labels),
        seconds=time.perf_counter() - started,
        num_cached=pooled.num_cached,
    )
    reporter.say(f"{candidate}: expected macro-F1 {probe.macro_f1:.4f} after {layers} layers")
    return _Looked(ranked, pooled.values, probe)


def _chance(sample: Dataset) -> float:
    counts = np.array(list(sample.counts.values()))
    if sample.label_ids.ndim == 2:
        share = counts / len(sample)
        return float(np.mean(2 * share / (1 + share)))
    share = counts.max() / len(sample)
    return float(2 * share / (1 + share) / len(counts))


def _curve(best: _Looked, sample: Dataset, settings: SelectSettings) -> tuple[tuple[int, float], ...]:
    """Macro-F1 on a held-out fifth against the number of labels learnt from, the mean of three draws."""
    features = best.features[:, best.ranked.layers]
    held_out = len(sample) // 5
    steps = [count for count in CURVE_STEPS if count <= len(sample) - held_out]
    points = []
    for count in steps:
        scores = []
        for draw in range(CURVE_DRAWS):
            order = np.random.default_rng([settings.seed, draw]).permutation(len(sample))
            tested, learnt = order[:held_out], order[held_out : held_out + count]
            if sample.label_ids.ndim == 1 and len(np.unique(sample.label_ids[learnt])) < 2:
                continue
            head = fit_head(features[learnt], sample.label_ids[learnt], num_labels=len(sample.labels), strength=PROBE_STRENGTH)
            scores.append(macro_f1(sample.label_ids[tested], head.logits(features[tested])))
        if scores:
            points.append((count, float(np.mean(scores))))
    return tuple(points)


PROBE_STRENGTH = 0.01
_LOGME_STEPS = 100


@dataclass(frozen=True)
class Probe:
    """A linear probe that never answered a text it had learnt from.

    Attributes:
        macro_f1: Over all texts, each answered by the fold that lacked it.
        interval: 95 %, over texts.
        logits: Shape (texts, labels).
    """

    macro_f1: float
    interval: tuple[float, float]
    logits: Logits


def linear_probe(
    features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> Probe:
    """Cross-validate logistic regression on the features.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        folds: Parts; with one label a text each label stands in each in proportion.
        seed: Deals the texts out.

    Raises:
        DatasetError: A label has fewer texts than there are folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if label_ids.ndim == 1 and (fewest := int(np.bincount(label_ids, minlength=num_labels).min())) < folds:
        raise DatasetError(f"a label has {fewest} texts, and {folds} folds want one each; lower --folds, or add texts")
    kind = StratifiedKFold if label_ids.ndim == 1 else KFold
    logits = np.zeros((len(features), num_labels), dtype=np.float32)
    dealt = kind(folds, shuffle=True, random_state=seed)
    for learnt, held_out in dealt.split(features, label_ids if label_ids.ndim == 1 else None):
        head = fit_head(features[learnt], label_ids[learnt], num_labels=num_labels, strength=PROBE_STRENGTH)
        logits[held_out] = head.logits(features[held_out])
    true, given = indicator(label_ids, num_labels), task_of_labels(label_ids).chosen_labels(logits)
    return Probe(macro_f1(label_ids, logits), macro_f1_interval(true, given, seed=seed), logits)


def log_maximum_evidence(features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int) -> float:
    """Return LogME: the mean over labels of log p(label | features) / texts of Bayesian linear regression.

    The precisions alpha of the weights and beta of the noise are those that make the evidence largest, by MacKay's fixed
    point (You et al., 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", algorithm 1).

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
    """
    exact = features.astype(np.float64)
    left, singular, _ = np.linalg.svd(exact, full_matrices=False)
    answers = indicator(label_ids, num_labels).astype(np.float64)
    return float(np.mean([_evidence(left, singular, answers[:, label], width=exact.shape[1]) for label in range(num_labels)]))


def _evidence(left: NDArray[np.float64], singular: NDArray[np.float64], answer: NDArray[np.float64], *, width: int) -> float:
    """The largest log evidence of one label, per text, from the singular vectors and values of the features."""
    texts = len(answer)
    squares = singular**2
    along = left.T @ answer  # the answer in the directions of the features
    beside = max(float(answer @ answer - along @ along), 0.0)  # and what no weight can reach
    alpha = beta = 1.0
    for _ in range(_LOGME_STEPS):
        effective = float((beta * squares / (alpha + beta * squares)).sum())
        weights = beta * singular * along / (alpha + beta * squares)
        norm = float(weights @ weights)
        residual = float(((along - singular * weights) ** 2).sum()) + beside
        updated = effective / max(norm, 1e-12), (texts - effective) / max(residual, 1e-12)
        settled = abs(updated[0] / updated[1] - alpha / beta) < 1e-6 * alpha / beta
        alpha, beta = updated
        if settled:
            break
    weights = beta * singular * along / (alpha + beta * squares)
    residual = float(((along - singular * weights) ** 2).sum()) + beside
    determinant = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * np.log(alpha)
    evidence = (
        width * np.log(alpha)
        + texts * np.log(beta)
        - texts * np.log(2 * np.pi)
        - beta * residual
        - alpha * float(weights @ weights)
        - determinant
    ) / 2
    return float(evidence / texts)


def h_score(features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int) -> float:
    """Return the H-score: tr(cov(features)^-1 · cov(mean features of the label)), from 0 to the number of labels less one.

    With the covariance shrunk by Ledoit and Wolf's share, without which few texts of many columns score high by chance
    (Bao et al., 2019; Ibrahim et al., 2022). Where a text may have several labels, the mean over the labels, each alone.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
    """
    from sklearn.covariance import ledoit_wolf

    if label_ids.ndim == 2:
        alone = [h_score(features, label_ids[:, label], num_labels=2) for label in range(num_labels)]
        return float(np.mean(alone))
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    shrunk, share = ledoit_wolf(centred, assume_centered=True)
    between = np.zeros_like(shrunk)
    for label in range(num_labels):
        chosen = centred[label_ids == label]
        if len(chosen):
            mean = chosen.mean(axis=0)
            between += len(chosen) / len(centred) * np.outer(mean, mean)
    return float((1 - share) * np.trace(np.linalg.solve(shrunk, between)))
