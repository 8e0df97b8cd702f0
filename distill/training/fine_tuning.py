"""Fine-tuning a teacher, the job of `potstill teacher`.

`fit_teacher` does every step in order: sample the few shots, load the model, adapt it to unlabelled texts, train its
parameters or a head on its features, calibrate, report overfitting and forgetting, seal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import WEIGHTS, Bundle, Lineage, Link
from distill.data import Dataset, Splits, fingerprint
from distill.data.dataset import JoinedTexts, few_shot, stratified_rows
from distill.errors import SettingsError
from distill.evaluation.metrics import fit_temperature
from distill.labels import Logits
from distill.losses.objective import Objective, fine_tuning_objective
from distill.losses.term import UNLABELLED
from distill.models.devices import on_device
from distill.models.families import set_dropout
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import TeacherSettings
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import require_same_label_names
from distill.texts import TextInput
from distill.training.checkpoints import Epoch
from distill.training.loop import Examples, Lesson
from distill.training.processes import MappedTexts
from distill.training.sealing import (
    ADAPTING_CHECKPOINT,
    Outcome,
    TrainingRun,
    learn,
    quality_of,
    report_truncated,
    seal,
    training_run,
)
from distill.transfer.adapt import MaskedWords, with_new_vocabulary
from distill.transfer.features import encoder_of, pooled_features
from distill.transfer.guards import leakage_words, near_duplicates, overfitting_words
from distill.transfer.head import choose_head, classifier_of, require_computable
from distill.transfer.parameters import (
    AnchoredObjective,
    LayerRates,
    add_lora,
    divide_logits,
    freeze,
    freeze_body,
    reinitialize_top,
    require_enough_epochs,
    start_from,
)

GAP_TEXTS = 500
"""Size of the sample of training texts that overfitting is measured on, at least; all of them if there are fewer."""


@dataclass(frozen=True)
class SourceTask:
    """Labelled texts of the task that a model was trained on before.

    Attributes:
        train: Texts it was trained on, for replay and to detect leaks.
        test: Texts it was not trained on, to measure forgetting.
    """

    train: Dataset
    test: Dataset

    @classmethod
    def of_splits(cls, splits: Splits) -> SourceTask:
        """Return the training and test texts of the splits; the validation texts where there are no test texts."""
        return cls(splits.train, splits.test or splits.validation)


@dataclass(frozen=True)
class Origin:
    """What a teacher starts from, besides a pretrained model.

    Attributes:
        init: A bundle to start from instead: its encoder is kept, and its head if the label names are the same.
        source: The task that `init` was trained on, for replay, to measure forgetting, and to detect leaked texts.
        adapt_texts: Unlabelled texts of the target domain that the encoder is adapted to first; read once.
    """

    init: Bundle | None = None
    source: SourceTask | None = None
    adapt_texts: Iterable[TextInput] = ()


@dataclass(frozen=True)
class _Task:
    """What the steps of one fine-tuning share.

    Attributes:
        train: Training texts of the task.
        learnt: The same, with the replayed texts of the source task.
        validation: Texts that choose the epoch, or the head.
        settings: What is trained, and how.
        origin: What the teacher starts from.
        run: Where it is trained.
    """

    train: Dataset
    learnt: Dataset
    validation: Dataset
    settings: TeacherSettings
    origin: Origin
    run: TrainingRun

    @property
    def seen(self) -> Dataset:
        """The sample of training texts that overfitting is measured on."""
        return self.train.take(range(0, len(self.train), 1 + len(self.train) // GAP_TEXTS))


@dataclass(frozen=True)
class _Trained:
    """A trained classifier with its logits of the validation texts and of the seen texts."""

    classifier: TorchClassifier
    on_validation: Logits
    on_seen: Logits
    history: tuple[Epoch, ...] = ()
    feature_layer: int | None = None


def fit_teacher(
    model: str = BUILTIN_MINILM,
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    settings: TeacherSettings | None = None,
    origin: Origin | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Fine-tune a sequence classifier and seal it as a teacher's bundle.

    Args:
        model: A folder, a bundle, a hub id, or `builtin:minilm`; not used where `origin` has a bundle.
        train: Texts to learn from.
        validation: Texts that choose the best epoch, or the layer and the regularisation of the head.
        out: The bundle's folder; an interrupted run resumes from its last checkpoint there.
        settings: What is trained, and how.
        origin: A bundle to start from, its source task, and texts to adapt to.
        reporter: Told of progress and warnings.

    Raises:
        SettingsError: Settings that cannot be honoured.
        BundleError: The model cannot be loaded.
        StorageError: `out` cannot be written.
    """
    settings, origin = settings or TeacherSettings(), origin or Origin()
    require_same_label_names(train.labels, validation.labels)
    _require_possible(settings, origin, out=Path(out), labels=train.labels)
    with training_run(out, settings, reporter) as run:
        task = _task_of(train, validation, settings, origin, run)
        adapt_texts = run.files.texts("adapt", origin.adapt_texts)
        teacher = _loaded(model, task, adapt_texts)
        lineage = Lineage(
            base_model=teacher.origin,
            chain=() if origin.init is None else chain_of(origin.init),
            adapted_fingerprint=fingerprint(adapt_texts) if len(adapt_texts) else None,
            train_fingerprint=task.learnt.fingerprint(),
            validation_fingerprint=task.validation.fingerprint(),
            seed=settings.seed,
        )
        if len(adapt_texts):
            _adapt(teacher, adapt_texts, task, lineage)
        by_features = settings.transfer == "features"
        trained = _train_head(teacher, task) if by_features else _fine_tune(teacher, task, lineage)
        return _calibrated_and_sealed(trained, task, lineage)


def chain_of(init: Bundle) -> tuple[Link, ...]:
    """Return the links up to and including this bundle, the oldest first."""
    lineage, weights = init.manifest.lineage, init.manifest.files[WEIGHTS]
    link = Link(
        weights_sha256=weights.sha256, labels=init.labels, train_fingerprint=lineage.train_fingerprint, seed=lineage.seed
    )
    return (*lineage.chain, link)


def _require_possible(settings: TeacherSettings, origin: Origin, *, out: Path, labels: tuple[str, ...]) -> None:
    if settings.transfer == "features" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("a head on features is trained in seconds by one process; start it without torchrun")
    init, source = origin.init, origin.source
    if init is not None and out.resolve() == init.path.resolve():
        raise SettingsError(f"the teacher would replace the bundle it starts from in {out}; name another folder with --out")
    if settings.replay_share and (source is None or source.train.labels != labels):
        have = "there are none" if source is None else f"they have {list(source.train.labels)}"
        raise SettingsError(
            f"replay_share learns from the source's labelled texts, which must have the labels {list(labels)}, and {have}; "
            "name them with --source"
        )
    if source is not None and init is not None and source.test.labels != init.labels:
        raise SettingsError(
            f"the source texts have the labels {list(source.test.labels)}, the bundle to start from {list(init.labels)}; "
            "name the texts that it was trained on"
        )


def _task_of(train: Dataset, validation: Dataset, settings: TeacherSettings, origin: Origin, run: TrainingRun) -> _Task:
    """Cut the few shots, look for leaked texts, and add the replayed ones."""
    if settings.shots is not None:
        train, validation = few_shot(train, shots=settings.shots, seed=settings.seed)
        run.reporter.say(f"few-shot: {len(train)} texts to learn from and {len(validation)} to choose the epoch on")
    learnt = train
    if origin.source is not None:
        if leaked := near_duplicates(origin.source.train.texts, validation.texts):
            run.reporter.say(leakage_words(origin.source.train, validation, leaked))
        learnt = _with_replay(train, origin.source, settings, run.reporter)
    return _Task(train, learnt, validation, settings, origin, run)


def _loaded(model: str, task: _Task, adapt_texts: MappedTexts) -> TorchClassifier:
    """Load the model to train, with a new vocabulary if the settings ask for one."""
    settings, init = task.settings, task.origin.init
    labels, problem_type = task.train.labels, task.train.problem_type
    if init is not None:
        teacher = start_from(init, labels=labels, settings=settings, problem_type=problem_type)
    else:
        teacher = load_pretrained(
            model, labels=labels, max_length=settings.max_length, seed=settings.seed, problem_type=problem_type
        )
    if task.train.is_pairs:
        teacher = teacher.reading_pairs()
    on_device(teacher.model, task.run.accelerator.device)
    if settings.gradual_unfreezing:
        require_enough_epochs(settings, num_layers=teacher.model.config.num_hidden_layers)
    if settings.new_vocabulary is not None:
        texts = JoinedTexts(task.train.texts, adapt_texts)
        teacher = with_new_vocabulary(teacher, texts, size=settings.new_vocabulary, seed=settings.seed)
        task.run.reporter.say(
            f"new vocabulary: {teacher.tokenizer.vocabulary_size} tokens; the embeddings of new tokens are random"
        )
    if settings.freeze_body:
        freeze_body(teacher.model)
    report_truncated(teacher, task.train, task.run.reporter)
    return teacher


def _with_replay(train: Dataset, source: SourceTask, settings: TeacherSettings, reporter: Reporter) -> Dataset:
    """Return the training texts with the share of the source's texts that the settings ask for."""
    if not settings.replay_share:
        return train
    count = min(len(source.train), round(settings.replay_share * len(train)))
    rows = stratified_rows(source.train.label_ids, count=count, seed=settings.seed)
    again = source.train.take(rows)
    reporter.say(f"replay: {count} texts of {again.source} are added to the training texts")
    return Dataset(
        texts=(*train.texts, *again.texts),
        label_ids=np.concatenate([train.label_ids, again.label_ids]),
        labels=train.labels,
        source=f"{train.source} + {again.source}",
        notes=train.notes,
    )


def _adapt(teacher: TorchClassifier, texts: MappedTexts, task: _Task, lineage: Lineage) -> None:
    """Train the encoder in place by masked-language modelling on unlabelled texts."""
    settings, run = task.settings, task.run
    rows = run.files.rows("adapt_rows", texts, teacher.tokenizer)
    if rows.lengths.max() <= 2:  # only the special tokens
        raise SettingsError("the --adapt texts contain no word to adapt to; name others with --adapt FILE")
    lesson = Lesson(
        title="adapting",
        examples=Examples(rows, np.full(len(rows), UNLABELLED)),
        validation=None,
        objective=MaskedWords(teacher, mask_share=settings.adapt_mask_share),
        settings=settings.model_copy(update={"learning_rate": settings.adapt_learning_rate, "epochs": settings.adapt_epochs}),
    )
    epochs = learn(teacher, lesson, run, lineage=lineage, checkpoint=ADAPTING_CHECKPOINT)
    run.reporter.say(
        f"adapting: the loss per masked word is {epochs[0].loss:.2f} nats in the first epoch, {epochs[-1].loss:.2f} in the last"
    )


def _fine_tune(teacher: TorchClassifier, task: _Task, lineage: Lineage) -> _Trained:
    """Train the parameters that the settings do not freeze."""
    settings, validation, model = task.settings, task.validation, teacher.model
    set_dropout(model, settings.dropout)
    reinitialize_top(model, layers=settings.reinit_layers, seed=settings.seed)
    freeze(model, below=settings.freeze_below)
    adapters = add_lora(model, settings)
    objective: Objective = fine_tuning_objective(settings, student=teacher, label_ids=task.learnt.label_ids)
    if settings.anchor:
        objective = AnchoredObjective(objective, encoder_of(model), weight=settings.anchor)
    lesson = Lesson(
        title="teacher",
        examples=Examples(task.run.files.rows("rows", task.learnt.texts, teacher.tokenizer), task.learnt.label_ids),
        validation=Examples(teacher.tokenizer.encode(validation.texts), validation.label_ids),
        objective=objective,
        settings=settings,
        rates=LayerRates(
            num_layers=getattr(model.config, "num_hidden_layers", 0),
            decay=settings.layer_decay,
            gradual=settings.gradual_unfreezing,
        ),
    )
    history = learn(teacher, lesson, task.run, lineage=lineage)
    if adapters is not None:
        adapters.merge_and_unload()
    return _Trained(teacher, teacher.predict_logits(validation.texts), teacher.predict_logits(task.seen.texts), history)


def _train_head(teacher: TorchClassifier, task: _Task) -> _Trained:
    """Train a head on pooled hidden states, and return it on top of the layers that it needs."""
    settings, train, validation, reporter = task.settings, task.train, task.validation, task.run.reporter
    require_computable(teacher, settings.pooling)
    depth = teacher.model.config.num_hidden_layers
    if settings.feature_layer is not None and settings.feature_layer > depth:
        raise SettingsError(f"feature_layer is {settings.feature_layer}, but the model has only {depth} layers")
    compute = task.run.accelerator.mixed_precision
    learnt, held_out = (
        pooled_features(teacher, part.texts, settings, compute=compute, reporter=reporter) for part in (train, validation)
    )
    num_cached = learnt.num_cached + held_out.num_cached
    reporter.say(f"features: {num_cached} of {len(train) + len(validation)} texts were in the cache")
    chosen = choose_head(
        train=learnt.values,
        validation=held_out.values,
        train_labels=train.label_ids,
        validation_labels=validation.label_ids,
        num_labels=len(train.labels),
        layers=settings.feature_layer,
        balanced=settings.class_weights == "balanced",
    )
    by_depth = ", ".join(f"{layers}: {score:.4f}" for layers, score in chosen.tried.items())
    reporter.say(f"features: validation macro-F1 by number of layers: {by_depth}; {chosen.layers} are kept")
    classifier = classifier_of(teacher, chosen.head, layers=chosen.layers, pooling=settings.pooling)
    classifier.model.eval()
    on_validation = teacher_logits(classifier, validation.texts, reporter=reporter).logits
    # The head's logits of the cached features are those of the classifier, up to the dtype of the encoder's computation.
    on_seen = chosen.head.logits(learnt.values[:: 1 + len(train) // GAP_TEXTS, chosen.layers])
    return _Trained(classifier, on_validation, on_seen, feature_layer=chosen.layers)


def _calibrated_and_sealed(trained: _Trained, task: _Task, lineage: Lineage) -> Bundle:
    """Calibrate, report overfitting and forgetting, and seal."""
    classifier, settings, validation, run = trained.classifier, task.settings, task.validation, task.run
    logits, temperature = trained.on_validation, None
    if settings.calibrate:
        temperature = fit_temperature(logits, validation.label_ids)
        divide_logits(classifier.model, temperature)
        logits = logits / np.float32(temperature)
        run.reporter.say(f"calibration: the logits are divided by {temperature:.3f}")
    if warning := overfitting_words(
        train_labels=task.seen.label_ids,
        train_logits=trained.on_seen,
        validation_labels=validation.label_ids,
        validation_logits=logits,
    ):
        run.reporter.say(warning)
    quality = {"pytorch": quality_of(classifier, validation, logits, split="validation"), **_forgetting(classifier, task)}
    if trained.feature_layer is not None:
        run = replace(run, settings=settings.model_copy(update={"feature_layer": trained.feature_layer}))
    outcome = Outcome(quality, history=trained.history, calibration_temperature=temperature)
    return seal(classifier, run, role="teacher", lineage=lineage, outcome=outcome)


def _forgetting(trained: TorchClassifier, task: _Task) -> dict[str, dict[str, Any]]:
    """Return the quality on the source task before and after; the old head is put on the new encoder."""
    source, init = task.origin.source, task.origin.init
    if source is None or init is None:
        return {}
    before = load_bundle(init)
    on_device(before.model, trained.model.device)
    logits = {"source_before": before.predict_logits(source.test.texts)}
    if before.labels == trained.labels:
        logits["source_after"] = trained.predict_logits(source.test.texts)
    elif task.settings.transfer == "parameters":
        encoder_of(before.model).load_state_dict(encoder_of(trained.model).state_dict())
        logits["source_after"] = before.predict_logits(source.test.texts)
    quality = {name: quality_of(before, source.test, found, split="source test") for name, found in logits.items()}
    scores = [f"{found['macro_f1']:.4f}" for found in quality.values()]
    if len(scores) == 2:
        texts = f"{len(source.test)} texts of {source.test.source}"
        task.run.reporter.say(f"source task: macro-F1 {scores[0]} before, {scores[1]} after, on {texts}")
    return quality
