"""A student is the teacher's own weights, and reloads as what was saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import SettingsError
from distill.models.loading import load_bundle
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.settings import StudentSettings
from distill.students.build import build_student
from distill.students.layers import chosen_layers, keep_layers
from distill.students.width import SAMPLE_TEXTS

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm with a charming actor", "unheard words")

# How each family names a weight of layer {n}, and its token table.
NAMES_OF_FAMILY = {
    "xlm-roberta": ("roberta.encoder.layer.{n}.attention.self.query.weight", "roberta.embeddings.word_embeddings.weight"),
    "camembert": ("roberta.encoder.layer.{n}.attention.self.query.weight", "roberta.embeddings.word_embeddings.weight"),
    "mpnet": ("mpnet.encoder.layer.{n}.attention.attn.q.weight", "mpnet.embeddings.word_embeddings.weight"),
    "deberta": ("deberta.encoder.layer.{n}.output.dense.weight", "deberta.embeddings.word_embeddings.weight"),
    "bert": ("bert.encoder.layer.{n}.attention.self.query.weight", "bert.embeddings.word_embeddings.weight"),
    "roberta": ("roberta.encoder.layer.{n}.attention.self.query.weight", "roberta.embeddings.word_embeddings.weight"),
    "electra": ("electra.encoder.layer.{n}.attention.self.query.weight", "electra.embeddings.word_embeddings.weight"),
    "distilbert": ("distilbert.transformer.layer.{n}.attention.q_lin.weight", "distilbert.embeddings.word_embeddings.weight"),
}


@pytest.mark.parametrize(
    ("rule", "count", "of", "expected"),
    [
        ("spread", 3, 6, (1, 3, 5)),
        ("spread", 2, 6, (2, 5)),
        ("spread", 1, 6, (5,)),
        ("spread", 6, 6, (0, 1, 2, 3, 4, 5)),
        ("spread", 4, 12, (2, 5, 8, 11)),
        ("spread", 5, 12, (1, 4, 6, 9, 11)),  # ends of segments of 2.4 layers: 2.4, 4.8, 7.2, 9.6, 12
        ("lower", 3, 6, (0, 1, 2)),
        ("upper", 2, 6, (4, 5)),
        ("upper", 6, 6, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_each_rule_chooses_its_layers(rule: str, count: int, of: int, expected: tuple[int, ...]) -> None:
    assert chosen_layers(StudentSettings(num_layers=count, layer_rule=rule), of) == expected


@pytest.mark.parametrize("of", range(1, 25))
def test_spread_layers_rise_and_end_with_the_last(of: int) -> None:
    for count in range(1, of + 1):
        layers = chosen_layers(StudentSettings(num_layers=count), of)
        assert len(layers) == count
        assert list(layers) == sorted(set(layers))
        assert layers[-1] == of - 1
        assert layers[0] >= 0


def test_layers_by_number_override_the_rule_and_keep_their_order() -> None:
    assert chosen_layers(StudentSettings(num_layers=1, layer_rule="lower", layers=(5, 0)), 6) == (5, 0)


def test_layers_the_teacher_does_not_have_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"num_layers is 7.* 6 layers"):
        chosen_layers(StudentSettings(num_layers=7), 6)
    with pytest.raises(SettingsError, match=r"layers names 6.* 0 to 5"):
        chosen_layers(StudentSettings(layers=(1, 6)), 6)


@pytest.mark.parametrize("layers", [(1, 1), (-1, 2)])
def test_layers_named_twice_or_below_zero_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="distinct numbers from 0"):
        StudentSettings(layers=layers)


@pytest.mark.parametrize("family", NAMES_OF_FAMILY)
def test_every_weight_of_the_student_is_the_teachers(family: str, make_classifier: Make) -> None:
    teacher = make_classifier(family)
    student = keep_layers(teacher, (4, 1))
    theirs, ours = teacher.model.state_dict(), student.model.state_dict()
    layer_name, table_name = NAMES_OF_FAMILY[family]
    assert torch.equal(ours[layer_name.format(n=0)], theirs[layer_name.format(n=4)])
    assert torch.equal(ours[layer_name.format(n=1)], theirs[layer_name.format(n=1)])
    assert layer_name.format(n=2) not in ours
    assert torch.equal(ours[table_name], theirs[table_name])

    place = {"0": "4", "1": "1"}
    for name, tensor in ours.items():
        before, marker, rest = name.partition(".layer.")
        number, _, after = rest.partition(".")
        source = f"{before}{marker}{place[number]}.{after}" if marker else name
        assert torch.equal(tensor, theirs[source]), name


@pytest.mark.usefixtures("torch_left_alone")
def test_building_a_student_spends_none_of_the_callers_randomness(make_classifier: Make) -> None:
    build_student(make_classifier(), StudentSettings(num_layers=3))


def test_a_student_of_all_layers_answers_as_the_teacher(make_classifier: Make) -> None:
    teacher = make_classifier()
    student = build_student(teacher, StudentSettings(num_layers=6))
    np.testing.assert_array_equal(student.predict_logits(TEXTS), teacher.predict_logits(TEXTS))


def test_the_order_of_the_layers_decides_the_answer(make_classifier: Make) -> None:
    teacher = make_classifier()
    one, other = (build_student(teacher, StudentSettings(layers=layers)) for layers in ((1, 4), (4, 1)))
    assert np.abs(one.predict_logits(TEXTS) - other.predict_logits(TEXTS)).max() > 1e-3


def test_the_teacher_stays_as_it_is_when_the_student_changes(make_classifier: Make) -> None:
    teacher = make_classifier()
    before = teacher.digest()
    student = build_student(teacher, StudentSettings(num_layers=2))
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.add_(1.0)
    assert teacher.digest() == before
    assert teacher.model.config.num_hidden_layers == 6


def test_a_family_whose_layers_are_not_known_is_refused(make_classifier: Make) -> None:
    with pytest.raises(SettingsError, match="layers of a albert model"):
        build_student(make_classifier("albert"), StudentSettings(num_layers=1))


@pytest.mark.parametrize("family", NAMES_OF_FAMILY)
def test_a_saved_student_reloads_with_plain_transformers(family: str, make_classifier: Make, tmp_path: Path) -> None:
    student = build_student(make_classifier(family), StudentSettings(num_layers=3))
    write_model_files(student, tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 3
    assert NAMES_OF_FAMILY[family][0].format(n=2) in model.state_dict()
    assert NAMES_OF_FAMILY[family][0].format(n=3) not in model.state_dict()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    rows = student.tokenizer.encode(TEXTS)
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], rows, strict=True):
        assert ids[mask.bool()].tolist() == row.tolist()
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(logits, student.predict_logits(TEXTS), atol=1e-5)


def test_the_bundle_of_a_student_reloads_with_its_own_number_of_layers(tiny_unexported: Bundle, tiny_test: Dataset) -> None:
    ours = load_bundle(tiny_unexported)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_unexported.path).eval()
    assert ours.model.config.num_hidden_layers == plain.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(tiny_unexported.path)
    texts = tiny_test.texts[:20]
    with torch.inference_mode():
        logits = plain(**tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(ours.predict_logits(texts), logits, atol=1e-5)


class Unreadable(Sequence[str]):
    """Texts that fail the test when one of them is read."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError(f"text {index} was read")


@pytest.mark.parametrize("settings", [{"num_layers": 2}, {"num_layers": 1, "embedding_window": 3}, {"kind": "static"}])
def test_texts_are_read_by_no_step_that_does_not_choose_on_them(settings: dict[str, Any], make_classifier: Make) -> None:
    build_student(make_classifier(), StudentSettings(**settings), labelled=Unreadable(), unlabeled=Unreadable())


def test_a_step_that_chooses_on_texts_reads_a_sample_of_both_sources(make_classifier: Make) -> None:
    read = set()

    class Counted(Sequence[str]):
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return 1_000

        def __getitem__(self, index: Any) -> Any:
            read.add((self.name, int(index) % 1_000))
            return "a lovely film" if index % 2 else "dull"

    settings = StudentSettings(num_layers=1, intermediate_size=16)
    build_student(make_classifier(), settings, labelled=Counted("labelled"), unlabeled=Counted("unlabeled"))
    assert len(read) == SAMPLE_TEXTS
    assert {name for name, _ in read} == {"labelled", "unlabeled"}
