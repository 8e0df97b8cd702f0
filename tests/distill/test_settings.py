"""Settings: ranges, unknown keys, and errors in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import SettingsError
from distill.settings import DataSettings, DistillSettings, Settings, StudentSettings, TextSettings
from distill.teacher_settings import TeacherSettings

ALL = (TextSettings, DataSettings, TeacherSettings, StudentSettings, DistillSettings)


@pytest.mark.parametrize("kind", ALL)
def test_every_setting_has_a_default_and_a_description(kind: type[Settings]) -> None:
    kind()
    for name, field in kind.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("kind", ALL)
def test_settings_survive_a_round_trip_through_json(kind: type[Settings]) -> None:
    assert kind(**kind().model_dump(mode="json")) == kind()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DistillSettings().temperature = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", -1),
        ("temperature", math.inf),
        ("soft_weight", 1.01),
        ("soft_weight", -0.01),
        ("soft_weight", math.nan),
        ("max_length", 3),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("warmup_share", 1),
        ("patience", 0),
        ("seed", -1),
        ("device", "tpu"),
        ("num_layers", 0),
        ("layer_rule", "middle"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        DistillSettings(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert message.endswith(f", got {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.01), ("soft_weight", 0), ("soft_weight", 1), ("max_length", 4), ("max_length", None)]
)
def test_the_ends_of_a_range_are_valid(name: str, value: Any) -> None:
    assert getattr(DistillSettings(**{name: value}), name) == value


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"^unknown setting 'temprature'$"):
        DistillSettings(temprature=2)


def test_one_error_reports_all_problems() -> None:
    with pytest.raises(SettingsError) as caught:
        DistillSettings(alpha=0.5, temperature=-1, epochs=0)
    assert str(caught.value).count(";") == 2
    assert all(name in str(caught.value) for name in ("'alpha'", "temperature", "epochs"))


@pytest.mark.parametrize("layers", [(1, 1), (-1, 2)])
def test_layers_are_distinct_numbers_from_0(layers: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        DistillSettings(layers=layers)
    assert str(caught.value) == f"layers must be distinct numbers from 0, got {list(layers)}"
    assert DistillSettings(layers=(4, 0)).layers == (4, 0)


def test_label_names_are_distinct() -> None:
    with pytest.raises(SettingsError) as caught:
        DataSettings(labels=("bad", "good", "bad"))
    assert str(caught.value) == "labels must be distinct names, got ['bad', 'good', 'bad']"


def test_numbers_are_parsed_from_text() -> None:
    assert DistillSettings(temperature="4", epochs="2").temperature == 4.0
    with pytest.raises(SettingsError, match="epochs: "):
        DistillSettings(epochs="two")


def test_the_default_learning_rate_of_a_student_is_above_that_of_a_teacher() -> None:
    # Both inherit the field; the default of the subclass must win.
    assert TeacherSettings().learning_rate == 5e-5
    assert DistillSettings().learning_rate == 1e-4


def test_a_static_student_has_a_learning_rate_of_its_own_unless_one_is_given() -> None:
    assert DistillSettings(kind="static").learning_rate == 1e-3
    assert DistillSettings(kind="static", learning_rate=2e-4).learning_rate == 2e-4
    assert DistillSettings().learning_rate == DistillSettings(kind="encoder").learning_rate == 1e-4
