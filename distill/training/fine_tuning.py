"""Fine-tuning a teacher, the job of `potstill teacher`.

`fit_teacher` does every step in order: sample the few shots, load the model, adapt it to unlabelled texts, train its
parameters or a head on its features, calibrate, report overfitting and forgetting, seal.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill.bundle import Bundle
from distill.data import Dataset, fingerprint, limited
from distill.data.dataset import JoinedTexts, few_shot
from distill.errors import DatasetError, SettingsError
from distill.evaluation.metrics import fit_temperature, macro_f1
from distill.labels import Logits
from distill.losses.objective import Objective, fine_tuning_objective
from distill.losses.term import UNLABELLED
from distill.manifest import Lineage
from distill.models.devices import on_device
from distill.models.families import set_dropout
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier, usable_positions
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import TeacherSettings
from distill.teachers.answers import teacher_logits
from distill.teachers.defaults import DataShape, adapted, chosen_words, tries_both_methods
from distill.teachers.remedies import shortcoming
from distill.teachers.teacher import require_same_label_names
from distill.training.checkpoints import Epoch
from distill.training.loop import Examples, Lesson
from distill.training.origin import Origin, chain_of, forgetting, with_replay
from distill.training.pace import say_training
from distill.training.processes import MappedTexts, lengths_of
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
from distill.transfer.head import COMPUTABLE, can_have_head, choose_head, classifier_of, require_computable
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
LENGTHS_OF = 20_000
"""Training texts whose tokens are counted to choose the settings, at most."""
MIN_TOKENS, UNLIMITED = 4, 1_000_000
MOST_TOKENS = 512
"""Most tokens chosen for a model without a table of positions; a longer --max-length can be given."""


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
    settings: TeacherSettings
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
        model: A folder, a bundle, a hub id, `builtin:minilm` or `builtin:mpnet`; not used where `origin` has a bundle.
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
    if sum(count > 0 for count in train.counts.values()) < 2 and train.problem_type == "single_label_classification":
        named = ", ".join(repr(name) for name, count in train.counts.items() if count)
        raise DatasetError(f"{train.source}: all texts have the label {named}; a classifier needs at least two labels")
    _require_possible(settings, origin, out=Path(out), labels=train.labels)
    with training_run(out, settings, reporter) as run:
        task = _task_of(train, validation, settings, origin, run)
        adapt_texts = run.files.texts("adapt", origin.adapt_texts)
        teacher = _loaded(model, task, adapt_texts)
        task, shape = _with_defaults(teacher, task)
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
        both = _can_try_both(teacher, task) and tries_both_methods(settings, shape)
        trained = (_better_of_both if both else _by_its_method)(teacher, task, lineage)
        if found := shortcoming(
            trained.on_validation,
            task.validation,
            train=task.train,
            settings=trained.settings,
            shape=shape,
            other_method=None if both else _other_method(teacher, task),
        ):
            run.reporter.say(f"warning: {found}")
        return _calibrated_and_sealed(trained, task, lineage)


def _require_possible(settings: TeacherSettings, origin: Origin, *, out: Path, labels: tuple[str, ...]) -> None:
    if settings.transfer == "features" and _several_processes():
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


def _several_processes() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _task_of(train: Dataset, validation: Dataset, settings: TeacherSettings, origin: Origin, run: TrainingRun) -> _Task:
    """Cut the few shots, look for leaked texts, and add the replayed ones."""
    if settings.shots is not None:
        train, validation = few_shot(train, shots=settings.shots, seed=settings.seed)
        run.reporter.say(f"few-shot: {len(train)} texts to learn from and {len(validation)} to choose the epoch on")
    learnt = train
    if origin.source is not None:
        if leaked := near_duplicates(origin.source.train.texts, validation.texts):
            run.reporter.say(leakage_words(origin.source.train, validation, leaked))
        learnt = with_replay(train, origin.source, settings, run.reporter)
    return _Task(train, learnt, validation, settings, origin, run)


def _loaded(model: str, task: _Task, adapt_texts: MappedTexts) -> TorchClassifier:
    """Load the model to train, with a new vocabulary if the settings ask for one."""
    # A length that nobody set is chosen later, from the tokens of the texts; every model reads the shortest one.
    chosen = {} if "max_length" in task.settings.model_fields_set else {"max_length": MIN_TOKENS}
    settings, init = task.settings.model_copy(update=chosen), task.origin.init
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
    if settings.new_vocabulary is not None:
        texts = JoinedTexts(task.train.texts, adapt_texts)
        teacher = with_new_vocabulary(teacher, texts, size=settings.new_vocabulary, seed=settings.seed)
        task.run.reporter.say(
            f"new vocabulary: {teacher.tokenizer.vocabulary_size} tokens; the embeddings of new tokens are random"
        )
    if settings.freeze_body:
        freeze_body(teacher.model)
    return teacher


def _with_defaults(teacher: TorchClassifier, task: _Task) -> tuple[_Task, DataShape]:
    """Choose the settings that nobody set from the texts, in tokens of this teacher; return what decided them, too."""
    given, train, reporter = task.settings, task.train, task.run.reporter
    longest = usable_positions(teacher.model.config)
    limit = int(longest) if math.isfinite(longest) else max(MOST_TOKENS, given.max_length)
    unlimited = teacher.tokenizer.with_max_length(UNLIMITED)
    shape = DataShape(
        num_texts=len(task.learnt),
        label_counts=tuple(train.counts.values()),
        token_lengths=lengths_of(unlimited.encode(limited(train, LENGTHS_OF, seed=0).texts)),
        max_length=limit,
        several_labels=train.problem_type == "multi_label_classification",
    )
    settings = adapted(given, shape)
    if settings.max_length != teacher.tokenizer.max_length:
        teacher.tokenizer = teacher.tokenizer.with_max_length(settings.max_length)
    if settings.gradual_unfreezing:
        require_enough_epochs(settings, num_layers=teacher.model.config.num_hidden_layers)
    for line in chosen_words(given, settings, shape):
        reporter.say(line)
    report_truncated(teacher, train, reporter)
    return replace(task, settings=settings, run=replace(task.run, settings=settings)), shape


def _can_try_both(teacher: TorchClassifier, task: _Task) -> bool:
    computable = can_have_head(teacher) and task.settings.pooling in COMPUTABLE
    return computable and task.origin == Origin() and not _several_processes()


def _other_method(teacher: TorchClassifier, task: _Task) -> str:
    """Return the flags of the method that the settings do not ask for."""
    if task.settings.transfer == "features":
        return "--transfer parameters"
    if can_have_head(teacher):
        return "--transfer features"
    instead = "" if task.origin.init is None else " instead of --init"
    return f"--transfer features --model {BUILTIN_MINILM}{instead}"


def _by_its_method(teacher: TorchClassifier, task: _Task, lineage: Lineage) -> _Trained:
    return _train_head(teacher, task) if task.settings.transfer == "features" else _fine_tune(teacher, task, lineage)


def _better_of_both(teacher: TorchClassifier, task: _Task, lineage: Lineage) -> _Trained:
    """Train a head on features, then fine-tune, and return what is better on the validation texts."""
    head = _train_head(teacher, replace(task, settings=task.settings.model_copy(update={"transfer": "features"})))
    tuned = _fine_tune(teacher, task, lineage)
    of_head, of_tuned = (macro_f1(task.validation.label_ids, one.on_validation) for one in (head, tuned))
    kept, name = (head, "features") if of_head > of_tuned else (tuned, "parameters")
    task.run.reporter.say(
        f"{len(task.train):,} texts are few, so both methods were tried: validation macro-F1 {of_head:.4f} with a head on "
        f"features, {of_tuned:.4f} fine-tuned; {name} is kept"
    )
    return kept


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
    views, compute = settings.epochs * len(task.learnt), task.run.accelerator.mixed_precision
    say_training(teacher, task.learnt.texts, title="teacher", views=views, compute=compute, reporter=task.run.reporter)
    history = learn(teacher, lesson, task.run, lineage=lineage)
    if adapters is not None:
        adapters.merge_and_unload()
    return _Trained(
        teacher, teacher.predict_logits(validation.texts), teacher.predict_logits(task.seen.texts), settings, history
    )


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
    return _Trained(classifier, on_validation, on_seen, settings, feature_layer=chosen.layers)


def _calibrated_and_sealed(trained: _Trained, task: _Task, lineage: Lineage) -> Bundle:
    """Calibrate, report overfitting and forgetting, and seal."""
    classifier, settings, validation = trained.classifier, trained.settings, task.validation
    run = replace(task.run, settings=settings)
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
    on_source = forgetting(classifier, task.origin, settings, run.reporter)
    quality = {"pytorch": quality_of(classifier, validation, logits, split="validation"), **on_source}
    if trained.feature_layer is not None:
        run = replace(run, settings=settings.model_copy(update={"feature_layer": trained.feature_layer}))
    outcome = Outcome(quality, history=trained.history, calibration_temperature=temperature)
    return seal(classifier, run, role="teacher", lineage=lineage, outcome=outcome)
