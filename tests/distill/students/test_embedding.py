"""The linear layer after the token table: a factorised table, or a window of three, in a class that `transformers` loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.errors import SettingsError
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.settings import StudentSettings
from distill.students.build import build_student
from distill.students.embedding import factorise_embedding, factorised, look_at_neighbours
from distill.tokenization import Batch

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm with a charming actor", "unheard words")


def rebuilt(table: Tensor, product: Tensor, mean: Tensor) -> Tensor:
    return table @ product.T + mean


def test_rows_on_a_line_need_one_column() -> None:
    # mean (3, 1) plus multiples of (3, 4): one column is enough, and holds -5, 0 and 5 times a sign
    vectors = torch.tensor([[0.0, -3.0], [3.0, 1.0], [6.0, 5.0]])
    table, product, mean = factorised(vectors, 1, row_weights=torch.ones(3))
    assert mean.tolist() == pytest.approx([3.0, 1.0])
    assert table.abs().flatten().tolist() == pytest.approx([5.0, 0.0, 5.0], abs=1e-6)
    assert (product[:, 0] * product[:, 0].sign()[0]).tolist() == pytest.approx([0.6, 0.8])
    torch.testing.assert_close(rebuilt(table, product, mean), vectors)


def test_unweighted_the_error_is_that_of_the_singular_values_left_out() -> None:
    vectors = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    error = (rebuilt(*factorised(vectors, 5, row_weights=torch.ones(40))) - vectors).square().sum()
    left_out = torch.linalg.svdvals(vectors - vectors.mean(dim=0))[5:]
    assert error.item() == pytest.approx(left_out.square().sum().item(), rel=1e-4)


def test_frequent_rows_are_nearer() -> None:
    vectors = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    often = torch.ones(40)
    often[:4] = 1000
    errors = [
        (rebuilt(*factorised(vectors, 3, row_weights=counts)) - vectors).norm(dim=1) for counts in (torch.ones(40), often)
    ]
    assert errors[1][:4].max() < 0.1 * errors[0][:4].min()


def test_with_all_but_one_column_the_answers_are_berts(make_classifier: Make) -> None:
    # 34 tokens less their mean span 31 dimensions when one of the 32 is emptied: nothing is lost, and what is left of the
    # difference is MobileBERT's 1e-5 in its norms
    teacher = make_classifier()
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight[:, 7] = 0.25
    student = factorise_embedding(teacher, 31, texts=TEXTS)
    np.testing.assert_allclose(student.predict_logits(TEXTS), teacher.predict_logits(TEXTS), atol=1e-3)
    assert student.num_parameters() == teacher.num_parameters() - 34 * 32 + 34 * 31 + 31 * 32 + 32


def test_a_saved_student_reloads_with_plain_transformers(make_classifier: Make, tmp_path: Path) -> None:
    settings = StudentSettings(num_layers=3, intermediate_size=24, embedding_size=8)
    student = build_student(make_classifier(), settings, labelled=TEXTS)
    assert student.input_vectors().shape == (34, 8)
    write_model_files(student, tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label == {0: "negative", 1: "positive"}
    inputs = AutoTokenizer.from_pretrained(tmp_path)(list(TEXTS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(logits, student.predict_logits(TEXTS), atol=1e-5)
    again = load_pretrained(str(tmp_path), labels=student.labels, max_length=32, seed=1)
    np.testing.assert_allclose(again.predict_logits(TEXTS), student.predict_logits(TEXTS), atol=1e-5)


def test_every_weight_but_the_table_is_the_teachers(make_classifier: Make) -> None:
    teacher = make_classifier()
    theirs, ours = teacher.model.state_dict(), factorise_embedding(teacher, 8, texts=TEXTS).model.state_dict()
    made = {f"mobilebert.embeddings.{name}" for name in ("word_embeddings.weight", "embedding_transformation.weight")}
    made.add("mobilebert.embeddings.embedding_transformation.bias")
    for name in ours.keys() - made:
        assert torch.equal(ours[name], theirs[name.replace("mobilebert.", "bert.")]), name
    assert len(ours) == len(theirs) + 2


def test_what_cannot_be_factorised_is_refused(make_classifier: Make) -> None:
    with pytest.raises(SettingsError, match=r"roberta.*--embedding-size"):
        factorise_embedding(make_classifier("roberta"), 8, texts=TEXTS)
    with pytest.raises(SettingsError, match="32"):
        factorise_embedding(make_classifier(), 32, texts=TEXTS)


def test_a_window_answers_as_before_until_it_has_learnt(make_classifier: Make) -> None:
    teacher = make_classifier()
    student = look_at_neighbours(teacher)
    np.testing.assert_allclose(student.predict_logits(TEXTS), teacher.predict_logits(TEXTS), atol=1e-3)
    assert student.num_parameters() == teacher.num_parameters() + 3 * 32 * 32 + 32
    narrow = factorise_embedding(teacher, 8, texts=TEXTS)
    np.testing.assert_allclose(look_at_neighbours(narrow).predict_logits(TEXTS), narrow.predict_logits(TEXTS), atol=1e-5)


def test_one_layer_with_a_window_tells_the_order_of_words_between_the_same_places(make_classifier: Make) -> None:
    """Without positions, one layer's first token sees a bag of words; with a window it does not."""
    teacher = make_classifier()
    with torch.no_grad():
        teacher.model.bert.embeddings.position_embeddings.weight.zero_()
    bag = build_student(teacher, StudentSettings(num_layers=1))
    window = build_student(teacher, StudentSettings(num_layers=1, embedding_window=3))
    torch.manual_seed(0)
    with torch.no_grad():
        window.model.mobilebert.embeddings.embedding_transformation.weight.normal_()
    one, other = ("not funny a warm film", "not warm a funny film")
    np.testing.assert_allclose(*(bag.predict_logits([text]) for text in (one, other)), atol=1e-5)
    assert np.abs(window.predict_logits([one]) - window.predict_logits([other])).max() > 1e-2


def test_padding_does_not_reach_the_last_token_of_a_window(make_classifier: Make) -> None:
    student = look_at_neighbours(make_classifier())
    with torch.no_grad():
        student.model.mobilebert.embeddings.embedding_transformation.weight.normal_(generator=torch.Generator().manual_seed(0))
    together = student.predict_logits(TEXTS)
    alone = np.concatenate([student.predict_logits([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    loss = student.model(**{name: torch.from_numpy(ids) for name, ids in padded(student).inputs().items()}).logits.sum()
    loss.backward()
    assert student.model.get_input_embeddings().weight.grad[student.tokenizer.pad_id].abs().max() == 0


def padded(classifier: TorchClassifier) -> Batch:
    return classifier.tokenizer.pad(classifier.tokenizer.encode(TEXTS))


def test_a_window_is_refused_where_there_is_one_or_no_bert(make_classifier: Make) -> None:
    with pytest.raises(SettingsError, match=r"roberta.*--embedding-window"):
        look_at_neighbours(make_classifier("roberta"))
    with pytest.raises(SettingsError, match=r"mobilebert.*--embedding-window"):
        look_at_neighbours(look_at_neighbours(make_classifier()))
    with pytest.raises(ValueError, match="embedding_window"):
        StudentSettings(kind="static", embedding_window=3)
