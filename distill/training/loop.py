"""The one training loop, with its optimizer and schedule: fine-tuning, adapting and distilling differ in their `Lesson`.

Knows nothing of files or bundles; it trains on token ids and leaves the best weights in the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

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
from distill.training.processes import mean_figures, open_accelerator, own_share, shared_logits, sum_gradients, tracked
from distill.training.shared_files import lengths_of

RateShares = Callable[[str, int], float]
"""The share of the learning rate that a parameter gets, by its name and the epoch, counted from 0."""


def whole_rate(name: str, epoch: int) -> float:  # noqa: ARG001
    """Return 1: every parameter learns at the whole rate in every epoch."""
    return 1.0


@dataclass(frozen=True)
class Examples:
    """Tokenized texts with their targets.

    Attributes:
        rows: Token ids of each text.
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels); `UNLABELLED` where there is no label.
        teacher_logits: Shape (texts, labels); None when nothing is distilled.
        weights: Weight of each text in the loss, shape (texts,); None means 1 each.
    """

    rows: Sequence[NDArray[np.int64]]
    label_ids: NDArray[np.int64]
    teacher_logits: Logits | None = None
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Lesson:
    """What one training run learns, and how: fine-tuning, adapting, distilling and its control are four lessons.

    Attributes:
        title: Heading of the progress bar and of the trackers.
        examples: Training texts with their targets.
        validation: Texts that choose the best epoch by macro-F1; None keeps the last epoch.
        objective: The loss that a step minimises.
        settings: Learning rate, epochs, batch size, seed.
        rates: The share of the learning rate that each parameter gets in each epoch.
    """

    title: str
    examples: Examples
    validation: Examples | None
    objective: Objective
    settings: TrainingSettings
    rates: RateShares = whole_rate


def adamw(
    *modules: nn.Module, learning_rate: float, weight_decay: float, rates: RateShares = whole_rate, epochs: int = 1
) -> torch.optim.AdamW:
    """Return AdamW over all trainable parameters of the modules, without decay on biases, norms and embeddings.

    Decay would pull the vectors of tokens that no text contains towards 0. The `shares` of each parameter group are its
    shares of the learning rate, one per epoch.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    shares: dict[nn.Parameter, tuple[float, ...]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (kept if parameter.ndim < 2 or "embeddings" in name else decayed).append(parameter)
                shares[parameter] = tuple(rates(name, epoch) for epoch in range(epochs))
    groups: list[dict[str, Any]] = [
        {"params": [one for one in members if shares[one] == share], "weight_decay": decay, "shares": share}
        for members, decay in ((decayed, weight_decay), (kept, 0.0))
        for share in dict.fromkeys(shares[one] for one in members)
    ]
    # fused: one pass over the parameters instead of a dozen; unfused, the embedding table takes a third of a step.
    fused = {parameter.device.type for parameter in (*decayed, *kept)} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def rate_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak rate at a step, from 0: rising to 1 during warmup, then falling to 0 after the last step."""
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)


TRACK_EVERY_STEPS = 10


def train(
    student: TorchClassifier,
    lesson: Lesson,
    *,
    checkpoint: Checkpoint,
    reporter: Reporter,
    accelerator: Accelerator | None = None,
) -> tuple[Epoch, ...]:
    """Train the model in place and leave it with its best weights.

    Args:
        student: The model to train; a teacher being fine-tuned too.
        lesson: What it learns.
        checkpoint: Where the state is saved, so that an interrupted run resumes.
        reporter: Told of each step.
        accelerator: The processes that share the work; None trains in this process, on the model's device.

    Returns:
        The figures of each epoch.

    Raises:
        GateError: The loss is not finite.
    """
    settings = lesson.settings
    with ExitStack() as stack:
        if accelerator is None:
            opened = open_accelerator(student.model.device, mixed_precision=settings.mixed_precision)
            accelerator = stack.enter_context(opened)
        run = _Run(student, lesson, checkpoint, reporter, accelerator)
        advance = stack.enter_context(_surroundings(run))
        optimizer = adamw(
            student.model,
            lesson.objective,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            rates=lesson.rates,
            epochs=settings.epochs,
        )
        learner = Learner(student.model, lesson.objective, optimizer)
        progress = checkpoint.restore(learner)
        if progress.step:
            partial = f" and {progress.partial.steps} steps" if progress.partial.steps else ""
            reporter.say(f"{lesson.title}: resuming after epoch {len(progress.epochs)}{partial}")
            advance(progress.step)
        while len(progress.epochs) < settings.epochs and progress.epochs_without_gain < settings.patience:
            _learn_epoch(run, learner, progress, advance)
            _close_epoch(run, learner, progress)
    student.model.load_state_dict(progress.best_weights)
    student.model.eval()
    return tuple(progress.epochs)


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first step to the last; see `train`."""

    student: TorchClassifier
    lesson: Lesson
    checkpoint: Checkpoint
    reporter: Reporter
    accelerator: Accelerator

    @property
    def total_steps(self) -> int:
        return self.lesson.settings.epochs * math.ceil(len(self.lesson.examples.rows) / self.lesson.settings.batch_size)

    def batches(self, epoch: int) -> list[Indices]:
        """The batches of an epoch; they depend on the seed and the epoch alone, so a resumed run draws the same."""
        settings = self.lesson.settings
        generator = np.random.default_rng([settings.seed, epoch])
        return training_batches(lengths_of(self.lesson.examples.rows), batch_size=settings.batch_size, generator=generator)

    def learning_rate(self, step: int) -> float:
        settings = self.lesson.settings
        return settings.learning_rate * rate_factor(step, total_steps=self.total_steps, warmup_share=settings.warmup_share)

    def seed_step(self, step: int) -> None:
        """Seed torch by the number of the step, so that no random state has to survive a kill."""
        words = [self.lesson.settings.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def save(self, learner: Learner, progress: Progress) -> None:
        if self.accelerator.is_main_process:  # the others hold the same
            self.checkpoint.save(learner, progress)

    def diverged(self) -> GateError:
        rate = self.lesson.settings.learning_rate
        return GateError(f"{self.lesson.title}: the loss is not finite; lower its learning rate (it is {rate})")


@contextmanager
def _surroundings(run: _Run) -> Iterator[Advance]:
    """Set threads, random state, attention kernel, trackers and progress bar for a run; restore torch and model after it."""
    model, lesson = run.student.model, run.lesson
    longest = int(lengths_of(lesson.examples.rows).max())
    with ExitStack() as stack:
        stack.enter_context(using_threads())
        stack.enter_context(torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []))
        stack.enter_context(quick_attention(model, compute=run.accelerator.mixed_precision, longest=longest))
        stack.enter_context(tracked(run.accelerator, title=lesson.title, settings=lesson.settings))
        yield stack.enter_context(run.reporter.task(lesson.title, run.total_steps))


def _learn_epoch(run: _Run, learner: Learner, progress: Progress, advance: Advance) -> None:
    """Take the remaining steps of an epoch, saving a checkpoint every `checkpoint_every_s`."""
    partial = progress.partial
    started = time.perf_counter() - partial.seconds
    saved = time.monotonic()
    best = {} if progress.best is None or progress.best.macro_f1 is None else {"F1": progress.best.macro_f1}
    run.student.model.train()
    for batch in run.batches(len(progress.epochs))[partial.steps :]:
        rate = run.learning_rate(progress.step)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate * group["shares"][len(progress.epochs)]
        run.seed_step(progress.step)
        figures = _step(run, learner, batch)
        loss, count = figures.pop("loss"), figures.pop("count", None)
        if not math.isfinite(loss):
            raise run.diverged()
        progress.step += 1
        partial.add(texts=len(batch), loss=loss, terms=figures, count=count)
        partial.seconds = time.perf_counter() - started
        if time.monotonic() - saved >= run.lesson.settings.checkpoint_every_s:
            run.save(learner, progress)
            saved = time.monotonic()
        if progress.step % TRACK_EVERY_STEPS == 0:
            run.accelerator.log({"loss": loss, **figures, "learning_rate": rate}, step=progress.step)
        advance(1, loss=loss, **figures, **best, **{"texts/s": round(partial.texts / partial.seconds)})


def _step(run: _Run, learner: Learner, batch: Indices) -> dict[str, float]:
    """Update the weights with one batch, and return the loss and its terms, as means over the batch."""
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
        inputs={name: torch.from_numpy(values).to(device) for name, values in padded._asdict().items()},
        labels=torch.from_numpy(examples.label_ids[texts]).to(device),
        teacher_logits=None if soft is None else torch.from_numpy(soft[texts]).to(device),
        weights=None if weights is None else torch.from_numpy(weights[texts]).to(device),
    )
    with run.accelerator.autocast():
        loss = run.lesson.objective(student.model, batch)
    (share * loss.total).backward()
    count = {} if loss.num_items is None else {"count": float(loss.num_items)}
    return {"loss": float(loss.total.detach()), **count, **loss.terms}


def _close_epoch(run: _Run, learner: Learner, progress: Progress) -> None:
    """Score the validation texts, keep the weights if they are the best so far, save a checkpoint and report."""
    lesson, score = run.lesson, None
    if lesson.validation is not None:
        logits = shared_logits(run.student, lesson.validation.rows, run.accelerator)
        if not np.isfinite(logits).all():  # the last step can break the weights after the last loss was computed
            raise run.diverged()
        score = macro_f1(lesson.validation.label_ids, logits)
    epoch = progress.close(macro_f1=score)
    if progress.best is epoch:
        progress.keep_best(learner.model.state_dict())
    run.save(learner, progress)
    scored = {} if score is None else {"macro_f1": score}
    figures = {"loss": epoch.loss, **scored, "texts_per_second": epoch.texts_per_second}
    run.accelerator.log({f"epoch/{name}": value for name, value in figures.items()}, step=progress.step)
    parts = [f"{name} {value:.4f}" for name, value in {"loss": epoch.loss, **epoch.terms}.items()]
    parts += [] if score is None else [f"validation macro-F1 {score:.4f}"]
    run.reporter.say(f"{lesson.title}: epoch {epoch.epoch} of {lesson.settings.epochs}: {', '.join(parts)}")
