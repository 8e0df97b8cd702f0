"""One rate for every dropout of a model, whatever its family calls it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.models.families import has_dropout, set_dropout
from distill.models.torch_classifier import TorchClassifier

Make = Callable[..., TorchClassifier]
FAMILIES = ("bert", "roberta", "electra", "distilbert", "albert")


def answers_twice(classifier: TorchClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(5, 15).repeat(4, 1)
    classifier.model.train()
    return classifier.model(input_ids=ids).logits, classifier.model(input_ids=ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_at_rate_0_training_draws_nothing(family: str, make_classifier: Make) -> None:
    classifier = make_classifier(family)
    assert has_dropout(classifier.model)
    set_dropout(classifier.model, 0.0)
    assert not has_dropout(classifier.model)
    first, second = answers_twice(classifier)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_rate_the_models_own_stays(family: str, make_classifier: Make) -> None:
    classifier = make_classifier(family)
    before = classifier.digest()
    set_dropout(classifier.model, None)
    assert classifier.digest() == before
    first, second = answers_twice(classifier)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_tells_a_reloaded_model(family: str, make_classifier: Make) -> None:
    classifier = make_classifier(family)
    set_dropout(classifier.model, 0.25)
    config = AutoConfig.for_model(**classifier.model.config.to_dict())
    rates = {
        module.p
        for module in AutoModelForSequenceClassification.from_config(config).modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert rates == {0.25}
