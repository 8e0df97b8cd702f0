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

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.data.dataset import merge_duplicates, split_off
from distill.data.values import texts_of
from distill.errors import SettingsError, requires
from distill.labels import Logits, task_of
from distill.progress import Reporter, SilentReporter
from distill.recipes import RECIPES, Effort, RecipeName, RecipeOptions, RecipeSettings
from distill.settings import BUILTIN_MINILM, DistillSettings
from distill.teacher_settings import TeacherSettings

with requires("the scikit-learn estimator"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from distill.models.torch_classifier import TorchClassifier

SOURCE = "X"  # in messages, instead of a file name


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A student of a fine-tuned teacher, as a scikit-learn classifier of texts.

    `y` is read as by `Dataset.from_texts`: one label per text, strings or numbers; or, for multi-label data, lists of labels,
    or zeros and ones of shape (texts, labels).

    Attributes:
        classes_: The distinct labels of `y`, sorted; for multi-label data their names, or the column numbers of a matrix.
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
            teacher: Bundle of the teacher, or its folder; a fine-tuned Hugging Face classifier, which is adopted; or an encoder
                that each `fit` fine-tunes first: a folder, a hub id, or `builtin:minilm`. Use an encoder to cross-validate: a
                teacher trained on the held-out texts leaks their labels into the score.
            recipe: Name of the student, one of `RECIPES`.
            effort: How much training, of a fine-tuned teacher too: quick, standard or thorough.
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

    def fit(self, X: Iterable[str], y: Iterable[Any], *, reporter: Reporter | None = None) -> Self:  # noqa: N803  (its name)
        """Fine-tune a teacher if none was given, train a student, and write its bundle.

        Args:
            X: Texts, shape (texts,).
            y: Labels, shape (texts,); or lists of labels; or zeros and ones, shape (texts, labels).
            reporter: Receives progress; `LineReporter()` prints it.

        Raises:
            SettingsError: A parameter is out of range, or the teacher's labels are not those of `y`.
            DatasetError: The texts or labels cannot be used.
            TeacherError: The teacher is no better than the majority class.
        """
        from distill.models.loading import load_bundle
        from distill.teachers.named import classifier_named, labels_of_named
        from distill.training.by_recipe import fit_by_recipe
        from distill.training.fine_tuning import fit_teacher

        recipe = RecipeSettings(recipe=self.recipe, effort=self.effort)  # refuses unknown names
        changes = dict(self.changes or {})
        DistillSettings(**changes)  # refuses values out of range before a teacher is trained
        if not 0 < self.validation_fraction < 1:
            raise SettingsError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        reporter = reporter or SilentReporter()
        named = self.teacher
        names = named.labels if isinstance(named, Bundle) else labels_of_named([named])
        y = y if hasattr(y, "__len__") else list(y)
        data = Dataset.from_texts(texts_of(X, source=SOURCE), y, names or None, source=SOURCE)
        self.classes_, known = _classes_of(y, data)
        train, held_out = self._split(data)
        teacher = named if isinstance(named, Bundle) else classifier_named(named, labelled=held_out, reporter=reporter)
        order = teacher.labels if teacher else data.labels
        train, self.validation_ = train.in_order(order), held_out.in_order(order)
        self._columns = np.array([order.index(name) for name in known], dtype=np.int64)
        folder = self._own_folder() / "student" if self.out is None else Path(self.out)
        if teacher is None:
            teacher = fit_teacher(
                str(self.teacher),
                train=train,
                validation=self.validation_,
                out=folder.with_name(f"{folder.name}-teacher"),
                settings=TeacherSettings(effort=recipe.effort, seed=self.seed, device=changes.get("device", "auto")),
                reporter=reporter,
            )
        self.bundle_ = fit_by_recipe(
            RECIPES[self.recipe],
            teacher,
            Splits(train, self.validation_, None),
            out=folder,
            options=RecipeOptions(effort=recipe.effort, seed=self.seed, changes=changes),
            reporter=reporter,
        )
        self._student: TorchClassifier = load_bundle(self.bundle_)
        return self

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


def _classes_of(y: Iterable[Any], data: Dataset) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the classes, sorted, as they are written in `y`, and the label name of each.

    Raises:
        SettingsError: The teacher has a label that `y` has not.
    """
    if data.label_ids.ndim == 2:
        is_named = any(isinstance(labels, list | tuple | set) and any(isinstance(one, str) for one in labels) for labels in y)
        return np.array(data.labels) if is_named else np.arange(len(data.labels)), data.labels
    classes, first = np.unique(np.asarray(y), return_index=True)
    names = tuple(data.labels[label] for label in data.label_ids[first])
    if missing := sorted(set(data.labels) - set(names)):
        raise SettingsError(f"the teacher has the labels {list(data.labels)}, but y has no {', '.join(missing)}")
    return classes, names
