"""The table of families against the models of transformers, and what reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import random_classifier
from torch import nn

from distill.errors import SettingsError
from distill.models.families import FAMILIES, InLayer, family_of, in_layer, layer_names, position_offset
from distill.models.recording import recording
from distill.models.torch_classifier import TorchClassifier

Make = Callable[..., TorchClassifier]
LINEAR = ("query", "key", "value", "attention_output", "up", "down")
NORMS = ("attention_norm", "norm")
OF_CONFIG = {
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 32},
    "mobilebert": {"embedding_size": 32, "use_bottleneck": False, "normalization_type": "layer_norm"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_of_the_table_is_a_module_of_the_right_kind(family: str, tiny_model: Path) -> None:
    model = random_classifier(family, tiny_model, **OF_CONFIG.get(family, {})).model
    names = FAMILIES[family]
    layers = layer_names(model) if names.layers else ["albert.encoder.albert_layer_groups.0.albert_layers.0"]
    if names.layers:
        assert layers == [f"{model.base_model_prefix}.{names.layers}.{number}" for number in (0, 1)]
    for layer in layers:
        assert all(isinstance(model.get_submodule(f"{layer}.{getattr(names, part)}"), nn.Linear) for part in LINEAR)
        assert all(isinstance(model.get_submodule(f"{layer}.{getattr(names, part)}"), nn.LayerNorm) for part in NORMS)
    assert isinstance(model.get_submodule(f"{model.base_model_prefix}.{names.embedding_norm}"), nn.LayerNorm)
    pooler, head = (model.get_submodule(name) for name in (names.pooler, names.head))
    assert isinstance(pooler, nn.Linear)
    assert isinstance(head, nn.Linear)
    assert (pooler.in_features, head.out_features) == (32, 2)
    assert getattr(model.config, names.intermediate_size) == model.get_submodule(f"{layers[0]}.{names.up}").out_features
    assert isinstance(getattr(model.config, names.activation), str)


@pytest.mark.parametrize("family", [name for name, names in FAMILIES.items() if names.supports])
def test_the_head_applies_the_activation_of_the_table(family: str, tiny_model: Path) -> None:
    model = random_classifier(family, tiny_model, **OF_CONFIG.get(family, {})).model
    names = family_of(model.config)
    passed: dict[str, list[torch.Tensor]] = {}
    modules = {name: model.get_submodule(name) for name in (names.pooler, names.head)}
    with recording(modules, lambda name, before, after: passed.update({name: [before, after]})), torch.no_grad():
        model(input_ids=torch.tensor([[2, 10, 20, 3]]))
    expected = getattr(torch.nn.functional, names.pooler_activation)(passed[names.pooler][1])
    torch.testing.assert_close(passed[names.head][0], expected)


@pytest.mark.parametrize(("family", "offset"), [("bert", 0), ("distilbert", 0), ("roberta", 2), ("camembert", 2), ("mpnet", 2)])
def test_the_first_token_reads_the_first_position_in_use(family: str, offset: int, tiny_model: Path) -> None:
    model = random_classifier(family, tiny_model, **OF_CONFIG.get(family, {})).model
    assert position_offset(model.config) == offset
    table = model.get_submodule(f"{model.base_model_prefix}.embeddings.position_embeddings")
    read = []
    with recording({"": table}, lambda _, ids, __: read.append(ids)):
        model(input_ids=torch.tensor([[2, 10, 20, 3]]))
    assert read[0].flatten().tolist() == [offset, offset + 1, offset + 2, offset + 3]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bert.encoder.layer.11.output.dense.weight", InLayer("bert.encoder.layer", 11, "output.dense.weight")),
        ("encoder.layer.0", InLayer("encoder.layer", 0, "")),
        ("module.distilbert.transformer.layer.2.ffn", InLayer("module.distilbert.transformer.layer", 2, "ffn")),
        ("bert.encoder.layer", None),
        ("bert.embeddings.word_embeddings.weight", None),
        ("bert.myencoder.layer.1.dense", None),
    ],
)
def test_a_name_is_split_at_its_layer(name: str, place: InLayer | None) -> None:
    assert in_layer(name) == place


def test_a_family_outside_the_table_is_read_by_berts_names(tiny_model: Path) -> None:
    model = random_classifier("deberta", tiny_model).model
    assert layer_names(model) == ["deberta.encoder.layer.0", "deberta.encoder.layer.1"]
    assert not family_of(model.config).supports


def test_shared_layers_are_no_list_of_layers(make_classifier: Make) -> None:
    with pytest.raises(SettingsError, match="albert"):
        layer_names(make_classifier("albert").model)


def test_recording_ends_with_its_block_even_after_an_error() -> None:
    module, passes = nn.Linear(2, 1), []
    with contextlib.suppress(RuntimeError), recording({"linear": module}, lambda *each: passes.append(each)):
        module(torch.ones(3, 2))
        module(torch.ones(3, 5))  # another width: raises
    module(torch.ones(1, 2))
    ((key, given, returned),) = passes
    assert (key, given.shape, returned.shape) == ("linear", (3, 2), (3, 1))
    assert not module._forward_hooks
