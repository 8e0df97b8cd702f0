"""Who may teach: a bundle, any classifier, several of either."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from tiny_task import BAD_WORDS, GOOD_WORDS

from distill.bundle import WEIGHTS, Bundle
from distill.classifier import Ensemble, TextInput
from distill.data import Dataset, Splits
from distill.errors import SettingsError, TeacherError
from distill.labels import Logits, ProblemType
from distill.models.loading import load_bundle
from distill.settings import DistillSettings
from distill.teachers.teacher import open_teacher
from distill.training import sealing
from distill.training.distillation import fit_student
from distill.training.loop import Examples, Lesson


class CountsWords:
    """Answers by counting telling words, without a model: good ones speak for positive."""

    labels = ("negative", "positive")
    problem_type: ProblemType = "single_label_classification"

    def __init__(self, *, sign: int = 1, spoilt: float = 0.0) -> None:
        self.sign = sign
        self.spoilt = spoilt
        self.asked = 0

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.asked += len(texts)
        words = [str(text).split() for text in texts]
        good = [sum(word in GOOD_WORDS for word in one) - sum(word in BAD_WORDS for word in one) for one in words]
        return np.array([[-self.sign * count + self.spoilt, self.sign * count] for count in good], dtype=np.float32)

    def digest(self) -> str:
        return f"counts words {self.sign} {self.spoilt}"


@pytest.fixture
def second_teacher(tiny_teacher: Bundle, copied: Callable[[Bundle], Bundle]) -> Bundle:
    """Return a teacher that is surer of itself: its head's weights are doubled."""
    bundle = copied(tiny_teacher)
    weights = safetensors.torch.load_file(bundle.weights())
    weights["classifier.weight"] = weights["classifier.weight"] * 2
    with bundle.staging() as folder:
        safetensors.torch.save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        return bundle.adding({WEIGHTS: folder / WEIGHTS})


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[Examples]:
    """Return the list that each run's examples are added to."""
    seen: list[Examples] = []
    train = sealing.run_training

    def noting(student: Any, lesson: Lesson, **rest: Any) -> Any:
        seen.append(lesson.examples)
        return train(student, lesson, **rest)

    monkeypatch.setattr(sealing, "run_training", noting)
    return seen


def distil(teacher: Any, splits: Splits, out: Path, **changes: Any) -> Bundle:
    settings = DistillSettings(**{"epochs": 1, "num_layers": 1, "mixed_precision": "no", **changes})
    train = splits.train.take(range(32))
    return fit_student(teacher, train=train, validation=splits.validation, out=out, settings=settings)


def test_an_ensemble_teaches_with_the_mean_of_its_members_logits(
    tiny_teacher: Bundle, second_teacher: Bundle, tiny_splits: Splits, learnt: list[Examples], tmp_path: Path
) -> None:
    student = distil((tiny_teacher, second_teacher), tiny_splits, tmp_path / "student")
    texts = tiny_splits.train.texts[:32]
    first, second = (load_bundle(bundle).predict_logits(texts) for bundle in (tiny_teacher, second_teacher))
    assert np.abs(first - second).max() > 0.1
    assert learnt[0].teacher_logits is not None
    np.testing.assert_allclose(learnt[0].teacher_logits, (first + second) / 2, atol=1e-5)
    digests = tuple(hashlib.sha256(bundle.weights().read_bytes()).hexdigest() for bundle in (tiny_teacher, second_teacher))
    assert student.manifest.lineage.ensemble == digests
    assert student.manifest.lineage.teacher_sha256 == digests[0]


def test_the_first_pytorch_member_lends_its_layers(tiny_teacher: Bundle, second_teacher: Bundle) -> None:
    teacher = open_teacher((CountsWords(), second_teacher, tiny_teacher), device="cpu")
    assert teacher.lender().digest() == load_bundle(second_teacher).digest()


def test_any_classifier_teaches_and_its_answers_are_cached(
    tiny_teacher: Bundle, tiny_splits: Splits, learnt: list[Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    texts, classifier = tiny_splits.train.texts[:32], CountsWords()
    distil((tiny_teacher, classifier), tiny_splits, tmp_path / "first")
    assert learnt[-1].teacher_logits is not None
    mean = (load_bundle(tiny_teacher).predict_logits(texts) + CountsWords().predict_logits(texts)) / 2
    np.testing.assert_allclose(learnt[-1].teacher_logits, mean, atol=1e-5)
    assert classifier.asked == 32 + len(tiny_splits.validation)
    distil((tiny_teacher, classifier), tiny_splits, tmp_path / "second")
    assert classifier.asked == 32 + len(tiny_splits.validation)


def test_a_classifier_without_a_digest_is_refused_as_a_teacher(tiny_teacher: Bundle) -> None:
    class Nameless(CountsWords):
        digest = None  # type: ignore[assignment]

    for teacher in (Nameless(), (tiny_teacher, Nameless())):
        with pytest.raises(SettingsError) as caught:
            open_teacher(teacher, device="cpu")
        assert "Nameless" in str(caught.value)
        assert "digest() -> str" in str(caught.value)


def test_what_decides_a_teachers_answers_changes_its_digest(tiny_teacher: Bundle, second_teacher: Bundle) -> None:
    teachers: list[Any] = [tiny_teacher, second_teacher, CountsWords(), CountsWords(sign=-1)]
    teachers += [(tiny_teacher, second_teacher), (tiny_teacher, CountsWords()), (tiny_teacher, CountsWords(sign=-1))]
    digests = [open_teacher(teacher, device="cpu").digest() for teacher in teachers]
    assert len(set(digests)) == len(teachers)
    assert digests == [open_teacher(teacher, device="cpu").digest() for teacher in teachers]


def test_a_teacher_without_layers_cannot_lend_them(tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--student"):
        distil(CountsWords(), tiny_splits, tmp_path)


def test_without_layers_to_lend_it_can_teach_a_pretrained_model(tiny_splits: Splits, tiny_model: Path, tmp_path: Path) -> None:
    asked = {"student": str(tiny_model), "augment": 1}
    with pytest.raises(SettingsError, match="--max-length"):
        distil(CountsWords(), tiny_splits, tmp_path / "student", **asked)
    bundle = distil(CountsWords(), tiny_splits, tmp_path / "student", max_length=16, **asked)
    assert (bundle.manifest.max_length, bundle.manifest.lineage.teacher_sha256) == (16, CountsWords().digest())


def test_every_member_must_be_worth_learning_from(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="with its labels read as"):
        distil((tiny_teacher, CountsWords(sign=-1)), tiny_splits, tmp_path)


def test_answers_that_are_not_finite_are_refused(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"finite.*\(100, 2\)"):
        distil((tiny_teacher, CountsWords(spoilt=float("nan"))), tiny_splits, tmp_path)


def test_members_with_other_labels_are_refused(tiny_teacher: Bundle) -> None:
    other = CountsWords()
    other.labels = ("positive", "negative")
    with pytest.raises(SettingsError, match="member 2"):
        open_teacher((tiny_teacher, other), device="cpu")
    with pytest.raises(SettingsError, match="at least one member"):
        Ensemble(())
    with pytest.raises(SettingsError, match="no teacher"):
        open_teacher((), device="cpu")


def test_a_student_replaces_none_of_its_teachers(tiny_teacher: Bundle, second_teacher: Bundle, tiny_splits: Splits) -> None:
    with pytest.raises(SettingsError, match="would replace its teacher"):
        distil((tiny_teacher, second_teacher), tiny_splits, second_teacher.path)


def test_the_command_takes_several_teachers(
    potstill: Callable[..., Any], tiny_teacher: Bundle, second_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    flags = ("--train", tiny_csv, "--out", tmp_path / "student", "--num-layers", 1, "--epochs", 1, "--limit", 40)
    done = potstill("distill", tiny_teacher.path, second_teacher.path, *flags)
    assert done.code == 0, done.err
    made: Dataset | Any = Bundle.open(tmp_path / "student").manifest.lineage
    assert len(made.ensemble) == 2
    assert potstill("distill", *flags).code == 2
