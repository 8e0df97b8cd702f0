"""Teacher, student and bundle behind scikit-learn's interface: `fit`, `predict`, `predict_proba`, `score`.

    classifier = DistilledClassifier(teacher="teacher", out="student", num_layers=2)
    classifier.fit(texts, labels).bundle_

Every field of `DistillSettings` is a parameter of the same name, so that `GridSearchCV` can search it. Trains through
`fit_teacher` and `fit_student`; scikit-learn's and Hugging Face's words meet here and nowhere else.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from distill.bundle import Bundle
from distill.data import Dataset
from distill.data.dataset import merge_duplicates, split_off
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import Logits, probabilities
from distill.settings import BUILTIN_MINILM, DistillSettings, TeacherSettings

with requires("the scikit-learn estimator"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier

SOURCE = "X"  # what messages call texts that come from no file


def _with_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Show each field of `DistillSettings` as a parameter: scikit-learn reads names and defaults off the signature."""
    own = inspect.signature(init)
    named = [parameter for parameter in own.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for name, field in DistillSettings.model_fields.items()
    ]
    init.__signature__ = own.replace(parameters=[*named, *fields])  # type: ignore[attr-defined]
    return init


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A student of a fine-tuned teacher, as a scikit-learn classifier of texts.

    `y` holds one label a text; or, as zeros and ones of shape (texts, labels), several. Labels may be strings or numbers.

    Attributes:
        classes_: The labels as `y` has them, sorted; with several labels a text the numbers of the columns.
        bundle_: The student's bundle, ready for `potstill export`.
    """

    @_with_settings
    def __init__(
        self,
        teacher: Bundle | Path | str | None = None,
        *,
        model: str = BUILTIN_MINILM,
        out: Path | str | None = None,
        unlabeled: Sequence[str] = (),
        validation_share: float = 0.1,
        teacher_settings: TeacherSettings | None = None,
        **settings: Any,
    ) -> None:
        """Keep the parameters; they are checked in `fit`.

        Args:
            teacher: A teacher's bundle. Without one `model` is fine-tuned on the texts of each `fit` first: the only way to
                score a whole recipe by cross-validation, since a teacher that has seen the held-out texts flatters it.
            model: What is fine-tuned then: a folder, a hub id, or `builtin:minilm`.
            out: Folder of the bundle; a fit replaces what an earlier one left there, so leave it out where fits run in
                parallel. Without it the bundle lives in a temporary folder, as long as this object.
            unlabeled: Further texts to learn from, by the teacher's word alone.
            validation_share: Share of the texts cut off to choose the epoch.
            teacher_settings: How the teacher is fine-tuned.
            settings: Fields of `DistillSettings`.
        """
        self.teacher = teacher
        self.model = model
        self.out = out
        self.unlabeled = unlabeled
        self.validation_share = validation_share
        self.teacher_settings = teacher_settings
        unknown = settings.keys() - DistillSettings.model_fields.keys()
        if unknown:
            raise TypeError(f"unknown setting {min(unknown)!r}; see DistillSettings")
        for name, field in DistillSettings.model_fields.items():
            setattr(self, name, settings.get(name, field.default))

    def fit(self, X: Iterable[str], y: Iterable[Any]) -> Self:  # noqa: N803  (scikit-learn's name)
        """Fine-tune a teacher where there is none, teach a student, and keep its bundle.

        Args:
            X: Texts, one a row.
            y: A label for each; or zeros and ones, shape (texts, labels).

        Raises:
            SettingsError: A parameter cannot be honoured, or the teacher's labels are not those of `y`.
            DatasetError: The texts or labels cannot be used.
            TeacherError: The teacher is not worth learning from.
        """
        from distill.models.loading import load_bundle
        from distill.training.distillation import fit_student
        from distill.training.fine_tuning import fit_teacher

        settings = DistillSettings(**{name: getattr(self, name) for name in DistillSettings.model_fields})
        teacher = Bundle.open(self.teacher) if isinstance(self.teacher, str | Path) else self.teacher
        classes, data = _dataset_of(_texts_of(X), y, labels=teacher.labels if teacher else None)
        train, validation = self._split(data)
        folder = self._own_folder() if self.out is None else Path(self.out)
        if teacher is None:
            how = self.teacher_settings or TeacherSettings(seed=settings.seed, device=settings.device)
            teacher = fit_teacher(self.model, train=train, validation=validation, out=folder / "teacher", settings=how)
        self.bundle_ = fit_student(
            teacher,
            train=train,
            validation=validation,
            unlabeled=tuple(self.unlabeled),
            out=folder,
            settings=settings,
        )
        self.classes_ = classes
        self._student: TorchClassifier = load_bundle(self.bundle_)
        self._columns = _columns_of(classes, data, self.bundle_.labels)
        return self

    def predict(self, X: Iterable[str]) -> NDArray[Any]:  # noqa: N803
        """Return a label for each text, shape (texts,); or zeros and ones, shape (texts, labels)."""
        shares = self.predict_proba(X)
        if self._student.problem_type == "multi_label_classification":
            return (shares >= 0.5).astype(np.int64)
        answers: NDArray[Any] = self.classes_[shares.argmax(axis=1)]
        return answers

    def predict_proba(self, X: Iterable[str]) -> NDArray[np.float64]:  # noqa: N803
        """Return probabilities, shape (texts, labels), columns in the order of `classes_`."""
        check_is_fitted(self, "bundle_")
        logits: Logits = self._student.predict_logits(_texts_of(X))
        shares = probabilities(logits.astype(np.float64), self._student.problem_type)
        ordered: NDArray[np.float64] = shares.astype(np.float64)[:, self._columns]
        return ordered

    def _own_folder(self) -> Path:
        """Return a new temporary folder that goes with this object, or with its next fit."""
        earlier = getattr(self, "_remove_folder", None)
        if earlier is not None:
            earlier()
        folder = Path(tempfile.mkdtemp(prefix="potstill-"))
        self._remove_folder: Any = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _split(self, data: Dataset) -> tuple[Dataset, Dataset]:
        if not 0 < self.validation_share < 1:
            raise SettingsError(f"validation_share must be between 0 and 1, got {self.validation_share}")
        clean = merge_duplicates(data)
        count = max(len(clean.labels), round(self.validation_share * len(clean)))
        return split_off(clean, count=count, seed=0, name="validation")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is a row of texts, and that y may be a table of zeros and ones."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; the model is read again from the bundle."""
        state: dict[str, Any] = dict(super().__getstate__())
        if state.pop("_remove_folder", None) is not None:
            raise SettingsError(
                "this classifier's bundle lives in a temporary folder, which a copy would lose; name one with out="
            )
        state.pop("_student", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state and load the model again."""
        super().__setstate__(state)
        if "bundle_" in state:
            from distill.models.loading import load_bundle

            self._student = load_bundle(Bundle.open(self.bundle_.path))


def _texts_of(rows: Iterable[Any]) -> list[str]:
    if isinstance(rows, str) or getattr(rows, "ndim", 1) != 1:
        raise DatasetError(f"X is {type(rows).__name__}, wanted one text a row: a list, a Series or a one-dimensional array")
    texts = [str(text) if isinstance(text, np.str_) else text for text in rows]
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DatasetError(f"X, row {row}: {type(text).__name__}, wanted a string")
    return texts


def _dataset_of(texts: list[str], y: Iterable[Any], *, labels: tuple[str, ...] | None) -> tuple[NDArray[Any], Dataset]:
    """Return the classes of `y`, sorted, and the texts with label ids in the order of `labels`, else of the classes."""
    given = np.asarray(y)
    if given.ndim == 2:
        return _dataset_of_columns(texts, given, labels=labels)
    if given.ndim != 1:
        raise DatasetError(f"y has {given.ndim} dimensions, wanted one label a text, or a table of zeros and ones")
    classes, ids = np.unique(given, return_inverse=True)
    names = tuple(map(str, classes.tolist()))
    wanted = labels or names
    if sorted(wanted) != sorted(names):
        raise SettingsError(f"the teacher's labels are {list(wanted)}, those of y {list(names)}; they must be the same")
    places = np.array([wanted.index(name) for name in names], dtype=np.int64)
    return classes, Dataset(tuple(texts), places[ids], wanted, SOURCE)


def _dataset_of_columns(
    texts: list[str], table: NDArray[Any], *, labels: tuple[str, ...] | None
) -> tuple[NDArray[Any], Dataset]:
    if not np.isin(table, (0, 1)).all():
        raise DatasetError("y is a table, but not of zeros and ones; wanted 1 where a text has a label")
    names = labels or tuple(map(str, range(table.shape[1])))
    if len(names) != table.shape[1]:
        raise SettingsError(f"the teacher has {len(names)} labels, y {table.shape[1]} columns; they must be the same")
    return np.arange(table.shape[1]), Dataset(tuple(texts), table.astype(np.int64), names, SOURCE)


def _columns_of(classes: NDArray[Any], data: Dataset, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Return which column of the logits belongs to each class."""
    if data.problem_type == "multi_label_classification":
        return np.arange(len(labels))
    return np.array([labels.index(str(name)) for name in classes.tolist()], dtype=np.int64)
