"""Choosing a source model: which of several encoders suits a task best, without fine-tuning any of them.

Each candidate's pooled features are computed once and cached; three scores are computed on them. The cross-validated
macro-F1 of a linear probe ranks the candidates; LogME and the H-score are shown beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data import Dataset, limited
from distill.errors import DatasetError
from distill.evaluation.intervals import Bootstrap, macro_f1_interval
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits, task_of_labels
from distill.models.devices import chosen_device, chosen_mixed_precision, on_device, using_threads
from distill.models.loading import load_pretrained
from distill.progress import Reporter, SilentReporter
from distill.teacher_settings import SelectSettings
from distill.transfer.features import Features, pooled_features
from distill.transfer.guards import Suspect, suspect_rows
from distill.transfer.head import fit_head

CURVE_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)
CURVE_DRAWS = 3


@dataclass(frozen=True)
class Ranked:
    """One candidate with its scores.

    Attributes:
        candidate: As it was named.
        layers: Number of layers with the best cross-validated macro-F1.
        expected_macro_f1: Of a linear probe, cross-validated; the layer that answers a fold is chosen without that fold.
        interval: Its 95 % interval over texts.
        log_maximum_evidence: LogME of the features after `layers` layers.
        h_score: H-score of the same features.
        seconds: Time for features and scores.
        num_cached: Texts whose features were in the cache.
        behind: 95 % interval of the best candidate's macro-F1 minus this one's, paired over texts.
    """

    candidate: str
    layers: int
    expected_macro_f1: float
    interval: tuple[float, float]
    log_maximum_evidence: float
    h_score: float
    seconds: float
    num_cached: int
    behind: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Selection:
    """The candidates, the best first, and the recommendation.

    Attributes:
        ranked: Each candidate.
        num_texts: Number of texts that they were ranked on.
        words: The recommendation in a sentence.
        suspects: Rows whose label is probably wrong, if asked for.
        curve: Macro-F1 of the recommended candidate's probe by number of labels, if asked for.
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
        """Return all fields as plain values."""
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
        dataset: Labelled texts of the task; at most `max_texts` of them are used.
        settings: Pooling, folds and the like.
        folder: Of the cached features; None is the user's cache folder.
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
    # On the same texts and the same resamples, so that a difference is not blurred by what all candidates find hard.
    bootstrap = Bootstrap(sample.label_ids, num_labels=len(sample.labels), num_seeds=1, seed=settings.seed)
    decisions = task_of_labels(sample.label_ids).decisions
    figures = [bootstrap.macro_f1(decisions(one.probe.logits)) for one in looked]
    gaps = [(figures[0] - figure).estimate() for figure in figures]
    ranked = tuple(replace(one.ranked, behind=(gap.low, gap.high)) for one, gap in zip(looked, gaps, strict=True))
    return Selection(
        ranked=ranked,
        num_texts=len(sample),
        words=recommendation(ranked, chance=_chance(sample)),
        suspects=tuple(suspect_rows(sample, best.probe.logits, limit=settings.suspects)) if settings.suspects else (),
        curve=_curve(best, sample, settings) if settings.curve else (),
    )


def recommendation(ranked: Sequence[Ranked], *, chance: float) -> str:
    """Return the recommendation as a sentence, with the candidates that cannot be told apart from it.

    Args:
        ranked: Candidates, the best first.
        chance: Macro-F1 of always predicting the most frequent label.
    """
    first = ranked[0]
    low, high = first.interval
    said = (
        f"Take {first.candidate}: expected macro-F1 {first.expected_macro_f1:.3f} ({low:.3f} to {high:.3f}) on frozen features"
    )
    close = [one.candidate for one in ranked[1:] if one.behind[0] <= 0]
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
    layers, probe = nested_probe(
        pooled.values, sample.label_ids, num_labels=num_labels, folds=settings.folds, seed=settings.seed
    )
    features = pooled.after(layers)
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
    reporter.say(f"{candidate}: expected macro-F1 {probe.macro_f1:.4f}, best after {layers} layers")
    return _Looked(ranked, pooled.values, probe)


def _chance(sample: Dataset) -> float:
    counts = np.array(list(sample.counts.values()))
    if sample.label_ids.ndim == 2:
        share = counts / len(sample)
        return float(np.mean(2 * share / (1 + share)))
    share = counts.max() / len(sample)
    return float(2 * share / (1 + share) / len(counts))


def _curve(best: _Looked, sample: Dataset, settings: SelectSettings) -> tuple[tuple[int, float], ...]:
    """Return macro-F1 on a held-out fifth by number of training labels, the mean of three draws."""
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
    """A cross-validated linear probe: it labels only texts that it was not trained on.

    Attributes:
        macro_f1: Over all texts.
        interval: 95 %, over texts.
        logits: Shape (texts, labels).
    """

    macro_f1: float
    interval: tuple[float, float]
    logits: Logits

    @classmethod
    def of_logits(cls, logits: Logits, label_ids: NDArray[np.int64], *, seed: int) -> Probe:
        """Score held-out logits."""
        task = task_of_labels(label_ids)
        true, given = task.indicator(label_ids, logits.shape[1]), task.chosen_labels(logits)
        return cls(macro_f1(label_ids, logits), macro_f1_interval(true, given, seed=seed), logits)


def linear_probe(
    features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> Probe:
    """Cross-validate logistic regression on the features.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        folds: Number of folds, stratified with one label per text.
        seed: Of the folds.

    Raises:
        DatasetError: A label has fewer texts than there are folds.
    """
    logits = np.zeros((len(features), num_labels), dtype=np.float32)
    fold_of = _fold_of(label_ids, num_labels=num_labels, folds=folds, seed=seed)
    for fold in range(folds):
        learnt, held_out = fold_of != fold, fold_of == fold
        head = fit_head(features[learnt], label_ids[learnt], num_labels=num_labels, strength=PROBE_STRENGTH)
        logits[held_out] = head.logits(features[held_out])
    return Probe.of_logits(logits, label_ids, seed=seed)


def nested_probe(
    features: Features, label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> tuple[int, Probe]:
    """Return the number of layers with the best probe, and an estimate of its quality without the bias of that choice.

    The best of several cross-validated scores is too optimistic. So the number of layers that labels a fold is chosen by
    probes that never saw that fold: trained on the others but one, and scored on that one. Choosing by the scores of the
    plain cross-validation on the other folds would not do, because those probes were trained on this fold.

    Args:
        features: Shape (texts, states, width).
        label_ids: As for `linear_probe`, as are the others.
        num_labels: See there.
        folds: See there.
        seed: See there.
    """
    probes = [
        linear_probe(features[:, layers], label_ids, num_labels=num_labels, folds=folds, seed=seed)
        for layers in range(1, features.shape[1])
    ]
    fold_of = _fold_of(label_ids, num_labels=num_labels, folds=folds, seed=seed)
    logits = np.empty_like(probes[0].logits)
    for fold in range(folds):
        held_out, inner = fold_of == fold, fold_of == (fold + 1) % folds
        learnt = ~(held_out | inner) if folds > 2 else inner
        scores = []
        for layers in range(1, features.shape[1]):
            states = features[:, layers]
            head = fit_head(states[learnt], label_ids[learnt], num_labels=num_labels, strength=PROBE_STRENGTH)
            scores.append(macro_f1(label_ids[inner], head.logits(states[inner])))
        logits[held_out] = probes[int(np.argmax(scores))].logits[held_out]
    best = int(np.argmax([probe.macro_f1 for probe in probes]))
    return 1 + best, Probe.of_logits(logits, label_ids, seed=seed)


def _fold_of(label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each text, the same for the same labels and seed, shape (texts,)."""
    from sklearn.model_selection import KFold, StratifiedKFold

    single = label_ids.ndim == 1
    if single and (fewest := int(np.bincount(label_ids, minlength=num_labels).min())) < folds:
        raise DatasetError(
            f"the rarest label has {fewest} texts, and {folds} folds need at least one each; lower --folds, or add texts"
        )
    fold_of = np.empty(len(label_ids), dtype=np.int64)
    dealt = (StratifiedKFold if single else KFold)(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(dealt.split(np.zeros(len(label_ids)), label_ids if single else None)):
        fold_of[held_out] = fold
    return fold_of


def log_maximum_evidence(features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int) -> float:
    """Return LogME: the mean over labels of log p(label | features) / texts of Bayesian linear regression.

    The precisions alpha of the weights and beta of the noise maximise the evidence, by MacKay's fixed point (You et
    al., 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", algorithm 1).

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
    """
    exact = features.astype(np.float64)
    left, singular, _ = np.linalg.svd(exact, full_matrices=False)
    answers = task_of_labels(label_ids).indicator(label_ids, num_labels).astype(np.float64)
    return float(np.mean([_evidence(left, singular, answers[:, label], width=exact.shape[1]) for label in range(num_labels)]))


def _evidence(left: NDArray[np.float64], singular: NDArray[np.float64], answer: NDArray[np.float64], *, width: int) -> float:
    """Return the maximum log evidence of one label, per text, from the singular vectors and values of the features."""
    texts = len(answer)
    squares = singular**2
    along = left.T @ answer  # the part of the answer that the features span
    beside = max(float(answer @ answer - along @ along), 0.0)  # and the part that no weight can reach
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

    The covariance is shrunk as by Ledoit and Wolf, because otherwise few texts of many columns score high by chance (Bao et
    al., 2019; Ibrahim et al., 2022). Where a text may have several labels: the mean over labels, each scored alone.

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
