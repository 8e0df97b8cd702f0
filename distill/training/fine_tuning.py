"""Making a teacher of a model that was trained on something else: the job of `potstill teacher`.

The steps in order: cut the few shots, load the source, adapt it to unlabelled texts, carry it over as features or as
parameters, then say what it brought and what it forgot. Training and sealing are `distill.training`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import WEIGHTS, Bundle, Lineage, Link
from distill.data import Dataset, Splits, fingerprint
from distill.data.dataset import few_shot, stratified_rows
from distill.errors import SettingsError
from distill.evaluation.metrics import evaluate, macro_f1
from distill.evaluation.temperature import fit_temperature
from distill.labels import Logits
from distill.losses.objective import Objective, fine_tuning_objective
from distill.models.devices import Compute, chosen_device, chosen_mixed_precision, on_device, using_threads
from distill.models.families import set_dropout
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.settings import BUILTIN_MINILM, TeacherSettings
from distill.storage import require_writable
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import require_same_label_names
from distill.training.loop import Examples
from distill.training.sealing import Carried, Finished, accelerator_of, say_truncated, seal, train_and_seal
from distill.training.shared_files import TRANSFER, shared_files
from distill.transfer.adapt import adapt, with_new_vocabulary
from distill.transfer.features import encoder_of, pooled_features
from distill.transfer.guards import leakage_words, near_duplicates, overfitting_words
from distill.transfer.head import choose_head, classifier_of, require_computable
from distill.transfer.parameters import (
    AnchoredObjective,
    LayerRates,
    add_lora,
    divide_logits,
    draw_anew,
    draw_head_anew,
    freeze,
    freeze_body,
)
from distill.transfer_settings import CarrySettings

GAP_TEXTS = 500
"""Training texts that the model is asked again after training, to see over-fitting."""


@dataclass(frozen=True)
class Source:
    """Labelled texts of the task that the model comes from.

    Attributes:
        train: Texts that it has learnt from, for replay and to look for leaks.
        test: Texts that it has not, to see what it forgets.
    """

    train: Dataset
    test: Dataset

    @classmethod
    def of_splits(cls, splits: Splits) -> Source:
        """Take the test texts of the splits, or the validation texts where there are none."""
        return cls(splits.train, splits.test or splits.validation)


def fit_carried(
    model: str = BUILTIN_MINILM,
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    settings: CarrySettings | None = None,
    init: Bundle | None = None,
    source: Source | None = None,
    adapt_texts: Iterable[str] = (),
    reporter: Reporter | None = None,
) -> Bundle:
    """Carry a model over to a task and seal it as a teacher's bundle.

    Args:
        model: A folder, a bundle, a hub id, or `builtin:minilm`; not used with `init`.
        train: Texts to learn from.
        validation: Texts that choose the epoch, or the layer and the strength of the head.
        out: The bundle's folder; an interrupted run goes on from its last checkpoint there.
        settings: Which way, and how.
        init: A bundle to go on from: its encoder is kept, and its head where the label names are the same.
        source: The task that `init` was trained on: to replay, to measure forgetting, and to look for leaked texts.
        adapt_texts: Unlabelled texts of the target domain that the encoder is adapted to first.
        reporter: Told of progress, and of what the guards see.

    Raises:
        SettingsError: Settings that cannot be honoured.
        BundleError: The model cannot be loaded.
        StorageError: `out` cannot be written.
    """
    settings = settings or CarrySettings()
    reporter = reporter or SilentReporter()
    require_writable(Path(out))
    require_same_label_names(train.labels, validation.labels)
    _require_source(settings, init=init, source=source, out=Path(out), labels=train.labels)
    if settings.shots is not None:
        train, validation = few_shot(train, shots=settings.shots, seed=settings.seed)
        reporter.say(f"few-shot: {len(train)} texts to learn from and {len(validation)} to choose the epoch on")
    if source is not None:
        _say(reporter, leakage_words(source.train, validation, near_duplicates(source.train.texts, validation.texts)))
    classifier = _loaded(model, init, train, settings)
    on_device(classifier.model, chosen_device(settings.device))
    compute = chosen_mixed_precision(settings.mixed_precision, classifier.model.device)
    adapted = tuple(adapt_texts)
    if settings.new_vocabulary is not None:
        classifier = with_new_vocabulary(classifier, (*train.texts, *adapted), size=settings.new_vocabulary, seed=settings.seed)
        reporter.say(f"new vocabulary: {classifier.tokenizer.vocabulary_size} tokens; their vectors begin at random")
    if settings.freeze_body:
        freeze_body(classifier.model)
    say_truncated(classifier, train, reporter)
    if adapted:
        adapt(classifier, adapted, settings, compute=compute, reporter=reporter)
    run = _Run(
        classifier=classifier,
        train=train,
        validation=validation,
        out=Path(out),
        settings=settings,
        init=init,
        source=source,
        adapted=fingerprint(adapted) if adapted else None,
        compute=compute,
        reporter=reporter,
    )
    return run.features() if settings.transfer == "features" else run.parameters()


def carried_on(init: Bundle, *, labels: tuple[str, ...], settings: CarrySettings, problem_type: Any) -> TorchClassifier:
    """Load a bundle for another task: its encoder, and its head where the label names are the same, in any order."""
    loaded = load_pretrained(
        str(init.path), labels=labels, max_length=settings.max_length, seed=settings.seed, problem_type=problem_type
    )
    loaded.origin = init.manifest.lineage.base_model
    if init.labels == labels:
        return loaded
    if sorted(init.labels) != sorted(labels):
        draw_head_anew(loaded.model, seed=settings.seed)
        return loaded
    order = [init.labels.index(name) for name in labels]
    prefix = f"{loaded.model.base_model_prefix}."
    weights = loaded.model.state_dict()
    heads = [name for name, tensor in weights.items() if not name.startswith(prefix) and len(tensor) == len(labels)]
    loaded.model.load_state_dict({**weights, **{name: weights[name][order] for name in heads}})
    return loaded


def chain_of(init: Bundle) -> tuple[Link, ...]:
    """Return the links up to and with this bundle, the oldest first."""
    lineage = init.manifest.lineage
    link = Link(
        weights_sha256=init.manifest.files[WEIGHTS].sha256,
        labels=init.labels,
        train_fingerprint=lineage.train_fingerprint,
        seed=lineage.seed,
    )
    return (*lineage.chain, link)


@dataclass(frozen=True)
class _Run:
    """Everything that one carrying over is made of; see `fit_carried`."""

    classifier: TorchClassifier
    train: Dataset
    validation: Dataset
    out: Path
    settings: CarrySettings
    init: Bundle | None
    source: Source | None
    adapted: str | None
    compute: Compute
    reporter: Reporter

    @property
    def chain(self) -> tuple[Link, ...]:
        return () if self.init is None else chain_of(self.init)

    def parameters(self) -> Bundle:
        """Fine-tune the weights that the settings leave free."""
        settings, model = self.settings, self.classifier.model
        set_dropout(model, settings.dropout)
        draw_anew(model, top_layers=settings.reinit_layers, seed=settings.seed)
        freeze(model, below=settings.freeze_below)
        adapter = add_lora(model, settings)
        learnt = self._with_replay()
        objective: Objective = fine_tuning_objective(settings, student=self.classifier, label_ids=learnt.label_ids)
        if settings.anchor:
            objective = AnchoredObjective(objective, encoder_of(model), weight=settings.anchor)

        def finish(trained: TorchClassifier) -> Finished:
            if adapter is not None:
                adapter.merge()
            return self._finished(
                trained,
                on_validation=trained.predict_logits(self.validation.texts),
                on_seen=trained.predict_logits(self.train.texts[self.seen]),
            )

        accelerator = accelerator_of(settings, self.out)
        with shared_files(self.out / TRANSFER, accelerator) as files:
            return train_and_seal(
                self.classifier,
                role="teacher",
                examples=Examples(files.rows("rows", learnt.texts, self.classifier.tokenizer), learnt.label_ids),
                train=learnt,
                validation=self.validation,
                objective=objective,
                settings=settings,
                accelerator=accelerator,
                out=self.out,
                unlabeled=(),
                teachers=(),
                validation_teacher_logits=None,
                reporter=self.reporter,
                carried=Carried(
                    chain=self.chain,
                    adapted_fingerprint=self.adapted,
                    rates=LayerRates(
                        num_layers=getattr(model.config, "num_hidden_layers", 0),
                        decay=settings.layer_decay,
                        gradual=settings.gradual_unfreezing,
                    ),
                    finish=finish,
                ),
            )

    def features(self) -> Bundle:
        """Train a head on pooled states and seal it with the layers it needs."""
        settings = self.settings
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SettingsError("a head on features is trained in seconds, by one process; start it without torchrun")
        require_computable(self.classifier, settings.pooling)
        depth = self.classifier.model.config.num_hidden_layers
        if settings.feature_layer is not None and settings.feature_layer > depth:
            raise SettingsError(f"feature_layer is {settings.feature_layer}, but the model has only {depth} layers")
        with using_threads():
            pooled = [
                pooled_features(self.classifier, part.texts, settings, compute=self.compute, reporter=self.reporter)
                for part in (self.train, self.validation)
            ]
        cached = sum(part.num_cached for part in pooled)
        self.reporter.say(f"features: {cached} of {len(self.train) + len(self.validation)} texts were in the cache")
        chosen = choose_head(
            train=pooled[0].values,
            validation=pooled[1].values,
            train_labels=self.train.label_ids,
            validation_labels=self.validation.label_ids,
            num_labels=len(self.train.labels),
            layers=settings.feature_layer,
            balanced=settings.class_weights == "balanced",
        )
        by_depth = ", ".join(f"{layers}: {score:.4f}" for layers, score in chosen.tried.items())
        self.reporter.say(f"features: validation macro-F1 after so many layers: {by_depth}; {chosen.layers} are kept")
        student = classifier_of(self.classifier, chosen.head, layers=chosen.layers, pooling=settings.pooling)
        student.model.eval()
        # What the head says of the features in the cache is what the student says, to the numbers the encoder computed in.
        on_train, on_validation = (chosen.head.logits(part.after(chosen.layers)) for part in pooled)
        found = self._finished(student, on_validation=on_validation, on_seen=on_train[self.seen])
        lineage = Lineage(
            base_model=student.origin,
            chain=self.chain,
            adapted_fingerprint=self.adapted,
            train_fingerprint=self.train.fingerprint(),
            validation_fingerprint=self.validation.fingerprint(),
            seed=settings.seed,
        )
        bundle = seal(
            student,
            role="teacher",
            lineage=lineage,
            held_out=Examples(student.tokenizer.encode(self.validation.texts), self.validation.label_ids),
            settings=settings.model_copy(update={"feature_layer": chosen.layers}),
            computed={"device": student.model.device.type, "mixed_precision": self.compute},
            out=self.out,
            found=found,
            answers=teacher_logits(student, self.validation.texts, reporter=self.reporter).logits,
        )
        return bundle or Bundle.open(self.out)

    def _with_replay(self) -> Dataset:
        """The training texts, with as many of the source's as the settings ask for."""
        if not self.settings.replay_share or self.source is None:
            return self.train
        count = min(len(self.source.train), round(self.settings.replay_share * len(self.train)))
        rows = stratified_rows(
            self.source.train.label_ids, num_labels=len(self.train.labels), count=count, seed=self.settings.seed
        )
        again = self.source.train.take(rows)
        self.reporter.say(f"replay: {count} texts of {again.source} are learnt too")
        return Dataset(
            texts=(*self.train.texts, *again.texts),
            label_ids=np.concatenate([self.train.label_ids, again.label_ids]),
            labels=self.train.labels,
            source=f"{self.train.source} + {again.source}",
            notes=self.train.notes,
        )

    @property
    def seen(self) -> slice:
        """Training rows that stand for all when over-fitting is looked for."""
        return slice(None, None, 1 + len(self.train) // GAP_TEXTS)

    def _finished(self, trained: TorchClassifier, *, on_validation: Logits, on_seen: Logits) -> Finished:
        """Calibrate, and say what was over-fitted and what was forgotten."""
        temperature = None
        if self.settings.calibrate:
            temperature = fit_temperature(on_validation, self.validation.label_ids)
            divide_logits(trained.model, temperature)
            self.reporter.say(f"calibration: the logits are divided by {temperature:.3f}")
        words = overfitting_words(
            train_labels=self.train.label_ids[self.seen],
            train_logits=on_seen,
            validation_labels=self.validation.label_ids,
            validation_logits=on_validation,
        )
        _say(self.reporter, words)
        return Finished(calibration_temperature=temperature, quality=self._forgetting(trained))

    def _forgetting(self, trained: TorchClassifier) -> dict[str, dict[str, Any]]:
        """Return the quality on the source task before and after; its old head is put on the new encoder."""
        if self.source is None or self.init is None:
            return {}
        test = self.source.test
        before = load_bundle(self.init)
        on_device(before.model, trained.model.device)
        scores = {"source_before": before.predict_logits(test.texts)}
        if before.labels == trained.labels:
            scores["source_after"] = trained.predict_logits(test.texts)
        elif self.settings.transfer == "parameters":
            encoder_of(before.model).load_state_dict(encoder_of(trained.model).state_dict())
            scores["source_after"] = before.predict_logits(test.texts)
        quality = {name: _quality(before, test, logits) for name, logits in scores.items()}
        if "source_after" in scores:
            f1 = {name: macro_f1(test.label_ids, logits) for name, logits in scores.items()}
            self.reporter.say(
                f"the source task: macro-F1 {f1['source_before']:.4f} before, {f1['source_after']:.4f} after, "
                f"on {len(test)} texts of {test.source}"
            )
        return quality


def _quality(classifier: TorchClassifier, test: Dataset, logits: Logits) -> dict[str, Any]:
    found = evaluate(labels=test.label_ids, logits=logits, label_names=classifier.labels, problem_type=classifier.problem_type)
    return {"split": "source test", **asdict(found)}


def _loaded(model: str, init: Bundle | None, train: Dataset, settings: CarrySettings) -> TorchClassifier:
    if init is not None:
        return carried_on(init, labels=train.labels, settings=settings, problem_type=train.problem_type)
    return load_pretrained(
        model, labels=train.labels, max_length=settings.max_length, seed=settings.seed, problem_type=train.problem_type
    )


def _require_source(
    settings: CarrySettings, *, init: Bundle | None, source: Source | None, out: Path, labels: tuple[str, ...]
) -> None:
    if init is not None and out.resolve() == init.path.resolve():
        raise SettingsError(f"the teacher would replace the bundle it goes on from in {out}; name another folder with --out")
    if settings.replay_share and (source is None or source.train.labels != labels):
        have = "there are none" if source is None else f"they have {list(source.train.labels)}"
        raise SettingsError(
            f"replay_share learns from the source's labelled texts, which must have the labels {list(labels)}, and {have}; "
            "name them with --source"
        )
    if source is not None and init is not None and source.test.labels != init.labels:
        raise SettingsError(
            f"the source texts have the labels {list(source.test.labels)}, the bundle to go on from {list(init.labels)}; "
            "name the texts that it was trained on"
        )


def _say(reporter: Reporter, words: str) -> None:
    if words:
        reporter.say(words)


def fit_teacher(
    model: str = BUILTIN_MINILM,
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    settings: TeacherSettings | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Fine-tune a sequence classifier with cross-entropy and seal it as a bundle.

    Args:
        model: A folder, a bundle, a hub id, or `builtin:minilm`.
        train: Texts to learn from.
        validation: Texts that choose the epoch whose weights are kept.
        out: The bundle's folder; an interrupted run goes on from its last checkpoint there.
        settings: Rate, epochs and the like.
        reporter: Told of progress.

    Raises:
        SettingsError: Settings that cannot be honoured.
        BundleError: `model` cannot be loaded.
        StorageError: `out` cannot be written.
    """
    settings = settings or TeacherSettings()
    reporter = reporter or SilentReporter()
    require_writable(Path(out))
    require_same_label_names(train.labels, validation.labels)
    accelerator = accelerator_of(settings, out)
    reporter = reporter if accelerator.is_main_process else SilentReporter()
    teacher = load_pretrained(
        model, labels=train.labels, max_length=settings.max_length, seed=settings.seed, problem_type=train.problem_type
    )
    on_device(teacher.model, accelerator.device)
    set_dropout(teacher.model, settings.dropout)
    say_truncated(teacher, train, reporter)
    with shared_files(Path(out) / TRANSFER, accelerator) as files:
        return train_and_seal(
            teacher,
            role="teacher",
            examples=Examples(files.rows("rows", train.texts, teacher.tokenizer), train.label_ids),
            train=train,
            validation=validation,
            objective=fine_tuning_objective(settings, student=teacher, label_ids=train.label_ids),
            settings=settings,
            accelerator=accelerator,
            out=Path(out),
            unlabeled=(),
            teachers=(),
            validation_teacher_logits=None,
            reporter=reporter,
        )
