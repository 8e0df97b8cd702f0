"""The one training loop, its optimiser and schedule: fine-tuning is distilling with soft weight 0.

Knows nothing of files or bundles; it is given examples as ids, and leaves the best weights in the model.
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
"""The share of the learning rate that a weight has, by its name and the number of the epoch, from 0."""


def whole_rate(name: str, epoch: int) -> float:  # noqa: ARG001
    """Return 1: every weight learns at the same rate, always."""
    return 1.0


def adamw(
    *modules: nn.Module, learning_rate: float, weight_decay: float, rates: RateShares = whole_rate, epochs: int = 1
) -> torch.optim.AdamW:
    """Return AdamW over all trained weights of the modules, without decay on biases, norms and embeddings.

    Decay would pull the vectors of words that the texts lack towards nothing. Each group says under `shares` what share of
    the rate it has in each epoch.
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
    # fused: one pass over the weights instead of a dozen; the embedding table makes the plain one a third of a step
    fused = {parameter.device.type for parameter in (*decayed, *kept)} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def rate_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak rate at a step, from 0: up to 1 in the warm-up, then down to 0 after the last."""
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)


TRACK_EVERY_STEPS = 10


@dataclass(frozen=True)
class Examples:
    """Texts as ids, with what they teach.

    Attributes:
        rows: Token ids of each text.
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels); `UNLABELLED` where there is no label.
        teacher_logits: Shape (texts, labels); None when nothing is distilled.
        weights: What each text counts, shape (texts,); None is 1 each.
    """

    rows: Sequence[NDArray[np.int64]]
    label_ids: NDArray[np.int64]
    teacher_logits: Logits | None = None
    weights: NDArray[np.float32] | None = None


def train(
    student: TorchClassifier,
    *,
    examples: Examples,
    validation: Examples,
    objective: Objective,
    settings: TrainingSettings,
    checkpoint: Checkpoint,
    reporter: Reporter,
    title: str,
    accelerator: Accelerator | None = None,
    rates: RateShares = whole_rate,
) -> tuple[Epoch, ...]:
    """Train the model in place and leave it with its best weights.

    Args:
        student: Who learns; a teacher being fine-tuned is one too.
        examples: What it learns from.
        validation: What decides which epoch was best, by macro-F1.
        objective: What a step makes small.
        settings: Rate, epochs, batch, seed.
        checkpoint: Where the state is kept, to go on from after an interruption.
        reporter: Told of each step.
        title: Heading of the progress bar.
        accelerator: The processes that share the work; None is this one, where the model is.
        rates: What share of the learning rate each weight has in each epoch.

    Returns:
        The figures of each epoch.

    Raises:
        GateError: The loss is not finite.
    """
    if accelerator is None:
        accelerator = open_accelerator(student.model.device, mixed_precision=settings.mixed_precision)
    run = _Run(student, examples, validation, objective, settings, checkpoint, reporter, title, accelerator)
    with _circumstances(run) as advance:
        learner = Learner(
            student.model,
            objective,
            adamw(
                student.model,
                objective,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                rates=rates,
                epochs=settings.epochs,
            ),
        )
        progress = checkpoint.restore(learner)
        if progress.step:
            partial = f" and {progress.partial.steps} steps" if progress.partial.steps else ""
            reporter.say(f"{title}: going on after epoch {len(progress.epochs)}{partial}")
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
    examples: Examples
    validation: Examples
    objective: Objective
    settings: TrainingSettings
    checkpoint: Checkpoint
    reporter: Reporter
    title: str
    accelerator: Accelerator

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * math.ceil(len(self.examples.rows) / self.settings.batch_size)

    def batches(self, epoch: int) -> list[Indices]:
        """The batches of an epoch; they depend on the seed and the epoch alone, so a resumed run draws the same."""
        generator = np.random.default_rng([self.settings.seed, epoch])
        return training_batches(lengths_of(self.examples.rows), batch_size=self.settings.batch_size, generator=generator)

    def learning_rate(self, step: int) -> float:
        factor = rate_factor(step, total_steps=self.total_steps, warmup_share=self.settings.warmup_share)
        return factor * self.settings.learning_rate

    def draw(self, step: int) -> None:
        """Seed what a step draws at random, by its number, so that no random state has to outlive a kill."""
        words = [self.settings.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def save(self, learner: Learner, progress: Progress) -> None:
        if self.accelerator.is_main_process:  # the others hold the same
            self.checkpoint.save(learner, progress)


@contextmanager
def _circumstances(run: _Run) -> Iterator[Advance]:
    """Threads, random state, attention, trackers and progress bar of a run; torch and model are left as they were."""
    model, settings = run.student.model, run.settings
    on_cuda = model.device.type == "cuda"
    longest = int(lengths_of(run.examples.rows).max())
    with ExitStack() as stack:
        stack.enter_context(using_threads())
        stack.enter_context(torch.random.fork_rng(devices=[model.device] if on_cuda else []))
        stack.enter_context(quick_attention(model, compute=run.accelerator.mixed_precision, longest=longest))
        stack.enter_context(tracked(run.accelerator, title=run.title, settings=settings))
        yield stack.enter_context(run.reporter.task(run.title, run.total_steps))


def _learn_epoch(run: _Run, learner: Learner, progress: Progress, advance: Advance) -> None:
    """Take the steps of an epoch that are still to take, saving now and then."""
    partial = progress.partial
    started = time.perf_counter() - partial.seconds
    due = _every(run.settings.checkpoint_every_s)
    run.student.model.train()
    for batch in run.batches(len(progress.epochs))[partial.steps :]:
        rate = run.learning_rate(progress.step)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate * group["shares"][len(progress.epochs)]
        run.draw(progress.step)
        figures = _step(run, learner, batch)
        loss = figures.pop("loss")
        if not math.isfinite(loss):
            raise _diverged(run)
        progress.step += 1
        partial.add(texts=len(batch), loss=loss, terms=figures)
        partial.seconds = time.perf_counter() - started
        if due():
            run.save(learner, progress)
        if progress.step % TRACK_EVERY_STEPS == 0:
            run.accelerator.log({"loss": loss, **figures, "learning_rate": rate}, step=progress.step)
        advance(1, **_shown(progress, loss=loss, terms=figures))


def _step(run: _Run, learner: Learner, batch: Indices) -> dict[str, float]:
    """Change the weights by one batch, and return the loss and its terms, as means over the texts of the batch."""
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
    nn.utils.clip_grad_norm_(parameters, run.settings.max_grad_norm)
    learner.optimizer.step()
    return figures


def _gradients(run: _Run, texts: Indices, *, share: float) -> dict[str, float]:
    """Add the gradients of these texts, which are this share of their batch, and return the means of their figures."""
    student, examples = run.student, run.examples
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
        loss = run.objective(student.model, batch)
    (share * loss.total).backward()
    return {"loss": float(loss.total.detach()), **loss.terms}


def _close_epoch(run: _Run, learner: Learner, progress: Progress) -> None:
    """Score the validation texts, keep the weights if they are the best so far, save and say it."""
    logits = shared_logits(run.student, run.validation.rows, run.accelerator)
    if not np.isfinite(logits).all():  # the last step can break the weights after the last loss was taken
        raise _diverged(run)
    epoch = progress.close(macro_f1=macro_f1(run.validation.label_ids, logits))
    if progress.best is epoch:
        progress.keep_best(learner.model.state_dict())
    run.save(learner, progress)
    figures = {"loss": epoch.loss, "macro_f1": epoch.macro_f1, "texts_per_second": epoch.texts_per_second}
    run.accelerator.log({f"epoch/{name}": value for name, value in figures.items()}, step=progress.step)
    run.reporter.say(
        f"{run.title}: epoch {epoch.epoch} of {run.settings.epochs}: "
        f"{_spelled({'loss': epoch.loss, **epoch.terms})}, validation macro-F1 {epoch.macro_f1:.4f}"
    )


def _shown(progress: Progress, *, loss: float, terms: dict[str, float]) -> dict[str, float]:
    """What stands beside the bar: the loss and its terms, the best score so far, the rate of this epoch."""
    best = {} if progress.best is None else {"F1": progress.best.macro_f1}
    return {"loss": loss, **terms, **best, "texts/s": round(progress.partial.texts / progress.partial.seconds)}


def _spelled(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _every(interval_s: float) -> Callable[[], bool]:
    """Return a function that is true when it was last so at least `interval_s` ago."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < interval_s:
            return False
        last = time.monotonic()
        return True

    return due


def _diverged(run: _Run) -> GateError:
    rate = run.settings.learning_rate
    return GateError(f"{run.title}: the loss is not a number any more; lower --learning-rate (it is {rate})")
