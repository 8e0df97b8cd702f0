"""Narrower students: what is exact, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.bundle import Bundle
from distill.classifier import agreement
from distill.data import Splits
from distill.errors import SettingsError
from distill.models.loading import blank_model, load_bundle
from distill.models.torch_classifier import TorchClassifier
from distill.students.width import fitted_norm, narrowed

TEXTS = ("lovely warm film with the funny story", "dull plot", "it was a cold scene and the end was stale") * 12


@pytest.fixture
def teacher(tiny_teacher: Bundle) -> TorchClassifier:
    return load_bundle(tiny_teacher)


def with_plain_norms(classifier: TorchClassifier) -> TorchClassifier:
    """Give every LayerNorm scale 1 and shift 0: the stream then never points where all channels are equal."""
    for name, parameter in classifier.model.named_parameters():
        if "LayerNorm" in name:
            parameter.data.fill_(float(name.endswith("weight")))
    return classifier


@pytest.mark.parametrize(
    ("family", "changes"), [("bert", {}), ("roberta", {}), ("electra", {"embedding_size": 32}), ("xlm-roberta", {})]
)
def test_at_full_width_a_turned_stream_gives_the_same_answers(
    make_classifier: Callable[..., TorchClassifier], family: str, changes: dict[str, int]
) -> None:
    whole = with_plain_norms(make_classifier(family, **changes))
    turned = narrowed(whole, 32, TEXTS)
    before, after = whole.predict_logits(TEXTS[:3]), turned.predict_logits(TEXTS[:3])
    assert np.abs(before).max() > 0.05
    np.testing.assert_allclose(after, before, atol=2e-4)
    table = "word_embeddings.weight"
    first, second = (
        next(tensor for name, tensor in one.model.state_dict().items() if name.endswith(table)) for one in (whole, turned)
    )
    assert not torch.allclose(first, second), "the stream was not turned at all"


def test_a_narrow_student_is_smaller_and_answers_as_its_teacher_mostly_does(
    teacher: TorchClassifier, tiny_splits: Splits
) -> None:
    narrow = narrowed(teacher, 32, tiny_splits.train.texts)
    config = narrow.model.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (32, 2, 128)
    # 4 layers of (4 * 32 * 32 + 2 * 32 * 128)
    assert narrow.multiply_adds_per_token() == 4 * (4 * 32 * 32 + 2 * 32 * 128)
    texts = tiny_splits.validation.texts
    wanted = teacher.predict_logits(texts)
    drawn = replace(teacher, model=blank_model(config).eval())
    kept = agreement(narrow.predict_logits(texts), wanted)
    assert kept > 0.8
    assert kept > agreement(drawn.predict_logits(texts), wanted)


def test_the_teacher_stays_as_it_is_and_the_same_seed_gives_the_same_student(teacher: TorchClassifier) -> None:
    before = teacher.digest()
    first, second = narrowed(teacher, 32, TEXTS, seed=1), narrowed(teacher, 32, TEXTS, seed=1)
    assert teacher.digest() == before
    assert first.digest() == second.digest() != narrowed(teacher, 32, TEXTS, seed=2).digest()


@pytest.mark.parametrize("width", [0, 40, 128, -16])
def test_a_width_that_does_not_fit_the_heads_is_refused(teacher: TorchClassifier, width: int) -> None:
    with pytest.raises(SettingsError, match="multiple of 16"):
        narrowed(teacher, width, TEXTS)


@pytest.mark.parametrize(("family", "said"), [("distilbert", "distilbert"), ("electra", "factorised embedding")])
def test_a_model_that_it_cannot_narrow_is_refused(
    make_classifier: Callable[..., TorchClassifier], family: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        narrowed(make_classifier(family), 16, TEXTS)


def test_a_channel_that_never_moves_is_all_shift() -> None:
    # Two tokens; after centring and scaling, channel 0 is -1 and +1, channel 1 is +1 and -1, channels 2 and 3 stay 0.
    before = torch.tensor([[-1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0]]).double() * 0.5**0.5
    after = torch.tensor([[1.0, 5.0, 7.0, 2.0], [3.0, 1.0, 7.0, 4.0]]).double()
    scale, shift = fitted_norm(before, after, torch.eye(4).double())
    # The two that move: half their spread over sqrt(2), with the sign of the slope; the others: their mean alone.
    np.testing.assert_allclose(scale, [0.5**0.5, 2 * 0.5**0.5, 0, 0])
    np.testing.assert_allclose(shift, [2, 3, 7, 3])


def test_without_texts_there_is_nothing_to_measure_on(teacher: TorchClassifier) -> None:
    with pytest.raises(SettingsError, match="needs texts"):
        narrowed(teacher, 32, ())
