"""The training loop, with its optimizer and schedule; fine-tuning, adapting and distilling differ in their `Lesson`.

It trains on token ids and leaves the best weights in the model. It does not know bundles.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from distill.batching import Indices, training_batches
from distill.errors import GateError
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits
from distill.losses.objective import Objective, TrainingBatch
from distill.models.devices import quick_attention, using_threads
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Advance, Reporter
from distill.settings import TrainingSettings
from distill.training.checkpoints import Checkpoint, Epoch, Learner, Progress
from distill.training.processes import lengths_of, mean_figures, own_share, shared_logits, sum_gradients

RateShares = Callable[[str, int], float]
"""From a parameter's name and an epoch, counted from 0, to the parameter's share of the learning rate."""


@dataclass(frozen=True)
class Examples:
    """Tokenized texts with their targets.

    Attributes:
        rows: Token ids of each text.
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels); `UNLABELLED` where there is no label.
        teacher_logits: Shape (texts, labels); None without distillation.
        weights: Weight of each text in the loss, shape (texts,); None means 1 each.
    """

    rows: Sequence[NDArray[np.int64]]
    label_ids: NDArray[np.int64]
    teacher_logits: Logits | None = None
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Lesson:
    """What one training run learns, and how. Fine-tuning, adapting, distilling and its control are four lessons.

    Attributes:
        title: Heading of the progress bar and of the trackers.
        examples: Training texts with their targets.
        validation: Texts that choose the best epoch by macro-F1; None keeps the last epoch.
        objective: The loss that a step minimises.
        settings: Learning rate, epochs, batch size, seed.
        rates: The share of the learning rate that each parameter gets in each epoch; None means 1.
    """

    title: str
    examples: Examples
    validation: Examples | None
    objective: Objective
    settings: TrainingSettings
    rates: RateShares | None = None


def adamw(
    *modules: nn.Module, learning_rate: float, weight_decay: float, rates: RateShares | None = None, epochs: int = 1
) -> torch.optim.AdamW:
    """Return AdamW over all trainable parameters of the modules, without decay on biases, norms and embeddings.

    Decay would pull the vectors of tokens that no text contains towards 0. The `shares` of each parameter group are its
    shares of the learning rate, one per epoch.
    """
    members: defaultdict[tuple[bool, tuple[float, ...]], list[nn.Parameter]] = defaultdict(list)
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                shares = tuple(rates(name, epoch) if rates else 1.0 for epoch in range(epochs))
                members[parameter.ndim < 2 or "embeddings" in name, shares].append(parameter)
    # In the order of earlier versions, decayed parameters first: a checkpoint numbers Adam's moments by it.
    groups = [
        {"params": parameters, "weight_decay": 0.0 if undecayed else weight_decay, "shares": shares}
        for (undecayed, shares), parameters in sorted(members.items(), key=lambda group: group[0][0])
    ]
    # fused: one pass over the parameters instead of a dozen; unfused, the embedding table takes a third of a step.
    fused = {parameter.device.type for parameters in members.values() for parameter in parameters} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def rate_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak rate at a step, from 0: rising to 1 during warmup, then falling to 0 after the last step."""
    warmup = round(warmup_share * total_steps)
    return (step + 1) / warmup if step < warmup else (total_steps - step) / max(1, total_steps - warmup)


PROJECT = "potstill"
TRACK_EVERY_STEPS = 10


def train(
    student: TorchClassifier, lesson: Lesson, *, checkpoint: Checkpoint, reporter: Reporter, accelerator: Accelerator
) -> tuple[Epoch, ...]:
    """Train the model in place and leave it with its best weights.

    Threads, random state and attention kernel are restored afterwards.

    Args:
        student: The model to train; a teacher being fine-tuned too.
        lesson: What it learns.
        checkpoint: Where the state is saved, so that an interrupted run resumes.
        reporter: Told of each step.
        accelerator: The processes that share the work.

    Returns:
        The figures of each epoch.

    Raises:
        GateError: The loss is not finite.
    """
    settings, model = lesson.settings, student.model
    optimizer = adamw(
        model,
        lesson.objective,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        rates=lesson.rates,
        epochs=settings.epochs,
    )
    learner = Learner(model, lesson.objective, optimizer)
    progress = checkpoint.restore(learner)
    run = _Run(student, lesson, checkpoint, reporter, accelerator, learner, progress)
    with (
        using_threads(),
        torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []),
        quick_attention(model, compute=accelerator.mixed_precision, longest=int(run.lengths.max())),
        _tracked(accelerator, lesson),
        reporter.task(lesson.title, run.total_steps) as advance,
    ):
        if progress.step:
            partial = f" and {progress.partial.steps} steps" if progress.partial.steps else ""
            reporter.say(f"{lesson.title}: resuming after epoch {len(progress.epochs)}{partial}")
            advance(progress.step)
        while len(progress.epochs) < settings.epochs and progress.epochs_without_gain < settings.patience:
            _learn_epoch(run, advance)
            _close_epoch(run)
    model.load_state_dict(progress.best_weights)
    model.eval()
    return tuple(progress.epochs)


@dataclass(frozen=True)
class _Run:
    """What the parts of one training share; see `train`."""

    student: TorchClassifier
    lesson: Lesson
    checkpoint: Checkpoint
    reporter: Reporter
    accelerator: Accelerator
    learner: Learner
    progress: Progress

    @property
    def lengths(self) -> NDArray[np.int64]:
        return lengths_of(self.lesson.examples.rows)

    @property
    def total_steps(self) -> int:
        return self.lesson.settings.epochs * math.ceil(len(self.lesson.examples.rows) / self.lesson.settings.batch_size)

    def save(self) -> None:
        if self.accelerator.is_main_process:  # all processes have the same state
            self.checkpoint.save(self.learner, self.progress)

    def require_finite(self, *values: float | Logits) -> None:
        if not all(np.isfinite(value).all() for value in values):
            rate = self.lesson.settings.learning_rate
            raise GateError(f"{self.lesson.title}: the loss is not finite; lower the learning rate (it is {rate})")


@contextmanager
def _tracked(accelerator: Accelerator, lesson: Lesson) -> Iterator[None]:
    """Open the trackers the accelerator was made with and close them after the block.

    Inside the block `accelerator.log` writes to them, from the first process only.
    """
    if accelerator.log_with:
        values = lesson.settings.model_dump(mode="json")
        config = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
        accelerator.init_trackers(f"{PROJECT}-{lesson.title}", config=config)
    try:
        yield
    finally:
        # Not `end_training`: it also ends the process group, which is needed to seal the bundle.
        for tracker in accelerator.trackers:
            tracker.finish()


def _learn_epoch(run: _Run, advance: Advance) -> None:
    """Take the remaining steps of an epoch, saving a checkpoint every `checkpoint_every_s`."""
    settings, progress, partial = run.lesson.settings, run.progress, run.progress.partial
    epoch = len(progress.epochs)
    # The rate is that of this run: an interrupted one may have been slower, or have waited.
    earlier_texts, earlier_s = partial.texts, partial.seconds
    started = time.perf_counter() - earlier_s
    saved = time.monotonic()
    best = {} if progress.best is None or progress.best.macro_f1 is None else {"F1": progress.best.macro_f1}
    run.student.model.train()
    # The batches depend on the seed and the epoch alone, so a resumed run draws the same.
    generator = np.random.default_rng([settings.seed, epoch])
    for batch in training_batches(run.lengths, batch_size=settings.batch_size, generator=generator)[partial.steps :]:
        factor = rate_factor(progress.step, total_steps=run.total_steps, warmup_share=settings.warmup_share)
        rate = settings.learning_rate * factor
        for group in run.learner.optimizer.param_groups:
            group["lr"] = rate * group["shares"][epoch]
        # Seeded by the number of the step, so that no random state has to survive a kill.
        seed = np.random.SeedSequence([settings.seed, progress.step, run.accelerator.process_index]).generate_state(1)
        torch.manual_seed(int(seed[0]))
        figures = _step(run, batch)
        loss, count = figures.pop("loss"), figures.pop("count", None)
        run.require_finite(loss)
        progress.step += 1
        partial.add(texts=len(batch), loss=loss, terms=figures, count=count)
        partial.seconds = time.perf_counter() - started
        if time.monotonic() - saved >= settings.checkpoint_every_s:
            run.save()
            saved = time.monotonic()
        if progress.step % TRACK_EVERY_STEPS == 0:
            run.accelerator.log({"loss": loss, **figures, "learning_rate": rate}, step=progress.step)
        texts_per_second = (partial.texts - earlier_texts) / (partial.seconds - earlier_s)
        advance(1, loss=loss, **figures, **best, **{"texts/s": round(texts_per_second)})


def _step(run: _Run, batch: Indices) -> dict[str, float]:
    """Update the weights with one batch, and return the loss and its terms, as means over the batch."""
    learner = run.learner
    learner.optimizer.zero_grad(set_to_none=True)
    parameters = [*learner.model.parameters(), *learner.objective.parameters()]
    if run.accelerator.num_processes == 1:
        figures = _gradients(run, batch, share=1.0)
    else:
        own = own_share(batch, run.accelerator)
        share = len(own) / len(batch)
        figures = _gradients(run, own, share=share) if len(own) else {}
        sum_gradients(parameters, run.accelerator)
        figures = mean_figures(figures, run.accelerator, share=share)
    nn.utils.clip_grad_norm_(parameters, run.lesson.settings.max_grad_norm)
    learner.optimizer.step()
    return figures


def _gradients(run: _Run, texts: Indices, *, share: float) -> dict[str, float]:
    """Add the gradients of these texts, which are this share of their batch, and return the means of their figures."""
    student, examples = run.student, run.lesson.examples
    device = student.model.device
    padded = student.tokenizer.pad([examples.rows[index] for index in texts])
    soft, weights = examples.teacher_logits, examples.weights
    batch = TrainingBatch(
        inputs={name: torch.from_numpy(values).to(device) for name, values in padded.inputs().items()},
        labels=torch.from_numpy(examples.label_ids[texts]).to(device),
        teacher_logits=None if soft is None else torch.from_numpy(soft[texts]).to(device),
        weights=None if weights is None else torch.from_numpy(weights[texts]).to(device),
    )
    with run.accelerator.autocast():
        loss = run.lesson.objective(student.model, batch)
    (share * loss.total).backward()
    count = {} if loss.num_items is None else {"count": float(loss.num_items)}
    return {"loss": float(loss.total.detach()), **count, **loss.terms}


def _close_epoch(run: _Run) -> None:
    """Score the validation texts, keep the weights if they are the best so far, save a checkpoint and report."""
    lesson, score = run.lesson, None
    if lesson.validation is not None:
        logits = shared_logits(run.student, lesson.validation.rows, run.accelerator)
        run.require_finite(logits)  # the last step can break the weights after the last loss was computed
        score = macro_f1(lesson.validation.label_ids, logits)
    epoch = run.progress.close(macro_f1=score, weights=run.learner.model.state_dict())
    run.save()
    scored = {} if score is None else {"macro_f1": score}
    figures = {"loss": epoch.loss, **scored, "texts_per_second": epoch.texts_per_second}
    run.accelerator.log({f"epoch/{name}": value for name, value in figures.items()}, step=run.progress.step)
    named = {"loss": epoch.loss, **epoch.terms} | ({} if score is None else {"validation macro-F1": score})
    parts = ", ".join(f"{name} {value:.4f}" for name, value in named.items())
    run.reporter.say(f"{lesson.title}: epoch {epoch.epoch} of {lesson.settings.epochs}: {parts}")
