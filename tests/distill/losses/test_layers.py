"""What is read of a model's layers, against what the model itself gives, and which layer is compared with which."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.losses.hidden import MappedStates, Projections, hidden_pairs, squared_difference
from distill.losses.objective import Objective, TrainingBatch, Weighted
from distill.losses.term import log_attention, matched_layers
from distill.models.recording import require_readable, run_with_layers
from distill.models.torch_classifier import TorchClassifier

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely warm film", "dull")


def inputs_of(classifier: TorchClassifier) -> dict[str, Tensor]:
    batch = classifier.tokenizer.pad(classifier.tokenizer.encode(TEXTS))
    return {name: torch.from_numpy(values) for name, values in batch.inputs().items()}


@pytest.mark.parametrize(
    ("student", "teacher", "matched"),
    [
        (3, 6, (1, 3, 5)),
        (2, 6, (2, 5)),
        (1, 6, (5,)),
        (6, 12, (1, 3, 5, 7, 9, 11)),
        (4, 4, (0, 1, 2, 3)),
        (4, 2, (0, 0, 1, 1)),
    ],
)
def test_a_layer_is_compared_with_the_last_of_its_segment(student: int, teacher: int, matched: tuple[int, ...]) -> None:
    assert matched_layers(student, teacher) == matched


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "albert"])
def test_attention_from_queries_and_keys_is_the_models_own(family: str, make_classifier: Make) -> None:
    classifier = make_classifier(family)
    inputs = inputs_of(classifier)
    logits, layers = run_with_layers(classifier.model, inputs, hidden=True, attention=True)
    classifier.model.set_attn_implementation("eager")
    own = classifier.model(**inputs, output_attentions=True, output_hidden_states=True)
    assert torch.allclose(logits, own.logits, atol=1e-5)
    assert len(layers.queries) == len(layers.values) == len(own.attentions) == classifier.model.config.num_hidden_layers
    for queries, keys, expected in zip(layers.queries, layers.keys, own.attentions, strict=True):
        attention = log_attention(queries, keys, inputs["attention_mask"], num_heads=layers.num_heads)
        assert torch.allclose(attention.exp(), expected, atol=1e-5)
    assert len(layers.hidden) == len(own.hidden_states) - 1
    assert all(
        torch.allclose(state, other, atol=1e-5) for state, other in zip(layers.hidden, own.hidden_states[1:], strict=True)
    )


def test_values_are_those_of_the_value_projection(make_classifier: Make) -> None:
    classifier = make_classifier("bert", num_hidden_layers=2)
    _, layers = run_with_layers(classifier.model, inputs_of(classifier), hidden=True, attention=True)
    value = classifier.model.bert.encoder.layer[1].attention.self.value
    assert torch.allclose(layers.values[1], value(layers.hidden[0]), atol=1e-6)


def test_nothing_stays_on_the_model_after_reading(make_classifier: Make) -> None:
    classifier = make_classifier("bert", num_hidden_layers=1)
    run_with_layers(classifier.model, inputs_of(classifier), attention=True)
    assert not any(module._forward_hooks for module in classifier.model.modules() if isinstance(module, torch.nn.Linear))


def test_hidden_states_are_paired_from_the_first_layer_up(make_classifier: Make) -> None:
    student, teacher = make_classifier("bert", num_hidden_layers=2), make_classifier("bert", num_hidden_layers=4)
    ours, theirs = (run_with_layers(c.model, inputs_of(c), hidden=True)[1] for c in (student, teacher))
    pairs = hidden_pairs(ours, theirs)
    assert [pair[0] is state for pair, state in zip(pairs, ours.hidden, strict=True)] == [True, True]
    assert [pair[1] is theirs.hidden[layer] for pair, layer in zip(pairs, (1, 3), strict=True)] == [True, True]


def test_a_teacher_beside_the_student_has_no_dropout_and_no_gradient(make_classifier: Make) -> None:
    student = make_classifier("bert", seed=1, num_hidden_layers=1)
    teacher = make_classifier("bert", num_hidden_layers=1, hidden_dropout_prob=0.5)
    teacher.model.train()
    projections = Projections(num_layers=1, student_width=32, teacher_width=32, seed=0)
    term = Weighted("hidden", MappedStates(projections, squared_difference), 1.0, 1.0)
    objective = Objective([term], teacher=teacher.model)
    batch = TrainingBatch(inputs_of(student), labels=torch.zeros(2, dtype=torch.int64))
    once, again = (objective(student.model, batch).total for _ in range(2))
    assert once.item() == again.item() > 0
    once.backward()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert teacher.model.training  # left as it was


def test_a_family_whose_attention_is_computed_in_another_way_is_refused(make_classifier: Make) -> None:
    model = make_classifier("bert", num_hidden_layers=1).model
    require_readable(model, attention=True)
    model.config.model_type = "roformer"  # names its projections as BERT does, and rotates what they give
    with pytest.raises(SettingsError, match=r"families albert, bert, .*, not roformer"):
        require_readable(model, attention=True)
    require_readable(model, attention=False)


def test_a_model_without_layers_is_refused(make_classifier: Make) -> None:
    model = make_classifier("bert", num_hidden_layers=1).model
    model.config.num_hidden_layers = 0
    with pytest.raises(SettingsError, match="bert model has no layers"):
        require_readable(model, attention=False)
