"""Rank pretrained encoders for a task without fine-tuning them.

The pooled features of each candidate are computed once and cached. The cross-validated macro-F1 of a linear probe on them
ranks the candidates; LogME and the H-score are reported beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data import Dataset, limited
from distill.errors import DatasetError
from distill.evaluation.intervals import Bootstrap, macro_f1_interval
from distill.evaluation.metrics import macro_f1
from distill.evaluation.suspects import Suspect, suspect_rows
from distill.labels import Logits, task_of_labels
from distill.models.devices import chosen_device, chosen_mixed_precision, on_device, using_threads
from distill.models.loading import load_pretrained
from distill.progress import Reporter, SilentReporter
from distill.teacher_settings import SelectSettings
from distill.transfer.features import Features, pooled_features
from distill.transfer.head import fit_heads

CURVE_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)
CURVE_DRAWS = 3

PROBE_STRENGTH = 0.01
"""Inverse regularisation strength of the linear probes."""


@dataclass(frozen=True)
class Ranked:
    """One candidate with its scores.

    Attributes:
        candidate: The folder, bundle or hub id.
        layers: Number of layers with the best cross-validated macro-F1.
        expected_macro_f1: Cross-validated macro-F1 of a linear probe; the layer for a fold is chosen without that fold.
        interval: 95 % interval of `expected_macro_f1` over texts.
        log_maximum_evidence: LogME of the features after `layers` layers.
        h_score: H-score of the same features.
        seconds: Time to compute features and scores.
        num_cached: Number of texts whose features were in the cache.
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
    """The candidates, best first, and the recommendation.

    Attributes:
        ranked: The candidates.
        num_texts: Number of texts that they were ranked on.
        words: The recommendation in words.
        suspects: Rows whose label is probably wrong, if requested.
        curve: Macro-F1 of the recommended candidate's probe by number of labels, if requested.
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
        candidates: Folders, bundles, hub ids, `builtin:minilm` or `builtin:mpnet`; one or more.
        dataset: Labelled texts of the task; at most `max_texts` of them are used.
        settings: Pooling, folds and the like.
        folder: Folder of the cached features; None is the user's cache folder.
        reporter: Receives progress.

    Raises:
        BundleError: A candidate cannot be loaded.
        DatasetError: A label is too rare for cross-validation.
    """
    settings = settings or SelectSettings()
    reporter = reporter or SilentReporter()
    sample = limited(dataset, settings.max_texts, seed=settings.seed)
    scored = [_scored(candidate, sample, settings, folder, reporter) for candidate in candidates]
    scored.sort(key=lambda one: -one[0].expected_macro_f1)
    best, features, best_logits = scored[0]
    # The same texts and resamples for all candidates, so that a difference is not blurred by texts that all find hard.
    bootstrap = Bootstrap(sample.label_ids, num_labels=len(sample.labels), num_seeds=1, seed=settings.seed)
    decisions = task_of_labels(sample.label_ids).decisions
    figures = [bootstrap.macro_f1(decisions(logits)) for _, _, logits in scored]
    gaps = [(figures[0] - figure).estimate() for figure in figures]
    ranked = tuple(replace(one, behind=(gap.low, gap.high)) for (one, *_), gap in zip(scored, gaps, strict=True))
    # As logits, the counts predict the most frequent label; with several labels per text, all of them.
    always = np.tile(np.array(list(sample.counts.values()), dtype=np.float32), (len(sample), 1))
    return Selection(
        ranked=ranked,
        num_texts=len(sample),
        words=recommendation(ranked, chance=macro_f1(sample.label_ids, always)),
        suspects=tuple(suspect_rows(sample, best_logits, limit=settings.suspects)) if settings.suspects else (),
        curve=_curve(features[:, best.layers], sample, seed=settings.seed) if settings.curve else (),
    )


def recommendation(ranked: Sequence[Ranked], *, chance: float) -> str:
    """Return the recommendation in words, with the candidates that may be just as good.

    Args:
        ranked: Candidates, best first.
        chance: Macro-F1 of always predicting the most frequent label.
    """
    first = ranked[0]
    low, high = first.interval
    words = (
        f"Use {first.candidate}: expected macro-F1 {first.expected_macro_f1:.3f} ({low:.3f} to {high:.3f}) on frozen features"
    )
    close = [one.candidate for one in ranked[1:] if one.behind[0] <= 0]
    if low <= chance:
        words += f", not significantly above always predicting the most frequent label ({chance:.3f}): expect little of any"
    elif close:
        words += f"; {', '.join(close)} may be as good: use the smaller one, or fine-tune both"
    return f"{words}. Fine-tuning usually adds a few hundredths."


def _scored(
    candidate: str, sample: Dataset, settings: SelectSettings, folder: Path | None, reporter: Reporter
) -> tuple[Ranked, Features, Logits]:
    """Return a candidate's scores, its features and the cross-validated logits of its probe."""
    started = time.perf_counter()
    classifier = load_pretrained(
        candidate, labels=sample.labels, max_length=settings.max_length, seed=0, problem_type=sample.problem_type
    )
    on_device(classifier.model, chosen_device(settings.device))
    compute = chosen_mixed_precision(settings.mixed_precision, classifier.model.device)
    with using_threads(), torch.random.fork_rng(devices=[]):
        pooled = pooled_features(classifier, sample.texts, settings, compute=compute, folder=folder, reporter=reporter)
    num_labels, task = len(sample.labels), task_of_labels(sample.label_ids)
    layers, logits = nested_probe(
        pooled.values, sample.label_ids, num_labels=num_labels, folds=settings.folds, seed=settings.seed
    )
    true, given = task.indicator(sample.label_ids, num_labels), task.chosen_labels(logits)
    ranked = Ranked(
        candidate=candidate,
        layers=layers,
        expected_macro_f1=macro_f1(sample.label_ids, logits),
        interval=macro_f1_interval(true, given, seed=settings.seed),
        log_maximum_evidence=log_maximum_evidence(pooled.values[:, layers], true),
        h_score=h_score(pooled.values[:, layers], sample.label_ids),
        seconds=time.perf_counter() - started,
        num_cached=pooled.num_cached,
    )
    reporter.say(f"{candidate}: expected macro-F1 {ranked.expected_macro_f1:.4f}, best after {layers} layers")
    return ranked, pooled.values, logits


def _curve(features: NDArray[np.float32], sample: Dataset, *, seed: int) -> tuple[tuple[int, float], ...]:
    """Return macro-F1 on a held-out fifth by number of training labels, averaged over three draws."""
    held_out, ids = len(sample) // 5, sample.label_ids
    scores: dict[int, list[float]] = {}
    for count, draw in product(CURVE_STEPS, range(CURVE_DRAWS)):
        order = np.random.default_rng([seed, draw]).permutation(len(sample))
        tested, learnt = order[:held_out], order[held_out : held_out + count]
        if len(learnt) == count and (ids.ndim == 2 or len(np.unique(ids[learnt])) > 1):
            logits = _probe_logits(features, ids, learnt, tested, num_labels=len(sample.labels))
            scores.setdefault(count, []).append(macro_f1(ids[tested], logits))
    return tuple((count, float(np.mean(found))) for count, found in scores.items())


def _probe_logits(
    features: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    learnt: NDArray[Any],
    tested: NDArray[Any],
    *,
    num_labels: int,
) -> Logits:
    """Train a linear probe on some rows and return its logits of others; rows are chosen by index or mask."""
    (head,) = fit_heads(features[learnt], label_ids[learnt], num_labels=num_labels, strengths=(PROBE_STRENGTH,))
    return head.logits(features[tested])


def linear_probe(
    features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> Logits:
    """Cross-validate logistic regression on the features: return the logits of each text by a probe not trained on it.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        folds: Number of folds, stratified with one label per text.
        seed: Seed of the folds.

    Raises:
        DatasetError: A label has fewer texts than there are folds.
    """
    logits = np.zeros((len(features), num_labels), dtype=np.float32)
    fold_of = _fold_of(label_ids, num_labels=num_labels, folds=folds, seed=seed)
    for fold in range(folds):
        held_out = fold_of == fold
        logits[held_out] = _probe_logits(features, label_ids, ~held_out, held_out, num_labels=num_labels)
    return logits


def nested_probe(
    features: Features, label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> tuple[int, Logits]:
    """Return the number of layers with the best probe, and held-out logits without the bias of that choice.

    The best of several cross-validated scores is too optimistic. So the number of layers for a fold is chosen by probes that
    never saw that fold: they are trained on all other folds but one, and scored on that one. The scores of the plain
    cross-validation on the other folds would not do, because those probes were trained on this fold.

    Args:
        features: Shape (texts, states, width).
        label_ids: See `linear_probe`, also for the other arguments.
        num_labels: Number of labels.
        folds: Number of folds.
        seed: Seed of the folds.
    """
    by_layers = [features[:, layers] for layers in range(1, features.shape[1])]
    probes = [linear_probe(one, label_ids, num_labels=num_labels, folds=folds, seed=seed) for one in by_layers]
    fold_of = _fold_of(label_ids, num_labels=num_labels, folds=folds, seed=seed)
    logits = np.empty_like(probes[0])
    for fold in range(folds):
        held_out, inner = fold_of == fold, fold_of == (fold + 1) % folds
        learnt = ~(held_out | inner) if folds > 2 else inner
        tried = [_probe_logits(one, label_ids, learnt, inner, num_labels=num_labels) for one in by_layers]
        chosen = int(np.argmax([macro_f1(label_ids[inner], one) for one in tried]))
        logits[held_out] = probes[chosen][held_out]
    return 1 + int(np.argmax([macro_f1(label_ids, probe) for probe in probes])), logits


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


def log_maximum_evidence(features: NDArray[np.float32], true: NDArray[np.bool_]) -> float:
    """Return LogME: the mean over labels of log p(label | features) / texts of Bayesian linear regression.

    The precisions of the weights and of the noise maximise the evidence (You et al., 2021, "LogME: Practical Assessment of
    Pre-trained Models for Transfer Learning").

    Args:
        features: Shape (texts, width).
        true: Which labels each text has, shape (texts, labels).
    """
    from sklearn.linear_model import BayesianRidge

    # Nearly flat priors: zeros would divide by zero for a label without a text.
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 1e-12)
    model = BayesianRidge(fit_intercept=False, compute_score=True, tol=1e-6, **flat)
    exact = features.astype(np.float64)
    return float(np.mean([model.fit(exact, has.astype(np.float64)).scores_[-1] for has in true.T]) / len(true))


def h_score(features: NDArray[np.float32], label_ids: NDArray[np.int64]) -> float:
    """Return the H-score: tr(cov(features)^-1 · cov(mean features of the label)), from 0 to the number of labels minus 1.

    The covariance is shrunk by the method of Ledoit and Wolf; otherwise a few texts with many columns score high by chance
    (Bao et al., 2019; Ibrahim et al., 2022). With several labels per text: the mean over labels, each scored alone.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
    """
    from sklearn.covariance import ledoit_wolf

    if label_ids.ndim == 2:
        return float(np.mean([h_score(features, has) for has in label_ids.T]))
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    shrunk, share = ledoit_wolf(centred, assume_centered=True)
    labels, counts = np.unique(label_ids, return_counts=True)
    means = np.stack([centred[label_ids == label].mean(axis=0) for label in labels])
    between = (means.T * counts / len(centred)) @ means
    return float((1 - share) * np.trace(np.linalg.solve(shrunk, between)))
