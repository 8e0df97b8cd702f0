"""From settings to an objective, with real models: padding, gradients, learning, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from distill.data import Splits
from distill.errors import SettingsError
from distill.losses.objective import (
    TOKEN_LEVEL,
    Objective,
    StepLoss,
    TrainingBatch,
    distillation_objective,
    fine_tuning_objective,
)
from distill.losses.term import UNLABELLED
from distill.models.torch_classifier import TorchClassifier
from distill.progress import SilentReporter
from distill.settings import DistillSettings, LossName, TrainingSettings
from distill.students.static_student import build_static
from distill.training.checkpoints import Checkpoint
from distill.training.loop import Examples, Lesson, train
from distill.training.processes import open_accelerator

Pair = tuple[TorchClassifier, TorchClassifier]
MakePair = Callable[..., Pair]
TEXTS = (
    "a lovely warm film with music",
    "dull",
    "it was a clumsy empty story and the end was cold stale awful",
    "the actor was great",
)
LABEL_IDS = np.array([2, 0, 0, UNLABELLED])


def objective_of(pair: Pair, *losses: str, **settings: Any) -> Objective:
    student, teacher = pair
    settings = {"losses": losses, "relation_heads": 2, "temperature": 3.0, **settings}
    return distillation_objective(DistillSettings(**settings), student=student, teacher=teacher, label_ids=LABEL_IDS)


def step(objective: Objective, pair: Pair, indices: range = range(4), *, padding: int = 0) -> StepLoss:
    """One call on these texts, with so many columns of padding more than they need."""
    student, teacher = pair
    padded = student.tokenizer.pad(student.tokenizer.encode([TEXTS[index] for index in indices]))
    ids = np.pad(padded.input_ids, ((0, 0), (0, padding)), constant_values=student.tokenizer.pad_id)
    mask = np.pad(padded.attention_mask, ((0, 0), (0, padding)))
    batch = TrainingBatch(
        inputs={"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)},
        labels=torch.from_numpy(LABEL_IDS[list(indices)]),
        teacher_logits=torch.from_numpy(teacher.predict_logits(TEXTS)[list(indices)]),
    )
    return objective(student.model, batch)


@pytest.mark.parametrize("name", get_args(LossName))
def test_padding_never_changes_a_loss(name: LossName, make_pair: MakePair) -> None:
    # All texts in one padded batch, the same with more padding, and each alone without any.
    pair = make_pair()
    objective = objective_of(pair, f"{name}=1")
    together = step(objective, pair).terms
    assert together.keys() == {"soft", "hard", name}
    assert together[name] > 1e-3
    assert step(objective, pair, padding=9).terms == pytest.approx(together, rel=1e-4)
    alone = [step(objective, pair, range(index, index + 1)).terms for index in range(4)]
    assert np.mean([terms[name] for terms in alone]) == pytest.approx(together[name], rel=1e-4)
    assert np.mean([terms["soft"] for terms in alone]) == pytest.approx(together["soft"], rel=1e-4)
    assert np.mean([terms["hard"] for terms in alone[:3]]) == pytest.approx(together["hard"], rel=1e-4)
    assert "hard" not in alone[3]


@pytest.mark.parametrize("name", get_args(LossName))
def test_gradients_reach_the_student_and_not_the_teacher(name: LossName, make_pair: MakePair) -> None:
    pair = make_pair()
    objective = objective_of(pair, f"{name}=1", soft_weight=0)
    step(objective, pair).total.backward()
    assert pair[0].model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in pair[1].model.parameters())


def test_terms_add_up_by_their_weights(make_pair: MakePair) -> None:
    pair = make_pair()
    loss = step(objective_of(pair, "hidden=0.5", "relations=3", soft_weight=0.75), pair)
    terms = loss.terms
    # 3 of the 4 texts have a label. The means of soft over those and over the other one are taken apart.
    labelled, other = (step(objective_of(pair), pair, indices).terms for indices in (range(3), range(3, 4)))
    mixed = (3 * (0.75 * labelled["soft"] + 0.25 * labelled["hard"]) + other["soft"]) / 4
    assert loss.total.item() == pytest.approx(mixed + 0.5 * terms["hidden"] + 3 * terms["relations"], rel=1e-5)


def test_class_weights_act_on_the_hard_term_only(make_pair: MakePair) -> None:
    pair = make_pair()
    plain, balanced = (
        step(objective_of(pair, "logits=1", "decoupled=1", class_weights=kind), pair, range(3)).terms
        for kind in ("none", "balanced")
    )
    weights = {0: 3 / (2 * 2), 2: 3 / 2}  # of three labelled texts two are of class 0, one of class 2, none of class 1
    logits = pair[0].predict_logits(TEXTS[:3]).astype(np.float64)
    entropies = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), LABEL_IDS[:3]]
    expected = np.mean([weights[label] * entropy for label, entropy in zip(LABEL_IDS[:3], entropies, strict=True)])
    assert balanced["hard"] == pytest.approx(expected, rel=1e-5)
    assert plain["hard"] == pytest.approx(entropies.mean(), rel=1e-5)
    assert {**balanced, "hard": 0} == {**plain, "hard": 0}


def test_fine_tuning_has_the_hard_term_alone(make_pair: MakePair) -> None:
    pair = make_pair()
    objective = fine_tuning_objective(TrainingSettings(class_weights="balanced"), student=pair[0], label_ids=LABEL_IDS)
    assert step(objective, pair, range(3)).terms.keys() == {"hard"}


def test_what_is_learnt_beside_the_student_are_the_maps_alone(make_pair: MakePair) -> None:
    objective = objective_of(make_pair(), "hidden=1", "hidden-cosine=1", "patient=1", "attention=1", "relations=1")
    shapes = {name: tuple(tensor.shape) for name, tensor in objective.state_dict().items()}
    assert shapes == {
        f"terms.{name}.projections.maps.{layer}": (32, 16)
        for name, layers in (("hidden", (0, 1)), ("hidden-cosine", (0, 1)), ("patient", (0,)))
        for layer in layers
    }
    assert not any(parameter.numel() > 32 * 16 for parameter in objective.parameters())  # the teacher is not among them


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_training_with_a_term_lowers_it(name: LossName, make_pair: MakePair, tiny_splits: Splits, tmp_path: Path) -> None:
    pair = make_pair()
    student, teacher = pair
    texts = tiny_splits.train.texts[:32]
    rows = student.tokenizer.encode(texts)
    examples = Examples(rows, np.full(32, UNLABELLED), teacher.logits_of_rows(rows))
    objective = objective_of(pair, f"{name}=10", soft_weight=1)
    before = step(objective, pair).terms[name]
    maps = [parameter.detach().clone() for parameter in objective.parameters()]
    lesson = Lesson(
        "student",
        examples=examples,
        validation=Examples(rows, teacher.logits_of_rows(rows).argmax(axis=1)),
        objective=objective,
        settings=TrainingSettings(epochs=2, batch_size=4, learning_rate=3e-3, patience=9),
    )
    checkpoint = Checkpoint(tmp_path / "state", key="")
    with open_accelerator("cpu") as accelerator:
        epochs = train(student, lesson, checkpoint=checkpoint, reporter=SilentReporter(), accelerator=accelerator)
    assert epochs[-1].loss < epochs[0].loss
    assert step(objective, pair).terms[name] < 0.9 * before
    # The maps, where a term has some, learn with the student.
    assert not any(torch.equal(learnt, drawn) for learnt, drawn in zip(objective.parameters(), maps, strict=True))


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_a_student_with_ids_of_its_own_is_refused_token_level_terms(name: LossName, make_pair: MakePair) -> None:
    # The same words under other numbers: the teacher would read other words in the student's ids.
    student, teacher = make_pair()
    tokenizer = student.tokenizer
    content = tokenizer.to_json().replace('"lovely":5', '"lovely":6').replace('"great":6', '"great":5')
    assert content != tokenizer.to_json()
    other = type(tokenizer)(type(tokenizer._tokenizer).from_str(content), max_length=32, pad_id=tokenizer.pad_id)
    with pytest.raises(SettingsError, match=rf"^{name} compares .* their tokenizers differ .* use losses on logits"):
        objective_of((replace(student, tokenizer=other), teacher), f"{name}=1")
    objective_of((replace(student, tokenizer=other), teacher), "logits=1", "decoupled=1")  # these always work


def test_a_student_that_reads_fewer_tokens_may_be_compared_and_one_that_reads_more_may_not(make_pair: MakePair) -> None:
    student, teacher = make_pair()
    objective_of((replace(student, tokenizer=student.tokenizer.with_max_length(8)), teacher), "hidden=1")
    longer = replace(student, tokenizer=student.tokenizer.with_max_length(40))
    with pytest.raises(SettingsError, match=r"40 tokens.*32.*--max-length"):
        objective_of((longer, teacher), "hidden=1")


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_a_static_student_is_refused_token_level_terms(name: LossName, make_pair: MakePair) -> None:
    _, teacher = make_pair()
    static = build_static(teacher, DistillSettings(kind="static", static_features=8, static_head=8), seed=0)
    with pytest.raises(SettingsError, match="potstill-static model has no layers"):
        objective_of((static, teacher), f"{name}=1")
    assert step(objective_of((static, teacher), "logits=1", "decoupled=1"), (static, teacher)).total.isfinite()


def test_a_teacher_that_is_no_model_is_refused_token_level_terms(make_pair: MakePair) -> None:
    student, _ = make_pair()
    settings = DistillSettings(losses=("hidden=1",))
    with pytest.raises(SettingsError, match=r"hidden.*PyTorch"):
        distillation_objective(settings, student=student, teacher=None, label_ids=LABEL_IDS)


def test_decoupled_is_refused_where_a_text_may_have_several_labels(make_pair: MakePair) -> None:
    student, teacher = make_pair()
    several = replace(student, problem_type="multi_label_classification")
    with pytest.raises(SettingsError, match="decoupled"):
        objective_of((several, teacher), "decoupled=1")
    assert objective_of((several, teacher), "logits=1").terms.keys() == {"soft", "hard", "logits"}


@pytest.mark.parametrize(
    "losses",
    [("hidden",), ("hidden=",), ("hidden=0",), ("hidden=-1",), ("hidden=inf",), ("hidden=nan",), ("logit=1",), ("=1",)],
    ids=str,
)
def test_losses_are_name_and_weight(losses: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="losses must be NAME=WEIGHT with a weight above 0 and a name of logits, decoupled"):
        DistillSettings(losses=losses)


def test_a_loss_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"losses.*hidden=1.*hidden=2"):
        DistillSettings(losses=("hidden=1", "hidden=2"))
    assert DistillSettings(losses=("hidden=1", "logits=0.5")).loss_weights == {"hidden": 1.0, "logits": 0.5}
