"""The start and end of every training: open a run, train with checkpoints, and seal the result as a bundle.

It does not know where the classifier and its lesson come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distill.bundle import QUANTIZATION, Bundle, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.classifier import agreement
from distill.data import Dataset
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.manifest import Lineage, Manifest, Role
from distill.models.devices import using_threads
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.progress import Reporter, SilentReporter
from distill.scales import KnownScales, scales_text
from distill.settings import TrainingSettings
from distill.storage import require_writable
from distill.training.checkpoints import Checkpoint, Epoch
from distill.training.loop import Lesson
from distill.training.loop import train as run_training
from distill.training.processes import TRANSFER, SharedFiles, open_accelerator, shared_files, wait_for_all

CHECKPOINT = ".checkpoint.safetensors"
ROUNDING_CHECKPOINT = ".checkpoint-rounding.safetensors"
ADAPTING_CHECKPOINT = ".checkpoint-adapting.safetensors"


@dataclass(frozen=True)
class TrainingRun:
    """Where a training writes, computes and reports.

    Attributes:
        out: The bundle's folder, which also holds the checkpoints.
        settings: Settings of the training.
        accelerator: The processes that share the work.
        files: Files that the processes share, deleted at the end of the run.
        reporter: Told of progress; silent in all processes except the first.
    """

    out: Path
    settings: TrainingSettings
    accelerator: Accelerator
    files: SharedFiles
    reporter: Reporter

    @property
    def computed(self) -> dict[str, str]:
        """Device and dtype, as the manifest records them."""
        return {"device": self.accelerator.device.type, "mixed_precision": self.accelerator.mixed_precision}


@contextmanager
def training_run(out: Path | str, settings: TrainingSettings, reporter: Reporter | None) -> Iterator[TrainingRun]:
    """Open a run for the length of a `with` block.

    Raises:
        SettingsError: The device is missing, or does not support the precision.
        StorageError: `out` cannot be written.
        ClusterError: The processes do not see the same folder.
    """
    out = Path(out)
    require_writable(out)
    folder = out.resolve()  # "." has no name of its own
    with (
        open_accelerator(
            settings.device,
            mixed_precision=settings.mixed_precision,
            track=settings.track,
            logs=folder.with_name(f"{folder.name}-logs"),  # beside the bundle, which holds only its own files
        ) as accelerator,
        using_threads(),
        shared_files(out / TRANSFER, accelerator) as files,
    ):
        told = reporter if reporter is not None and accelerator.is_main_process else SilentReporter()
        yield TrainingRun(out, settings, accelerator, files, told)


def learn(
    classifier: TorchClassifier,
    lesson: Lesson,
    run: TrainingRun,
    *,
    lineage: Lineage,
    checkpoint: str = CHECKPOINT,
    identity: str = "",
) -> tuple[Epoch, ...]:
    """Train a classifier in place, and return the figures of each epoch.

    Args:
        classifier: The model to train.
        lesson: What it learns.
        run: Where it is trained.
        lineage: Where model and data come from.
        checkpoint: Name of the checkpoint file.
        identity: Anything else that decides the weights. Only a run with the same initial weights, lineage, settings and
            identity resumes from a checkpoint.
    """
    deciding = lesson.settings.model_dump(mode="json", exclude={"device", "mixed_precision", "track", "checkpoint_every_s"})
    decided_by = [classifier.digest(), lineage.model_dump(mode="json"), deciding, run.computed, identity]
    key = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return run_training(
        classifier,
        lesson,
        checkpoint=Checkpoint(run.out / checkpoint, key=key, reporter=run.reporter),
        reporter=run.reporter,
        accelerator=run.accelerator,
    )


@dataclass(frozen=True)
class Outcome:
    """The results of a training that the manifest keeps.

    Attributes:
        quality: Figures by name: `pytorch` on the validation texts, and others.
        history: The epochs.
        calibration_temperature: The temperature that the logits were divided by, if any.
        scales: Activation scales of the int8 graph, if the student was trained with them.
    """

    quality: Mapping[str, dict[str, Any]]
    history: tuple[Epoch, ...] = ()
    calibration_temperature: float | None = None
    scales: KnownScales = field(default_factory=dict)


def seal(classifier: TorchClassifier, run: TrainingRun, *, role: Role, lineage: Lineage, outcome: Outcome) -> Bundle:
    """Write a trained classifier to the run's folder as a bundle, and delete the run's checkpoints.

    Args:
        classifier: The model.
        run: The run that trained it; only its first process writes.
        role: Teacher or student.
        lineage: Where model and data come from.
        outcome: The results of the training.
    """
    settings = run.settings.model_dump(mode="json")
    if settings.get("student"):
        settings["student"] = classifier.origin  # the name of a pretrained student instead of its path
    if run.accelerator.is_main_process:
        manifest = Manifest(
            role=role,
            labels=classifier.labels,
            problem_type=classifier.problem_type,
            max_length=classifier.tokenizer.max_length,
            pad_token_id=classifier.tokenizer.pad_id,
            pairs=classifier.tokenizer.pairs,
            num_parameters=classifier.num_parameters(),
            lineage=lineage,
            calibration_temperature=outcome.calibration_temperature,
            settings={role: settings, "computed": run.computed},
            quality=dict(outcome.quality),
            history=tuple(epoch.figures() for epoch in outcome.history),
            versions={name: version(name) for name in ("potstill", "torch", "transformers", "tokenizers", "numpy")},
        )
        with new_bundle_folder(run.out) as staged:
            write_model_files(classifier, staged)
            if outcome.scales:
                (staged / QUANTIZATION).write_text(scales_text(outcome.scales), encoding="utf-8")
            write_card(seal_new_bundle(run.out, staged, manifest))
        for name in (CHECKPOINT, ROUNDING_CHECKPOINT, ADAPTING_CHECKPOINT):
            Checkpoint(run.out / name, key="").remove()
    wait_for_all(run.accelerator)
    return Bundle.open(run.out)


def quality_of(
    classifier: TorchClassifier, data: Dataset, logits: Logits, *, split: str, teacher_logits: Logits | None = None
) -> dict[str, Any]:
    """Return the quality of these logits as the manifest keeps it, with the agreement with a teacher's logits."""
    task = classifier.problem_type
    found = evaluate(labels=data.label_ids, logits=logits, label_names=classifier.labels, problem_type=task)
    agreed = {} if teacher_logits is None else {"agreement_with_teacher": agreement(logits, teacher_logits, task)}
    return {"split": split, **asdict(found), **agreed}


def report_truncated(classifier: TorchClassifier, data: Dataset, reporter: Reporter) -> None:
    """Report the share of the training texts that is truncated."""
    if truncated := classifier.tokenizer.count_truncated(data.texts):
        reporter.say(
            f"{truncated / len(data):.1%} of the training texts are longer than {classifier.tokenizer.max_length} tokens and "
            "are truncated; see --max-length"
        )
