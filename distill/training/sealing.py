"""What both jobs end with: the training of a classifier, and its sealing as a bundle.

Knows nothing of where the classifier and its examples come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distill.bundle import QUANTIZATION, Bundle, Lineage, Link, Manifest, Role, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.classifier import agreement
from distill.data import Dataset, fingerprint
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.losses.objective import Objective
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.progress import Reporter
from distill.scales import InputScales, KnownScales, scales_text
from distill.settings import DistillSettings, TrainingSettings
from distill.training.checkpoints import Checkpoint, Epoch
from distill.training.loop import Examples, RateShares, whole_rate
from distill.training.loop import train as run_training
from distill.training.processes import logs_of, open_accelerator, wait_for_all
from distill.training.rounding import learned_scales, phase_settings, rounding

CHECKPOINT = ".checkpoint.safetensors"
ROUNDING_CHECKPOINT = ".checkpoint-rounding.safetensors"


@dataclass(frozen=True)
class Finished:
    """What the end of a training found out, for the manifest."""

    calibration_temperature: float | None = None
    quality: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def _nothing(student: TorchClassifier) -> Finished:  # noqa: ARG001
    return Finished()


@dataclass(frozen=True)
class Carried:
    """What transfer learning adds to the training of a classifier.

    Attributes:
        chain: The models that its weights passed through.
        adapted_fingerprint: Of the texts that it was adapted to without labels.
        rates: What share of the learning rate each weight has in each epoch.
        finish: Called with the trained classifier, which it may change, before the bundle is sealed.
        said: Whatever else decides the weights; a checkpoint of another run is known by it.
    """

    chain: tuple[Link, ...] = ()
    adapted_fingerprint: str | None = None
    rates: RateShares = whole_rate
    finish: Callable[[TorchClassifier], Finished] = _nothing
    said: str = ""


def train_and_seal(
    student: TorchClassifier,
    *,
    role: Role,
    examples: Examples,
    train: Dataset,
    validation: Dataset,
    objective: Objective,
    settings: TrainingSettings,
    accelerator: Accelerator,
    out: Path,
    unlabeled: Sequence[str],
    teachers: tuple[str, ...],
    validation_teacher_logits: Logits | None,
    reporter: Reporter,
    carried: Carried | None = None,
) -> Bundle:
    """Train a classifier in place and seal it as a bundle at `out`.

    Args:
        student: Who learns; a teacher being fine-tuned is one too.
        role: What the bundle becomes.
        examples: What is learnt.
        train: Where the examples come from, for the lineage.
        validation: Texts that choose the epoch.
        objective: What a step makes small.
        settings: Rate, epochs and the like.
        accelerator: The processes that share the work.
        out: The bundle's folder, and the checkpoint's.
        unlabeled: Texts learnt from without labels, for the lineage.
        teachers: Who taught, for the lineage.
        validation_teacher_logits: The teacher's answers to the validation texts, to say how often the student agrees.
        reporter: Told of progress.
        carried: What transfer learning adds.
    """
    carried = carried or Carried()
    lineage = Lineage(
        base_model=student.origin,
        chain=carried.chain,
        adapted_fingerprint=carried.adapted_fingerprint,
        teacher_sha256=teachers[0] if teachers else None,
        ensemble=teachers if len(teachers) > 1 else (),
        train_fingerprint=train.fingerprint(),
        validation_fingerprint=validation.fingerprint(),
        unlabeled_fingerprint=fingerprint(unlabeled) if unlabeled else None,
        seed=settings.seed,
    )
    computed = {"device": accelerator.device.type, "mixed_precision": accelerator.mixed_precision}
    held_out = Examples(student.tokenizer.encode(validation.texts), validation.label_ids)
    checkpoints: list[Checkpoint] = []

    def learn(settings: TrainingSettings, *, kept_in: str, title: str) -> tuple[Epoch, ...]:
        checkpoints.append(Checkpoint(out / kept_in, key=_run_key(student, lineage, settings, computed, carried)))
        return run_training(
            student,
            examples=examples,
            validation=held_out,
            objective=objective,
            settings=settings,
            checkpoint=checkpoints[-1],
            reporter=reporter,
            title=title,
            accelerator=accelerator,
            rates=carried.rates,
        )

    epochs = learn(settings, kept_in=CHECKPOINT, title=role)
    scales: dict[str, InputScales] = {}
    if isinstance(settings, DistillSettings) and settings.quantization_aware_epochs:
        with rounding(student, train.texts) as scales:
            further = learn(phase_settings(settings), kept_in=ROUNDING_CHECKPOINT, title=f"{role} with rounding")
        epochs += tuple(replace(epoch, epoch=len(epochs) + epoch.epoch) for epoch in further)
    found = carried.finish(student)
    bundle = seal(
        student,
        role=role,
        lineage=lineage,
        held_out=held_out,
        settings=settings,
        computed=computed,
        out=out if accelerator.is_main_process else None,
        found=found,
        soft=validation_teacher_logits,
        history=epochs,
        scales=learned_scales(scales),
    )
    if bundle is not None:
        for checkpoint in checkpoints:
            checkpoint.remove()
    wait_for_all(accelerator)
    return bundle or Bundle.open(out)


def seal(
    student: TorchClassifier,
    *,
    role: Role,
    lineage: Lineage,
    held_out: Examples,
    settings: TrainingSettings,
    computed: dict[str, str],
    out: Path | None,
    found: Finished,
    answers: Logits | None = None,
    soft: Logits | None = None,
    history: Sequence[Epoch] = (),
    scales: KnownScales | None = None,
) -> Bundle | None:
    """Lay a trained classifier down as a bundle, with its quality on the validation texts.

    Args:
        student: The classifier.
        role: What it becomes.
        lineage: Where it came from.
        held_out: Validation texts.
        settings: What it was trained with.
        computed: Device and numbers.
        out: The folder; None writes nothing, as in all processes of a run but one.
        found: What the end of the training found out.
        answers: The student's own logits of the validation texts, where they are known; None asks it.
        soft: The teacher's answers to the validation texts.
        history: Epochs.
        scales: The scales of its int8 graph's inputs, where it learned with them.
    """
    manifest = Manifest(
        role=role,
        labels=student.labels,
        problem_type=student.problem_type,
        max_length=student.tokenizer.max_length,
        pad_token_id=student.tokenizer.pad_id,
        num_parameters=student.num_parameters(),
        lineage=lineage,
        calibration_temperature=found.calibration_temperature,
        settings={role: _portable(settings, student), "computed": computed},
        quality={"pytorch": _validation_quality(student, held_out, answers, soft), **found.quality},
        history=tuple(epoch.figures() for epoch in history),
        versions=_versions(),
    )
    if out is None:
        return None
    with new_bundle_folder(out) as staged:
        write_model_files(student, staged)
        if scales:
            (staged / QUANTIZATION).write_text(scales_text(scales), encoding="utf-8")
        write_card(seal_new_bundle(out, staged, manifest))
    return Bundle.open(out)


def accelerator_of(settings: TrainingSettings, out: Path | str) -> Accelerator:
    """Return the processes that share a run, with its trackers."""
    return open_accelerator(settings.device, mixed_precision=settings.mixed_precision, track=settings.track, logs=logs_of(out))


def say_truncated(classifier: TorchClassifier, data: Dataset, reporter: Reporter) -> None:
    """Say what share of the training texts is cut."""
    cut = classifier.tokenizer.count_truncated(data.texts)
    if cut:
        limit = classifier.tokenizer.max_length
        reporter.say(
            f"{cut / len(data):.1%} of the training texts are longer than {limit} tokens and are cut; see --max-length"
        )


def _portable(settings: TrainingSettings, student: TorchClassifier) -> dict[str, Any]:
    """The settings as JSON, with the name of a pretrained student instead of its path."""
    said = settings.model_dump(mode="json")
    return {**said, "student": student.origin} if said.get("student") else said


def _validation_quality(
    student: TorchClassifier, held_out: Examples, answers: Logits | None, soft: Logits | None
) -> dict[str, Any]:
    logits = student.logits_of_rows(held_out.rows) if answers is None else answers
    quality = asdict(
        evaluate(labels=held_out.label_ids, logits=logits, label_names=student.labels, problem_type=student.problem_type)
    )
    agreed = {} if soft is None else {"agreement_with_teacher": agreement(logits, soft, student.problem_type)}
    return {"split": "validation", **quality, **agreed}


def _run_key(
    student: TorchClassifier, lineage: Lineage, settings: TrainingSettings, computed: dict[str, str], carried: Carried
) -> str:
    deciding = settings.model_dump(mode="json", exclude={"device", "mixed_precision", "track", "checkpoint_every_s"})
    said = [student.digest(), lineage.model_dump(mode="json"), deciding, computed, carried.said]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("potstill", "torch", "transformers", "tokenizers", "numpy")}
