"""Which device and which dtype a run computes in, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from distill.errors import SettingsError
from distill.models.devices import chosen_device, chosen_mixed_precision, evaluating, using_threads


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")], ids=["cuda", "mps", "cpu"]
)
def test_auto_is_the_fastest_device_of_the_machine(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert chosen_device("auto") == torch.device(expected)


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"cuda.*--device"):
        chosen_device("cuda")


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_is_bf16_where_it_is_faster(fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.models.devices.multiplies_bf16_faster", lambda: fast)
    assert chosen_mixed_precision("auto", torch.device("cpu")) == expected
    assert chosen_mixed_precision("bf16", torch.device("cpu")) == "bf16"
    assert chosen_mixed_precision("no", torch.device("cpu")) == "no"


def test_bf16_on_a_device_without_it_is_refused() -> None:
    assert chosen_mixed_precision("auto", torch.device("mps")) == "no"
    with pytest.raises(SettingsError, match=r"mps.*bf16.*--mixed-precision"):
        chosen_mixed_precision("bf16", torch.device("mps"))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_back_in_its_mode_after_an_error(training: bool) -> None:
    model = nn.Dropout().train(training)
    with contextlib.suppress(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training == training


@pytest.mark.usefixtures("torch_left_alone")
def test_processes_of_one_machine_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.models.devices.available_cpus", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with using_threads():
        assert torch.get_num_threads() == 2
    with using_threads(3):
        assert torch.get_num_threads() == 3
