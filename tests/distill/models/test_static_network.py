"""The static classifier: its answer worked out by hand, and that nothing but the text's own tokens has a say in it."""

from __future__ import annotations

import math

import pytest
import torch

from distill.errors import SettingsError
from distill.models.static_network import FoldedStatic, StaticClassifier, StaticConfig, windows_of


def worked_out() -> StaticClassifier:
    """Return a classifier small enough for pencil and paper."""
    model = StaticClassifier(
        StaticConfig(vocab_size=4, pad_token_id=0, hidden_size=1, window=3, num_features=2, head_size=2, num_labels=2)
    ).eval()
    with torch.no_grad():
        model.token_embeddings.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [-1.0]]))
        model.importance_embeddings.weight.copy_(torch.tensor([[9.0], [0.0], [math.log(2)], [0.0]]))
        model.local.weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 3.0]]))  # itself; left and thrice the right
        model.local.bias.copy_(torch.tensor([0.0, 0.5]))
        model.head.weight.copy_(torch.tensor([[4.0, -1.0, 0.5, 0.25], [-1.0, 0.0, 0.0, 0.0]]))
        model.head.bias.copy_(torch.tensor([0.5, 0.0]))
        model.classifier.weight.copy_(torch.tensor([[1.0, 7.0], [-2.0, 5.0]]))
        model.classifier.bias.copy_(torch.tensor([0.25, 1.0]))
    return model


def random_model(*, window: int = 5) -> StaticClassifier:
    """Return a classifier whose every weight matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = StaticConfig(vocab_size=40, hidden_size=8, window=window, num_features=16, head_size=8, num_labels=3)
        model = StaticClassifier(config).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)
        model.token_embeddings.weight.data[0] = 0
    return model


def answer(model: torch.nn.Module, ids: list[list[int]], mask: list[list[int]] | None = None) -> torch.Tensor:
    given = torch.tensor(ids)
    with torch.no_grad():
        logits: torch.Tensor = model(given, torch.ones_like(given) if mask is None else torch.tensor(mask)).logits
    return logits


def test_the_answer_is_the_one_worked_out_by_hand() -> None:
    # tokens 1, 2, 3 have the vectors 1, 2, -1
    # feature 0, the token itself:             relu(1, 2, -1)                          = 1, 2, 0
    # feature 1, left + 3 right + 0.5:         relu(0+6+0.5, 1-3+0.5, 2+0+0.5)         = 6.5, 0, 2.5
    # shares, softmax(0, ln 2, 0) = 1/4, 1/2, 1/4:   means 0.25 + 1 = 1.25 and 1.625 + 0.625 = 2.25; largest 2 and 6.5
    # head: 4 * 1.25 - 2.25 + 0.5 * 2 + 0.25 * 6.5 + 0.5 = 5.875; the other unit relu(-1.25) = 0
    # logits: 5.875 + 0.25 and -2 * 5.875 + 1
    assert answer(worked_out(), [[1, 2, 3]])[0].tolist() == pytest.approx([6.125, -10.75])


def test_a_text_of_one_token_has_nothing_beside_it() -> None:
    # features 2 and relu(0 + 0 + 0.5), mean and largest alike; head 4*2 - 0.5 + 0.5*2 + 0.25*0.5 + 0.5 = 9.125
    assert answer(worked_out(), [[2]])[0].tolist() == pytest.approx([9.375, -17.25])


def test_what_is_behind_the_mask_has_no_say() -> None:
    model = random_model()
    alone = answer(model, [[5, 6, 7]])
    for behind in ([0, 0, 0], [9, 30, 4]):
        padded = answer(model, [[5, 6, 7, *behind], [5, 6, 7, 9, 30, 4]], [[1, 1, 1, 0, 0, 0], [1] * 6])
        torch.testing.assert_close(padded[0], alone[0], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(padded[1], alone[0], atol=1e-2)


def test_the_order_of_words_matters_within_a_window_only() -> None:
    assert not torch.allclose(answer(random_model(), [[5, 6, 7]]), answer(random_model(), [[7, 5, 6]]), atol=1e-2)
    bag = random_model(window=1)
    torch.testing.assert_close(answer(bag, [[5, 6, 7]]), answer(bag, [[7, 5, 6]]))


def test_windows_are_cut_off_at_the_ends_of_the_text() -> None:
    windows = windows_of(torch.tensor([[4, 5, 6]]), torch.tensor([[1, 1, 0]]), width=5, pad_id=9)
    assert windows.tolist() == [[[9, 9, 4, 5, 9], [9, 4, 5, 9, 9], [4, 5, 9, 9, 9]]]


@pytest.mark.parametrize("window", [1, 3, 5])
def test_the_folded_form_answers_alike(window: int) -> None:
    model = random_model(window=window)
    ids, mask = [[5, 6, 7, 8, 0], [30, 2, 0, 0, 0]], [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    torch.testing.assert_close(answer(FoldedStatic(model), ids, mask), answer(model, ids, mask), atol=1e-4, rtol=1e-5)


def test_the_vector_of_padding_stays_nothing_while_it_learns() -> None:
    model = worked_out().train()
    model(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]])).logits.sum().backward()
    gradient = model.token_embeddings.weight.grad
    assert gradient is not None
    assert gradient[0].item() == 0
    assert gradient[1].item() != 0


@pytest.mark.parametrize("window", [0, 2])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(SettingsError, match=f"odd number of tokens, got {window}"):
        StaticClassifier(StaticConfig(window=window))
