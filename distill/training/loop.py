"""The one training loop: fine-tuning is distilling with soft weight 0.

Knows nothing of files or bundles; it is given examples as ids, and leaves the best weights in the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from distill.batching import Indices, training_batches
from distill.errors import GateError
from distill.labels import Logits
from distill.metrics import macro_f1
from distill.progress import Reporter
from distill.settings import TrainingSettings
from distill.training.attention import quick_attention
from distill.training.checkpoints import Checkpoint, Epoch, Progress
from distill.training.devices import Compute, chosen_mixed_precision, computing_in, using_threads
from distill.training.losses import Objective, TrainingBatch
from distill.training.mapped import lengths_of
from distill.training.models import TorchClassifier


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
) -> tuple[Epoch, ...]:
    """Train the model in place and leave it with its best weights.

    Args:
        student: Who learns; a teacher being fine-tuned is one too.
        examples: What it learns from.
        validation: What decides which epoch was best, by macro-F1.
        objective: What a step makes small.
        settings: Rate, epochs, batch, seed.
        checkpoint: Where the state is kept between epochs.
        reporter: Told of each step.
        title: Heading of the progress bar.

    Returns:
        The figures of each epoch.

    Raises:
        GateError: The loss is not finite.
    """
    model = student.model
    lengths = lengths_of(examples.rows)
    plans = [_batches_of(epoch, lengths, settings) for epoch in range(settings.epochs)]
    total_steps = sum(map(len, plans))
    optimizer = _adamw(model, settings)
    compute = chosen_mixed_precision(settings.mixed_precision, model.device)
    with (
        using_threads(),
        torch.random.fork_rng(devices=[]),
        quick_attention(model, compute=compute, longest=int(lengths.max())),
        reporter.task(title, total_steps) as advance,
    ):
        torch.manual_seed(settings.seed)
        step, progress = checkpoint.restore(model=model, optimizer=optimizer) or (0, Progress([], {}))
        if step:
            reporter.say(f"{title}: going on after epoch {len(progress.epochs)}")
            advance(step)
        for epoch in range(len(progress.epochs), settings.epochs):
            if progress.epochs_without_gain >= settings.patience:
                break
            started = time.perf_counter()
            model.train()
            losses = []
            for batch in plans[epoch]:
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _rate_factor(step, total_steps, settings.warmup_share)
                losses.append(_step(student, examples, batch, objective, optimizer, settings.max_grad_norm, compute))
                step += 1
                advance(1, loss=losses[-1])
            seconds = time.perf_counter() - started
            logits = student.logits_of_rows(validation.rows)
            _require_finite(losses, logits, title, settings)
            score = macro_f1(validation.label_ids, logits)
            progress.epochs.append(Epoch(epoch + 1, float(np.mean(losses)), score, seconds, len(lengths) / seconds))
            if progress.best is progress.epochs[-1]:
                progress.best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            checkpoint.save(model=model, optimizer=optimizer, step=step, progress=progress)
            reporter.say(
                f"{title}: epoch {epoch + 1} of {settings.epochs}: loss {np.mean(losses):.4f}, validation macro-F1 {score:.4f}"
            )
    model.load_state_dict(progress.best_weights)
    model.eval()
    return tuple(progress.epochs)


def _batches_of(epoch: int, lengths: Indices, settings: TrainingSettings) -> list[NDArray[np.int64]]:
    """The batches of one epoch; they depend on the seed and the epoch alone, so a resumed run draws the same."""
    generator = np.random.default_rng([settings.seed, epoch])
    return training_batches(lengths, batch_size=settings.batch_size, generator=generator)


def _step(
    student: TorchClassifier,
    examples: Examples,
    batch: NDArray[np.int64],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    compute: Compute,
) -> float:
    device = student.model.device
    padded = student.tokenizer.pad([examples.rows[index] for index in batch])
    inputs = {name: torch.from_numpy(values).to(device) for name, values in padded._asdict().items()}
    soft, weights = examples.teacher_logits, examples.weights
    lesson = TrainingBatch(
        inputs=inputs,
        labels=torch.from_numpy(examples.label_ids[batch]).to(device),
        teacher_logits=None if soft is None else torch.from_numpy(soft[batch]).to(device),
        weights=None if weights is None else torch.from_numpy(weights[batch]).to(device),
    )
    with computing_in(compute, device):
        loss = objective(student.model, lesson).total
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.model.parameters(), max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def _adamw(model: PreTrainedModel, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW without decay on biases, norms and embeddings: decay would pull unseen words towards nothing."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim < 2 or "embeddings" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    # fused: one pass over the weights instead of a dozen; the embedding table makes the plain one a third of a step
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=str(model.device.type) in {"cpu", "cuda"})


def _rate_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Linear warm-up to 1, then linear decay to 0."""
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)


def _require_finite(losses: Sequence[float], logits: Logits, title: str, settings: TrainingSettings) -> None:
    # The logits too: the last step of an epoch can break the weights after the last loss was taken.
    if not (np.isfinite(losses).all() and np.isfinite(logits).all()):
        raise GateError(f"{title}: the loss is not a number any more; lower --learning-rate (it is {settings.learning_rate})")
