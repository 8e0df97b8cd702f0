"""Data sets from Python objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from distill.data import Dataset
from distill.errors import DatasetError

TEXTS = ["fine", "dull", "good"]


def column(kind: str, values: list[Any]) -> Any:
    """Return values as a column of a library."""
    if kind == "array":
        return np.array(values)
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame({"a": values})["a"]
    if kind == "datasets":
        return pytest.importorskip("datasets").Dataset.from_dict({"a": values})["a"]
    if kind == "generator":
        return (value for value in values)
    return values


@pytest.mark.parametrize("kind", ["list", "array", "pandas", "datasets", "generator"])
@pytest.mark.parametrize(
    ("labels", "names", "ids", "expected"),
    [
        (["yes", "no", "yes"], None, [1, 0, 1], ("no", "yes")),
        (["yes", "no", "yes"], ("yes", "no"), [0, 1, 0], ("yes", "no")),
        ([2, 0, 10], None, [1, 0, 2], ("0", "2", "10")),
        ([1, 0, 1], ("no", "yes", "maybe"), [1, 0, 1], ("no", "yes", "maybe")),
        ([1.0, 0.0, 1.0], None, [1, 0, 1], ("0", "1")),
        ([True, False, True], None, [1, 0, 1], ("false", "true")),
    ],
)
def test_one_label_per_text(kind: str, labels: list[Any], names: tuple[str, ...] | None, ids: list[int], expected: Any) -> None:
    made = Dataset.from_texts(column(kind, TEXTS), column(kind, labels), names)
    assert made.texts == tuple(TEXTS)
    assert {type(text) for text in made.texts} == {str}
    assert (made.label_ids.tolist(), made.labels) == (ids, expected)
    assert made.problem_type == "single_label_classification"


class Frame:
    """Looks like a data frame of zeros and ones, which not every machine has."""

    ndim, columns = 2, ("funny", "sad")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array([[1, 0], [0, 0], [1, 1]], dtype=dtype)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([["funny"], [], ["sad", "funny"]], None, ("funny", "sad")),
        ([{"funny"}, set(), {"sad", "funny"}], None, ("funny", "sad")),
        ([[0], [], [1, 0]], ("funny", "sad"), ("funny", "sad")),
        (np.array([[1, 0], [0, 0], [1, 1]]), ("funny", "sad"), ("funny", "sad")),
        ([[1, 0], [0, 0], [1, 1]], None, ("0", "1")),
        (np.array([[True, False], [False, False], [True, True]]), None, ("0", "1")),
        (Frame(), None, ("funny", "sad")),
    ],
)
def test_several_labels_per_text(labels: Iterable[Any], names: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    made = Dataset.from_texts(TEXTS, labels, names)
    assert (made.label_ids.tolist(), made.labels) == ([[1, 0], [0, 0], [1, 1]], expected)


def test_a_data_frame_and_a_sparse_matrix_are_indicator_matrices() -> None:
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    frame = pandas.DataFrame({"funny": [1, 0, 1], "sad": [0, 0, 1]})
    assert Dataset.from_texts(TEXTS, frame).labels == ("funny", "sad")
    assert Dataset.from_texts(TEXTS, sparse.csr_matrix(frame.to_numpy())).label_ids.tolist() == [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("kind", ["tuples", "lists", "array", "pandas"])
def test_pairs_of_texts(kind: str) -> None:
    pairs = [("who?", "we"), ("what?", "that")]
    given: Any = {"tuples": pairs, "lists": [list(pair) for pair in pairs], "array": np.array(pairs)}.get(kind)
    if kind == "pandas":
        given = pytest.importorskip("pandas").DataFrame(pairs, columns=["question", "answer"])
    made = Dataset.from_texts(given, ["yes", "no"])
    assert made.texts == tuple(pairs)
    assert made.is_pairs


@pytest.mark.parametrize(
    ("texts", "labels", "names", "facts"),
    [
        ("fine", ["a"], None, ["str"]),
        (["fine", 3], ["a", "b"], None, ["row 1", "int"]),
        (["fine", None], ["a", "b"], None, ["row 1", "NoneType"]),
        (["fine", ("a", "b", "c")], ["a", "b"], None, ["row 1"]),
        (np.array([["a", "b", "c"]]), ["a"], None, ["3 columns"]),
        (TEXTS, ["a", None, "b"], None, ["row 1", "None"]),
        (TEXTS, ["a", float("nan"), "b"], None, ["row 1", "nan"]),
        (TEXTS, ["a", 0.5, "b"], None, ["row 1", "0.5"]),
        (TEXTS, ["yes", "no", "perhaps"], ("yes", "no"), ["row 2", "'perhaps'", "'yes'"]),
        (TEXTS, [0, 1, 2], ("yes", "no"), ["row 2", "'2'"]),
        (TEXTS, ["a", "b"], None, ["3", "2"]),
        (TEXTS, ["a", ["b"], "a"], None, ["row 1", "list"]),
        (TEXTS, np.array([[1, 0], [0, 2], [1, 1]]), None, ["row 1", "2"]),
        (TEXTS, np.array([[1, 0], [0, 1], [1, 1]]), ("a", "b", "c"), ["2", "3"]),
        (TEXTS, np.zeros((3, 2, 2)), None, ["3 dimensions"]),
        (TEXTS, "abc", None, ["str"]),
    ],
)
def test_what_cannot_be_used_is_named_with_its_row(texts: Any, labels: Any, names: Any, facts: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        Dataset.from_texts(texts, labels, names)
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)
