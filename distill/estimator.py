"""Teacher and student as one scikit-learn classifier: `fit`, `predict`, `predict_proba`, `score`.

    classifier = DistilledClassifier(recipe="narrow").fit(texts, labels)
    export_bundle(classifier.bundle_, validation=classifier.validation_)

`fit` calls `fit_teacher` and `fit_by_recipe`, with the defaults of the commands `teacher` and `distill --recipe`.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from distill.bundle import MANIFEST, Bundle
from distill.data import Dataset, Splits
from distill.data.dataset import merge_duplicates, split_off
from distill.data.values import texts_of
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import Logits, task_of
from distill.recipes import RECIPES, Effort, RecipeName, RecipeOptions, RecipeSettings
from distill.settings import BUILTIN_MINILM, DistillSettings
from distill.teacher_settings import TeacherSettings
from distill.texts import TextInput

with requires("the scikit-learn estimator"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier

SOURCE = "X"  # in messages, instead of a file name


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A student of a fine-tuned teacher, as a scikit-learn classifier of texts.

    `y` has one label per text, strings or numbers; or, for multi-label data, zeros and ones of shape (texts, labels).

    Attributes:
        classes_: The distinct labels of `y`, sorted; for multi-label data the column numbers.
        bundle_: The bundle of the student, ready for `potstill export`.
        validation_: The texts that were held out of training.
    """

    def __init__(
        self,
        teacher: Bundle | Path | str = BUILTIN_MINILM,
        *,
        recipe: RecipeName = "2-layers",
        effort: Effort = "standard",
        seed: int = 0,
        out: Path | str | None = None,
        validation_fraction: float = 0.1,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the parameters; `fit` validates them.

        Args:
            teacher: Bundle of the teacher, or its folder; or an encoder that each `fit` fine-tunes first: a folder, a hub id,
                or `builtin:minilm`. Use an encoder to cross-validate: a teacher trained on the held-out texts leaks their
                labels into the score.
            recipe: Name of the student, one of `RECIPES`.
            effort: How much training: quick, standard or thorough.
            seed: Of the split, the teacher and the student.
            out: Folder of the bundle; each fit overwrites it, so do not set it if fits run in parallel. Default: a
                temporary folder, deleted with this object.
            validation_fraction: Share of the texts held out for early stopping.
            changes: Fields of `DistillSettings` that override those of the recipe.
        """
        self.teacher = teacher
        self.recipe = recipe
        self.effort = effort
        self.seed = seed
        self.out = out
        self.validation_fraction = validation_fraction
        self.changes = changes

    def fit(self, X: Iterable[str], y: Iterable[Any]) -> Self:  # noqa: N803  (scikit-learn's name)
        """Fine-tune a teacher if none was given, train a student, and write its bundle.

        Args:
            X: Texts, shape (texts,).
            y: Labels, shape (texts,); or zeros and ones, shape (texts, labels).

        Raises:
            SettingsError: A parameter is out of range, or the teacher's labels are not those of `y`.
            DatasetError: The texts or labels cannot be used.
            TeacherError: The teacher is no better than the majority class.
        """
        from distill.models.loading import load_bundle
        from distill.training.by_recipe import fit_by_recipe
        from distill.training.fine_tuning import fit_teacher

        recipe = RecipeSettings(recipe=self.recipe, effort=self.effort)  # refuses unknown names
        changes = dict(self.changes or {})
        DistillSettings(**changes)  # refuses values out of range before a teacher is trained
        if not 0 < self.validation_fraction < 1:
            raise SettingsError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        teacher = self._given_teacher()
        self.classes_, self._columns, data = _read(texts_of(X, source="X"), y, labels=teacher.labels if teacher else None)
        train, self.validation_ = self._split(data)
        folder = self._own_folder() / "student" if self.out is None else Path(self.out)
        if teacher is None:
            teacher = fit_teacher(
                str(self.teacher),
                train=train,
                validation=self.validation_,
                out=folder.with_name(f"{folder.name}-teacher"),
                settings=TeacherSettings(seed=self.seed, device=changes.get("device", "auto")),
            )
        self.bundle_ = fit_by_recipe(
            RECIPES[self.recipe],
            teacher,
            Splits(train, self.validation_, None),
            out=folder,
            options=RecipeOptions(effort=recipe.effort, seed=self.seed, changes=changes),
        )
        self._student: TorchClassifier = load_bundle(self.bundle_)
        return self

    def _given_teacher(self) -> Bundle | None:
        """Return the teacher's bundle, or None if an encoder was named."""
        if isinstance(self.teacher, Bundle):
            return self.teacher
        return Bundle.open(self.teacher) if (Path(self.teacher) / MANIFEST).is_file() else None

    def predict(self, X: Iterable[str]) -> NDArray[Any]:  # noqa: N803
        """Return the label of each text, shape (texts,); or zeros and ones, shape (texts, labels)."""
        logits = self._logits(X)
        decisions = task_of(self._student.problem_type).decisions(logits)
        return decisions if decisions.ndim == 2 else np.asarray(self.classes_[decisions])

    def predict_proba(self, X: Iterable[str]) -> NDArray[np.float64]:  # noqa: N803
        """Return probabilities, shape (texts, labels), with columns in the order of `classes_`."""
        logits = self._logits(X)
        return task_of(self._student.problem_type).probabilities(logits).astype(np.float64)

    def _logits(self, texts: Iterable[str]) -> Logits:
        """Return the logits, with columns in the order of `classes_`."""
        check_is_fitted(self, "bundle_")
        return self._student.predict_logits(texts_of(texts, source="X"))[:, self._columns]

    def _own_folder(self) -> Path:
        """Return a new temporary folder, which is deleted with this object or by its next fit."""
        if (remove_earlier := getattr(self, "_remove_folder", None)) is not None:
            remove_earlier()
        folder = Path(tempfile.mkdtemp(prefix="potstill-"))
        self._remove_folder: Any = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _split(self, data: Dataset) -> tuple[Dataset, Dataset]:
        clean = merge_duplicates(data)
        count = max(len(clean.labels), round(self.validation_fraction * len(clean)))
        return split_off(clean, count=count, seed=self.seed, name="validation")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is one-dimensional and holds strings, and that y may be multi-label."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the model, and with the files of a bundle in a temporary folder."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_student", None)
        if state.pop("_remove_folder", None) is not None and "bundle_" in state:
            inside = state.pop("bundle_").path
            state["_files"] = {path.name: path.read_bytes() for path in inside.iterdir() if path.is_file()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, write the files of a temporary bundle to another temporary folder, and load the model."""
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            folder = self._own_folder()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.bundle_ = Bundle.open(folder)
        if hasattr(self, "bundle_"):
            from distill.models.loading import load_bundle

            self._student = load_bundle(Bundle.open(self.bundle_.path))


def _read(
    texts: list[TextInput], y: Iterable[Any], *, labels: tuple[str, ...] | None
) -> tuple[NDArray[Any], NDArray[np.int64], Dataset]:
    """Read the labels.

    Args:
        texts: The texts.
        y: Labels, shape (texts,); or zeros and ones, shape (texts, labels).
        labels: Labels of the teacher, in the order of its logits; None if there is no teacher.

    Returns:
        The classes of `y`, sorted; the column of each in the logits; the data, with label ids in the order of the logits.
    """
    given = np.asarray(y)
    if given.ndim == 2:
        return _read_indicator(texts, given, labels=labels)
    if given.ndim != 1:
        raise DatasetError(f"y has {given.ndim} dimensions; pass one label per text, or zeros and ones per text and label")
    classes, ids = np.unique(given, return_inverse=True)
    names = tuple(map(str, classes.tolist()))
    wanted = labels or names
    if sorted(wanted) != sorted(names):
        raise SettingsError(f"the teacher has the labels {list(wanted)}, but y has {list(names)}; they must be the same")
    columns = np.array([wanted.index(name) for name in names], dtype=np.int64)
    return classes, columns, Dataset(tuple(texts), columns[ids], wanted, SOURCE)


def _read_indicator(
    texts: list[TextInput], given: NDArray[Any], *, labels: tuple[str, ...] | None
) -> tuple[NDArray[Any], NDArray[np.int64], Dataset]:
    if not np.isin(given, (0, 1)).all():
        raise DatasetError("y has two dimensions but other values than 0 and 1; set 1 where a text has a label")
    columns = np.arange(given.shape[1])
    names = labels or tuple(map(str, columns))
    if len(names) != len(columns):
        raise SettingsError(f"the teacher has {len(names)} labels, but y has {len(columns)} columns; they must be the same")
    return columns, columns, Dataset(tuple(texts), given.astype(np.int64), names, SOURCE)
