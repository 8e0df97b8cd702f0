"""The one training loop: what it minimises, what it keeps, and that an interruption leaves no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from objectives import mixed_objective
from torch import Tensor

from distill.data import Splits
from distill.errors import GateError
from distill.losses.term import UNLABELLED
from distill.models.devices import Compute, quick_attention
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Advance, SilentReporter
from distill.settings import TrainingSettings
from distill.training import loop
from distill.training.checkpoints import Checkpoint, Epoch
from distill.training.loop import Examples, Lesson, rate_factor, train
from distill.training.processes import open_accelerator

Make = Callable[..., TorchClassifier]
Weights = dict[str, Tensor]
STILL = 1e-12  # a learning rate at which no weight moves enough to see


class Heard(SilentReporter):
    """Notes the weights whenever an epoch is reported, and can interrupt the run at a step or after an epoch."""

    def __init__(self, student: TorchClassifier, *, stop_after_epoch: int = 0, stop_at_step: int = 0) -> None:
        self._student = student
        self._stop_after_epoch = stop_after_epoch
        self._stop_at_step = stop_at_step
        self.weights: list[Weights] = []
        self.lines: list[str] = []
        self.steps = 0
        self.rates: list[float] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
        if ": epoch " not in text:
            return
        self.weights.append(weights_of(self._student))
        if len(self.weights) == self._stop_after_epoch:
            raise KeyboardInterrupt

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(count: int = 1, **figures: float) -> None:
            self.steps += count
            if "texts/s" in figures:
                self.rates.append(figures["texts/s"])
            if self.steps == self._stop_at_step:
                raise KeyboardInterrupt

        yield advance


def weights_of(classifier: TorchClassifier) -> Weights:
    return {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def make_student(make_classifier: Make) -> Make:
    """Return a function that makes the same 1-layer student each time, with dropout."""
    return lambda **changes: make_classifier("bert", num_hidden_layers=1, **changes)


@pytest.fixture
def lessons(make_student: Make, tiny_splits: Splits) -> tuple[Examples, Examples]:
    """Return 48 training and 24 validation examples, with made-up teacher logits."""
    student = make_student()
    logits = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32) * 2
    train_texts, held_out = tiny_splits.train.take(range(48)), tiny_splits.validation.take(range(24))
    return (
        Examples(student.tokenizer.encode(train_texts.texts), train_texts.label_ids, logits),
        Examples(student.tokenizer.encode(held_out.texts), held_out.label_ids),
    )


def run(
    student: TorchClassifier,
    lessons: tuple[Examples, Examples],
    *,
    soft_weight: float = 0.5,
    temperature: float = 2.0,
    checkpoint: Checkpoint | None = None,
    reporter: SilentReporter | None = None,
    **settings: Any,
) -> tuple[Epoch, ...]:
    lesson = Lesson(
        "student",
        examples=lessons[0],
        validation=lessons[1],
        objective=mixed_objective(soft_weight=soft_weight, temperature=temperature),
        settings=TrainingSettings(
            **{"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "patience": 9, "mixed_precision": "no", **settings}
        ),
    )
    with (
        TemporaryDirectory() as folder,
        open_accelerator("cpu", mixed_precision=lesson.settings.mixed_precision) as accelerator,
    ):
        return train(
            student,
            lesson,
            checkpoint=checkpoint or Checkpoint(Path(folder) / "state", key=""),
            reporter=reporter or SilentReporter(),
            accelerator=accelerator,
        )


def script_scores(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let the validation scores be these, one an epoch."""
    left = iter(scores)
    monkeypatch.setattr(loop, "macro_f1", lambda labels, logits: next(left))


def test_fine_tuning_is_distilling_with_soft_weight_zero(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    tuned, distilled = make_student(), make_student()
    run(tuned, (Examples(lessons[0].rows, lessons[0].label_ids), lessons[1]), soft_weight=0.0)
    run(distilled, lessons, soft_weight=0.0)
    assert same(weights_of(tuned), weights_of(distilled))


def test_the_same_seed_gives_the_same_weights_to_the_bit(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    one, again, other = make_student(), make_student(), make_student()
    run(one, lessons)
    torch.rand(7)  # the state that the caller's generator is in has no say
    run(again, lessons)
    run(other, lessons, seed=1)
    assert same(weights_of(one), weights_of(again))
    assert not same(weights_of(one), weights_of(other))


@pytest.mark.parametrize("stop", [{"stop_after_epoch": 1}, {"stop_after_epoch": 2}, {"stop_at_step": 9}], ids=str)
def test_an_interrupted_run_ends_as_an_unbroken_one(
    stop: dict[str, int], make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path
) -> None:
    unbroken = make_student()
    epochs = run(unbroken, lessons)
    checkpoint = Checkpoint(tmp_path / "state", key="this run")
    broken = make_student()
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, checkpoint=checkpoint, reporter=Heard(broken, **stop))
    resumed = make_student()
    heard = Heard(resumed)
    resumed_epochs = run(resumed, lessons, checkpoint=checkpoint, reporter=heard)
    done = stop.get("stop_after_epoch", 1)
    assert heard.lines[0] == f"student: resuming after epoch {done}"
    assert len(heard.weights) == 3 - done  # finished epochs are not repeated
    assert heard.steps == 18  # 48 texts in batches of 8, three times; finished ones are shown as done
    assert same(weights_of(resumed), weights_of(unbroken))
    assert [(e.epoch, e.loss, e.macro_f1) for e in resumed_epochs] == [(e.epoch, e.loss, e.macro_f1) for e in epochs]


def test_the_rate_shown_after_an_interruption_is_that_of_the_resumed_run(
    make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Any = {"epochs": 1, "checkpoint_every_s": 0, "checkpoint": Checkpoint(tmp_path / "state", key="this run")}

    def let_a_step_take(seconds: float) -> None:
        clock = SimpleNamespace(perf_counter=count(step=seconds).__next__, monotonic=time.monotonic)
        monkeypatch.setattr(loop, "time", clock)

    broken, resumed = make_student(), make_student()
    slow, quick = Heard(broken, stop_at_step=4), Heard(resumed)
    let_a_step_take(0.1)
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, reporter=slow, **settings)
    let_a_step_take(0.01)
    (epoch,) = run(resumed, lessons, reporter=quick, **settings)
    assert (slow.rates, quick.rates) == ([80] * 4, [800] * 2)  # 8 texts a step
    assert epoch.texts_per_second == pytest.approx(48 / 0.42)  # of the whole epoch


def test_a_run_interrupted_after_its_last_epoch_trains_no_more(
    make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "state", key="this run")
    broken, resumed = make_student(), make_student()
    heard = Heard(broken, stop_after_epoch=3)
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, checkpoint=checkpoint, reporter=heard)
    epochs = run(resumed, lessons, checkpoint=checkpoint)
    best = max(epochs, key=lambda epoch: epoch.macro_f1)
    assert same(weights_of(resumed), heard.weights[best.epoch - 1])


def test_another_runs_checkpoint_is_neither_loaded_nor_lost(
    make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path
) -> None:
    unbroken, broken, fresh = make_student(), make_student(), make_student()
    run(unbroken, lessons)
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, checkpoint=Checkpoint(tmp_path / "state", key="one"), reporter=Heard(broken, stop_after_epoch=1))
    heard = Heard(fresh)
    other = Checkpoint(tmp_path / "state", key="other", reporter=heard)
    run(fresh, lessons, checkpoint=other, reporter=heard)
    assert len(heard.weights) == 3
    assert same(weights_of(fresh), weights_of(unbroken))
    # Nothing is lost: the first run's checkpoint was renamed, and resumes once it has its name again.
    (line,) = (line for line in heard.lines if "renamed" in line)
    assert str(tmp_path / "state") in line
    assert "state.one" in line
    (tmp_path / "state.one").rename(tmp_path / "state")
    resumed = make_student()
    heard = Heard(resumed)
    run(resumed, lessons, checkpoint=Checkpoint(tmp_path / "state", key="one"), reporter=heard)
    assert len(heard.weights) == 2
    assert same(weights_of(resumed), weights_of(unbroken))


def test_a_cut_checkpoint_is_not_taken_and_said(
    make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fresh = make_student(), make_student()
    checkpoint = Checkpoint(tmp_path / "state", key="this run")
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, checkpoint=checkpoint, reporter=Heard(broken, stop_after_epoch=1))
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-10])
    heard = Heard(fresh)
    run(fresh, lessons, checkpoint=checkpoint, reporter=heard)
    assert len(heard.weights) == 3
    assert "cannot be read" in caplog.text


def test_the_best_epochs_weights_are_kept_and_not_the_last(
    make_student: Make, lessons: tuple[Examples, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, [0.5, 0.9, 0.7, 0.9])
    student = make_student()
    heard = Heard(student)
    run(student, lessons, epochs=4, reporter=heard)
    assert same(weights_of(student), heard.weights[1])  # the earlier of the two at 0.9
    assert not same(weights_of(student), heard.weights[3])


def test_the_best_weights_outlive_an_interruption(
    make_student: Make, lessons: tuple[Examples, Examples], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script_scores(monkeypatch, [0.9, 0.5, 0.6])
    checkpoint = Checkpoint(tmp_path / "state", key="")
    broken, resumed = make_student(), make_student()
    heard = Heard(broken, stop_after_epoch=2)
    with pytest.raises(KeyboardInterrupt):
        run(broken, lessons, checkpoint=checkpoint, reporter=heard)
    run(resumed, lessons, checkpoint=checkpoint)
    assert same(weights_of(resumed), heard.weights[0])


@pytest.mark.parametrize(
    ("patience", "scores", "epochs_run"),
    [
        (1, [0.5, 0.6, 0.6, 0.9], 3),  # an equal score is no gain
        (2, [0.9, 0.5, 0.6, 0.7, 0.9], 3),
        (2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.8], 6),  # each gain starts the count again
    ],
)
def test_training_stops_after_patience_epochs_without_gain(
    patience: int,
    scores: list[float],
    epochs_run: int,
    make_student: Make,
    lessons: tuple[Examples, Examples],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script_scores(monkeypatch, scores)
    epochs = run(make_student(), lessons, epochs=6, patience=patience, batch_size=48)
    assert [epoch.macro_f1 for epoch in epochs] == scores[:epochs_run]


def test_the_rate_rises_in_the_warm_up_and_then_falls_to_nothing(
    make_student: Make, lessons: tuple[Examples, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noting(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        assert {group["lr"] for group in optimizer.param_groups} == {rates[-1]}
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    run(make_student(), lessons, epochs=2, batch_size=12, learning_rate=0.008, warmup_share=0.25)
    # 8 steps, 2 of them warm-up, then 6 equal steps down, the last to 1/6 and not to 0.
    assert rates == pytest.approx([0.004, 0.008, 0.008, 0.008 * 5 / 6, 0.008 * 4 / 6, 0.004, 0.008 / 3, 0.008 / 6])


def test_each_epoch_sees_every_text_once_and_in_an_order_of_its_own(
    make_student: Make, lessons: tuple[Examples, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noting(run: object, batch: NDArray[np.int64]) -> dict[str, float]:
        seen.extend(batch.tolist())
        return {"loss": 0.0}

    monkeypatch.setattr(loop, "_step", noting)
    run(make_student(), lessons, epochs=2)
    first, second = seen[:48], seen[48:]
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate_factor(0, total_steps=10, warmup_share=0.0) == 1
    assert rate_factor(9, total_steps=10, warmup_share=0.0) == pytest.approx(0.1)


def cross_entropies(logits: NDArray[np.float32], label_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    exact = logits.astype(np.float64)
    return np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(len(exact)), label_ids]


def divergences(teacher: NDArray[np.float32], student: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    shares = [np.exp(x.astype(np.float64) / temperature) for x in (teacher, student)]
    p, q = (share / share.sum(axis=1, keepdims=True) for share in shares)
    return temperature**2 * (p * np.log(p / q)).sum(axis=1)


def without_dropout(make_student: Make) -> TorchClassifier:
    return make_student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_padding_does_not_change_the_loss(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    # One batch of 48 texts of many lengths, against each text alone and never padded.
    student = without_dropout(make_student)
    examples = lessons[0]
    assert len({len(row) for row in examples.rows}) > 5
    alone = np.concatenate([student.logits_of_rows([row]) for row in examples.rows])
    (epoch,) = run(student, lessons, soft_weight=0.0, epochs=1, batch_size=48, learning_rate=STILL)
    assert epoch.loss == pytest.approx(cross_entropies(alone, examples.label_ids).mean(), abs=1e-5)


def test_each_text_learns_from_its_own_teacher_logits(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    student = without_dropout(make_student)
    examples, held_out = lessons
    assert examples.teacher_logits is not None
    label_ids = examples.label_ids.copy()
    label_ids[::3] = UNLABELLED
    logits = student.logits_of_rows(examples.rows)
    soft = divergences(examples.teacher_logits, logits, 2.0)
    hard = cross_entropies(logits, examples.label_ids)
    expected = np.where(label_ids == UNLABELLED, soft, 0.75 * soft + 0.25 * hard).mean()
    mixed = Examples(examples.rows, label_ids, examples.teacher_logits)
    (epoch,) = run(student, (mixed, held_out), soft_weight=0.75, temperature=2.0, epochs=1, learning_rate=STILL)
    assert epoch.loss == pytest.approx(expected, abs=1e-5)


def test_gradients_are_clipped_to_the_norm(make_student: Make, lessons: tuple[Examples, Examples], tmp_path: Path) -> None:
    # After one step from zero, Adam's first moment is (1 - 0.9) times the gradient it was given.
    student = make_student()
    with pytest.raises(KeyboardInterrupt):
        run(
            student,
            lessons,
            epochs=1,
            batch_size=48,
            max_grad_norm=0.01,
            checkpoint=Checkpoint(tmp_path / "state", key=""),
            reporter=Heard(student, stop_after_epoch=1),
        )
    moments = [tensor for name, tensor in safetensors.torch.load_file(tmp_path / "state").items() if name.endswith("exp_avg")]
    assert torch.stack([moment.square().sum() for moment in moments]).sum().sqrt().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_words_that_are_not_seen_keep_their_vectors(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    student = make_student()
    table = student.model.get_input_embeddings().weight
    before = table.detach().clone()
    run(student, lessons, weight_decay=0.5)
    seen = np.unique(np.concatenate(lessons[0].rows))
    unseen = sorted(set(range(len(before))) - set(seen.tolist()) - {student.tokenizer.pad_id})
    assert unseen
    assert torch.equal(table[unseen], before[unseen])
    assert not torch.equal(table[seen], before[seen])


def test_dropout_is_on_while_training_and_off_afterwards(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    student = make_student(hidden_dropout_prob=0.5)
    plain = student.logits_of_rows(lessons[0].rows)
    (epoch,) = run(student, lessons, soft_weight=0.0, epochs=1, learning_rate=STILL)
    assert epoch.loss != pytest.approx(cross_entropies(plain, lessons[0].label_ids).mean(), rel=1e-3)
    assert not student.model.training
    np.testing.assert_array_equal(student.logits_of_rows(lessons[0].rows), student.logits_of_rows(lessons[0].rows))


@pytest.mark.parametrize("batch_size", [8, 48], ids=["seen in the loss", "seen only after the last step"])
def test_a_loss_that_is_no_number_stops_the_run(
    batch_size: int, make_student: Make, lessons: tuple[Examples, Examples]
) -> None:
    with pytest.raises(GateError, match=r"not finite.*1e\+30"):
        run(make_student(), lessons, epochs=1, batch_size=batch_size, learning_rate=1e30)


@pytest.mark.usefixtures("torch_left_alone")
def test_torch_is_left_as_it_was(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    run(make_student(), lessons, epochs=1)
    student = make_student()
    with pytest.raises(KeyboardInterrupt):
        run(student, lessons, reporter=Heard(student, stop_at_step=2))


def test_speed_is_texts_over_seconds(make_student: Make, lessons: tuple[Examples, Examples]) -> None:
    for epoch in run(make_student(), lessons, epochs=2):
        assert epoch.texts_per_second == pytest.approx(48 / epoch.seconds)


def test_bf16_trains_the_same_twice_and_leaves_weights_and_attention_as_they_were(
    make_student: Make, lessons: tuple[Examples, Examples]
) -> None:
    def trained(mixed_precision: str) -> TorchClassifier:
        student = without_dropout(make_student)
        run(student, lessons, mixed_precision=mixed_precision)
        return student

    exact, one, again = trained("no"), trained("bf16"), trained("bf16")
    assert same(weights_of(one), weights_of(again))
    assert not same(weights_of(one), weights_of(exact))
    assert {tensor.dtype for tensor in weights_of(one).values() if tensor.is_floating_point()} == {torch.float32}
    # bfloat16 keeps 8 bits of a number: its logits are near the exact ones, and read in fp32
    np.testing.assert_allclose(one.logits_of_rows(lessons[1].rows), exact.logits_of_rows(lessons[1].rows), rtol=0.1, atol=0.3)
    assert one.model.config._attn_implementation == exact.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("dropout", "mixed_precision", "longest", "kernel"),
    [(0.0, "bf16", 128, "eager"), (0.1, "bf16", 128, "sdpa"), (0.0, "no", 128, "sdpa"), (0.0, "bf16", 129, "sdpa")],
)
def test_plain_attention_is_taken_where_it_is_faster(
    dropout: float, mixed_precision: Compute, longest: int, kernel: str, make_student: Make
) -> None:
    model = make_student(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout).model
    with quick_attention(model, compute=mixed_precision, longest=longest):
        assert model.config._attn_implementation == model.bert.config._attn_implementation == kernel
    assert model.config._attn_implementation == "sdpa"
