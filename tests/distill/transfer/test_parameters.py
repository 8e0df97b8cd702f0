"""Which weights learn and how fast, tried on a tiny BERT; the figures are worked out in the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from objectives import mixed_objective
from torch import nn

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import SettingsError
from distill.losses.objective import TrainingBatch
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.training.loop import adamw
from distill.transfer.parameters import AnchoredObjective, LayerRates, add_lora, freeze, reinitialize_top


def loaded(folder: Path) -> TorchClassifier:
    return load_pretrained(str(folder), labels=("negative", "positive"), max_length=32, seed=0)


def test_lower_layers_learn_slower_by_powers_of_the_decay() -> None:
    rates = LayerRates(num_layers=4, decay=0.5)
    assert rates("classifier.weight", 0) == 1
    assert rates("bert.pooler.dense.weight", 0) == 1
    assert rates("bert.encoder.layer.3.output.dense.weight", 0) == 0.5
    assert rates("bert.encoder.layer.0.output.dense.weight", 0) == 0.5**4
    assert rates("bert.embeddings.word_embeddings.weight", 0) == 0.5**5


def test_one_layer_more_learns_in_each_epoch() -> None:
    rates = LayerRates(num_layers=2, gradual=True)
    names = ("classifier.weight", "bert.encoder.layer.1.x", "bert.encoder.layer.0.x", "bert.embeddings.x")
    shares = [[rates(name, epoch) for name in names] for epoch in range(4)]
    assert shares == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_the_optimiser_groups_weights_by_their_shares() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    rates = {"0": (0.0, 0.5), "1": (1.0, 1.0)}
    optimizer = adamw(module, learning_rate=1.0, weight_decay=0.1, rates=lambda name, epoch: rates[name[0]][epoch], epochs=2)
    found = {(group["weight_decay"], group["shares"]): len(group["params"]) for group in optimizer.param_groups}
    assert found == {(0.1, (0.0, 0.5)): 1, (0.1, (1.0, 1.0)): 1, (0.0, (0.0, 0.5)): 1, (0.0, (1.0, 1.0)): 1}


def changed_layers(before: TorchClassifier, after: TorchClassifier) -> set[str]:
    old = before.model.state_dict()
    return {
        name.removeprefix("bert.").removeprefix("encoder.").split(".")[0]
        + (f".{name.split('.')[3]}" if ".layer." in name else "")
        for name, tensor in after.model.state_dict().items()
        if not torch.equal(tensor, old[name])
    }


def carried(tiny_model: Path, splits: Splits, out: Path, **settings: object) -> TorchClassifier:
    chosen = TeacherSettings(**{"epochs": 1, "learning_rate": 1e-3, "max_length": 32, **settings})
    train = splits.train.take(range(32))
    bundle = fit_teacher(str(tiny_model), train=train, validation=splits.validation, out=out, settings=chosen)
    return load_bundle(bundle)


def test_frozen_layers_stay(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    before = loaded(tiny_model)
    everything = {"embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "pooler", "classifier"}
    assert changed_layers(before, carried(tiny_model, tiny_splits, tmp_path / "all")) == everything
    top = carried(tiny_model, tiny_splits, tmp_path / "frozen", freeze_below=3)
    assert changed_layers(before, top) == {"layer.3", "pooler", "classifier"}
    gradual = carried(tiny_model, tiny_splits, tmp_path / "gradual", gradual_unfreezing=True, epochs=6, patience=6)
    history = Bundle.open(tmp_path / "gradual").manifest.history
    best = max(range(6), key=lambda epoch: (history[epoch]["macro_f1"], -epoch))
    # The head learns in the first epoch, and one more part in each further one, down to the embeddings in the sixth.
    unfrozen = ["layer.3", "layer.2", "layer.1", "layer.0", "embeddings"][:best]
    assert changed_layers(before, gradual) == {"pooler", "classifier", *unfrozen}


def test_gradual_unfreezing_needs_an_epoch_for_each_layer(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    # Four layers: the head, each layer and the embeddings are six epochs; below frozen layers there is nothing to unfreeze.
    for settings, needed in ({"epochs": 5}, 6), ({"epochs": 2, "freeze_below": 2}, 3):
        with pytest.raises(SettingsError, match=f"needs {needed} epochs.*--epochs {needed}"):
            carried(tiny_model, tiny_splits, tmp_path / "few", gradual_unfreezing=True, **settings)


def test_only_the_top_layers_are_reinitialized(tiny_model: Path) -> None:
    before, after = loaded(tiny_model), loaded(tiny_model)
    reinitialize_top(after.model, layers=2, seed=1)
    assert changed_layers(before, after) == {"layer.2", "layer.3", "pooler"}
    weight = after.model.bert.encoder.layer[3].intermediate.dense.weight
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    again = loaded(tiny_model)
    reinitialize_top(again.model, layers=2, seed=1)
    assert not changed_layers(after, again)
    with pytest.raises(SettingsError, match="reinit_layers is 5, but the model has only 4 layers"):
        reinitialize_top(after.model, layers=5, seed=1)
    with pytest.raises(SettingsError, match="freeze_below is 5, but the model has only 4 layers"):
        freeze(after.model, below=5)


def test_lora_merges_into_plain_weights_that_answer_alike(tiny_model: Path) -> None:
    pytest.importorskip("peft")
    classifier = loaded(tiny_model)
    classifier.model.eval()
    names = set(classifier.model.state_dict())
    adapter = add_lora(classifier.model, TeacherSettings(lora_rank=2))
    assert adapter is not None
    learning = {name.split(".lora_")[0] for name, weight in classifier.model.named_parameters() if weight.requires_grad}
    assert "bert.encoder.layer.0.attention.self.query" in learning
    assert "classifier.weight" in learning
    assert not any("output.dense" in name or "embeddings" in name for name in learning)
    with torch.no_grad():  # as if they had learnt
        for name, weight in classifier.model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    texts = ["a lovely film", "dull plot"]
    beside = classifier.predict_logits(texts)
    adapter.merge_and_unload()
    assert set(classifier.model.state_dict()) == names
    np.testing.assert_allclose(classifier.predict_logits(texts), beside, atol=1e-5)
    assert np.abs(loaded(tiny_model).predict_logits(texts) - beside).max() > 1e-3


def test_lora_ends_in_a_bundle(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    made = carried(tiny_model, tiny_splits, tmp_path / "lora", lora_rank=4)
    assert changed_layers(loaded(tiny_model), made) == {"layer.0", "layer.1", "layer.2", "layer.3", "pooler", "classifier"}


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"features.*anchor"):
        TeacherSettings(transfer="features", anchor=1.0)
    with pytest.raises(SettingsError, match="freeze_below"):
        TeacherSettings(lora_rank=2, freeze_below=1)


def test_the_anchor_adds_the_squared_way_from_the_start() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(2, 2, bias=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            class Output:
                logits = self.encoder(input_ids.float()) * attention_mask

            return Output

    model = Model()
    with torch.no_grad():
        model.encoder.weight.zero_()
    objective = AnchoredObjective(mixed_objective(), model.encoder, weight=0.5)
    assert not list(objective.parameters())
    batch = TrainingBatch(inputs={"input_ids": torch.zeros(1, 2), "attention_mask": torch.ones(1, 2)}, labels=torch.tensor([0]))
    assert objective(model, batch).total.item() == pytest.approx(np.log(2))  # logits 0, 0, and no way gone
    with torch.no_grad():
        model.encoder.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    loss = objective(model, batch)
    assert loss.terms["anchor"] == 5.0  # 1² + 2²
    loss.total.backward()
    assert loss.total.item() == pytest.approx(np.log(2) + 2.5)
    assert model.encoder.weight.grad is not None
    assert model.encoder.weight.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]  # 0.5 * 2 * way
