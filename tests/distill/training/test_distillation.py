"""From texts to a sealed bundle: what the manifest says of a run, and what is refused before it costs anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_task import Listening
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from distill.bundle import CARD, WEIGHTS, Bundle
from distill.data import Dataset, Splits, fingerprint
from distill.errors import BundleError, SettingsError, StorageError, TeacherError
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from distill.settings import DistillSettings
from distill.teacher_settings import TeacherSettings
from distill.teachers.answers import Answers, teacher_logits
from distill.tokenization import TextTokenizer
from distill.training import distillation as fit
from distill.training import fine_tuning, sealing
from distill.training import processes as together
from distill.training.distillation import fit_student
from distill.training.fine_tuning import fit_teacher


class Interrupting(SilentReporter):
    """Interrupts after the first epoch, as Ctrl-C would."""

    def say(self, text: str) -> None:
        if ": epoch 1 of" in text:
            raise KeyboardInterrupt


@pytest.fixture
def few(tiny_splits: Splits) -> tuple[Dataset, Dataset]:
    """Return 64 training texts and all validation texts: enough to run, too few to learn."""
    return tiny_splits.train.take(range(64)), tiny_splits.validation


def distil(teacher: Bundle, few: tuple[Dataset, Dataset], out: Path, **changes: Any) -> Bundle:
    """Teach a 1-layer student for two epochs."""
    more = {name: changes.pop(name) for name in ("reporter", "unlabeled", "test") if name in changes}
    settings = DistillSettings(**{"epochs": 2, "learning_rate": 1e-3, "batch_size": 16, "num_layers": 1, **changes})
    return fit_student(teacher, train=few[0], validation=few[1], out=out, settings=settings, **more)


def with_weights(bundle: Bundle, change: Callable[[dict[str, torch.Tensor]], None]) -> Bundle:
    """Return the bundle sealed again with other weights."""
    weights = safetensors.torch.load_file(bundle.weights())
    change(weights)
    with bundle.staging() as folder:
        safetensors.torch.save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        return bundle.adding({WEIGHTS: folder / WEIGHTS})


def asked_texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Note which texts the teacher is asked for."""
    asked: list[tuple[str, ...]] = []
    answer = together.teacher_logits

    def noting(teacher: Any, texts: Sequence[str], **rest: Any) -> Answers:
        asked.append(tuple(texts))
        return answer(teacher, texts, **rest)

    monkeypatch.setattr(together, "teacher_logits", noting)
    return asked


def test_a_teachers_manifest_says_where_it_came_from(tiny_teacher: Bundle, tiny_splits: Splits) -> None:
    manifest = Bundle.open(tiny_teacher.path).manifest
    assert manifest.role == "teacher"
    assert manifest.labels == ("negative", "positive")
    assert (manifest.max_length, manifest.pad_token_id) == (32, 0)
    assert manifest.lineage.base_model == "tiny-bert"
    assert manifest.lineage.teacher_sha256 is None
    assert manifest.lineage.train_fingerprint == tiny_splits.train.fingerprint()
    assert manifest.lineage.validation_fingerprint == tiny_splits.validation.fingerprint()
    assert manifest.lineage.train_fingerprint != manifest.lineage.validation_fingerprint
    assert manifest.lineage.seed == 0
    assert manifest.settings["teacher"]["learning_rate"] == 2e-3
    assert manifest.versions.keys() >= {"potstill", "torch", "transformers", "tokenizers"}
    weights = safetensors.torch.load_file(tiny_teacher.weights())
    assert manifest.num_parameters == sum(tensor.numel() for tensor in weights.values())


def test_the_sealed_weights_are_those_of_the_best_epoch(tiny_teacher: Bundle) -> None:
    history, quality = tiny_teacher.manifest.history, tiny_teacher.manifest.quality["pytorch"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, len(history) + 1))
    assert quality["macro_f1"] == max(epoch["macro_f1"] for epoch in history)
    assert quality["split"] == "validation"
    assert quality["macro_f1"] > 0.9  # the tiny task can be learnt, and was


def test_a_students_manifest_names_its_teacher_and_how_they_agree(
    tiny_unexported: Bundle, tiny_teacher: Bundle, tiny_splits: Splits
) -> None:
    manifest = Bundle.open(tiny_unexported.path).manifest
    assert manifest.role == "student"
    assert manifest.lineage.base_model == "tiny-bert"
    assert manifest.lineage.teacher_sha256 == hashlib.sha256(tiny_teacher.weights().read_bytes()).hexdigest()
    assert manifest.settings["student"]["num_layers"] == 2
    assert manifest.max_length == 32  # the teacher's, as none was named
    texts = tiny_splits.validation.texts
    given = [load_bundle(bundle).predict_logits(texts).argmax(axis=1) for bundle in (tiny_unexported, tiny_teacher)]
    assert manifest.quality["pytorch"]["agreement_with_teacher"] == np.mean(given[0] == given[1])
    assert json.loads((tiny_unexported.path / "config.json").read_text())["num_hidden_layers"] == 2


def test_nothing_but_the_bundle_is_left_in_its_folder(tiny_unexported: Bundle) -> None:
    listed = {*tiny_unexported.manifest.files, "manifest.json"}
    assert {file.name for file in tiny_unexported.path.iterdir()} == listed
    assert listed >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"}


def test_the_card_tells_what_the_bundle_is(tiny_unexported: Bundle) -> None:
    card = (tiny_unexported.path / CARD).read_text(encoding="utf-8")
    quality = tiny_unexported.manifest.quality["pytorch"]
    assert "\n# A student for negative, positive\n" in card
    assert f"{tiny_unexported.manifest.num_parameters:,} parameters" in card
    assert f"| pytorch, validation | 100 | {quality['macro_f1']:.4f} |" in card
    assert '"temperature": 2.0' in card


def test_the_same_run_seals_the_same_weights(tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    one, again, other = (distil(tiny_teacher, few, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    digests = [bundle.manifest.files[WEIGHTS].sha256 for bundle in (one, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_an_interrupted_student_is_finished_by_the_same_call(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    unbroken = distil(tiny_teacher, few, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        distil(tiny_teacher, few, tmp_path / "broken", reporter=Interrupting())
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "broken")
    heard = Listening()
    resumed = distil(tiny_teacher, few, tmp_path / "broken", reporter=heard)
    assert "student: resuming after epoch 1" in heard.said
    assert resumed.manifest.files[WEIGHTS] == unbroken.manifest.files[WEIGHTS]
    assert len(resumed.manifest.history) == 2
    assert {file.name for file in resumed.path.iterdir()} == {*resumed.manifest.files, "manifest.json"}


@pytest.mark.parametrize("change", [{"temperature": 3.0}, {"layers": (0,)}, {"max_length": 16}], ids=str)
def test_an_interrupted_run_is_not_gone_on_with_under_other_settings(
    change: dict[str, Any], tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distil(tiny_teacher, few, tmp_path, reporter=Interrupting())
    heard = Listening()
    distil(tiny_teacher, few, tmp_path, reporter=heard, **change)
    assert not [line for line in heard.said if "going on" in line]


def test_an_interrupted_teacher_is_finished_by_the_same_call(
    tiny_model: Path, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    def tune(out: Path, reporter: SilentReporter | None = None) -> Bundle:
        settings = TeacherSettings(epochs=2, learning_rate=1e-3, max_length=32, batch_size=16)
        return fit_teacher(str(tiny_model), train=few[0], validation=few[1], out=out, settings=settings, reporter=reporter)

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "broken", Interrupting())
    resumed = tune(tmp_path / "broken")
    assert resumed.manifest.files[WEIGHTS] == tune(tmp_path / "unbroken").manifest.files[WEIGHTS]


def test_the_control_asks_the_teacher_for_no_training_text(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_texts(monkeypatch)
    control = distil(tiny_teacher, few, tmp_path / "control", soft_weight=0)
    assert asked == [few[1].texts]  # the gate on the teacher stays
    distilled = distil(tiny_teacher, few, tmp_path / "distilled", soft_weight=0.9)
    assert asked[1:] == [few[1].texts, few[0].texts]
    assert control.manifest.files[WEIGHTS] != distilled.manifest.files[WEIGHTS]


def test_teacher_logits_of_an_earlier_run_are_used_again(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    distil(tiny_teacher, few, tmp_path / "first")
    heard = Listening()
    distil(tiny_teacher, few, tmp_path / "second", temperature=3.0, reporter=heard)
    assert "teacher logits: 64 of 64 texts were in the cache" in heard.said


def test_cold_warm_or_half_warm_the_cache_leaves_the_weights_the_same_to_the_bit(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for run, cache in enumerate(("first", "first", "second")):
        monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache" / cache))
        if cache == "second":  # some of the texts are known, from batches with other texts
            known = (*few[0].texts[1::3], *few[1].texts[::2], "a film", "it was the end")
            teacher_logits(load_bundle(tiny_teacher), known, compute="bf16")
            teacher_logits(load_bundle(tiny_teacher), known)
        bundle = distil(tiny_teacher, few, tmp_path / str(run), augment=1, mixed_precision="bf16")
        weights.append(bundle.weights().read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_unlabelled_texts_are_learnt_from_and_recorded(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_texts(monkeypatch)
    unlabeled = ("a lovely warm funny film", few[1].texts[0].upper(), "a dull cold plot with a clumsy actor", few[0].texts[0])
    without = distil(tiny_teacher, few, tmp_path / "without")
    bundle = distil(tiny_teacher, few, tmp_path / "with", unlabeled=unlabeled)
    new = (unlabeled[0], unlabeled[2])  # those of the validation and training texts are left out
    assert asked[-1] == (*few[0].texts, *new)
    assert bundle.manifest.lineage.unlabeled_fingerprint == fingerprint(new)
    assert without.manifest.lineage.unlabeled_fingerprint is None
    assert bundle.manifest.files[WEIGHTS] != without.manifest.files[WEIGHTS]


def test_augmented_texts_are_asked_of_the_teacher_once_and_never_equal_a_held_out_one(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    answer = together.teacher_logits

    def listened(teacher: Any, texts: Sequence[str], **rest: Any) -> Answers:
        asked.append(tuple(texts))
        return answer(teacher, texts, **rest)

    monkeypatch.setattr(together, "teacher_logits", listened)
    short = ("warm cold", "dull end")  # their spans of one word are the test's texts
    test = few[1].take([0, 1, 2, 3])
    test = replace(test, texts=("Warm", "cold", "dull", "END"))
    spans = {"augment": 2, "augment_span": 1, "augment_splice": 0, "augment_mask": 0, "augment_neighbours": 0}
    listening = Listening()
    with_copies = distil(tiny_teacher, few, tmp_path / "a", unlabeled=short, test=test, reporter=listening, **spans)
    learnt = asked[1]  # after the validation texts
    assert learnt[:66] == (*few[0].texts, *short)
    copies = learnt[66:]
    assert len(copies) == 2 * 64
    assert all(f" {copy} " in f" {text} " for copy, text in zip(copies, np.repeat(few[0].texts, 2), strict=True))
    assert with_copies.manifest.settings["student"]["augment"] == 2
    again = Listening()
    distil(tiny_teacher, few, tmp_path / "b", unlabeled=short, test=test, reporter=again, **spans)
    assert f"teacher logits: {len(learnt)} of {len(learnt)} texts were in the cache" in again.said


def test_the_control_cannot_learn_from_augmented_texts(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="augmented texts and --unsure cannot be used"):
        distil(tiny_teacher, few, tmp_path, soft_weight=0, augment=1)


def test_the_control_cannot_learn_from_unlabelled_texts(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="with soft_weight 0 nothing is learnt from the teacher"):
        distil(tiny_teacher, few, tmp_path, soft_weight=0, unlabeled=("a film",))


def test_a_student_may_read_fewer_tokens_than_its_teacher(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    heard = Listening()
    bundle = distil(tiny_teacher, few, tmp_path, max_length=10, reporter=heard)
    assert bundle.manifest.max_length == 10
    rows = bundle.tokenizer().encode(few[0].texts)
    assert max(map(len, rows)) == 10
    assert AutoTokenizer.from_pretrained(tmp_path)(list(few[0].texts), truncation=True)["input_ids"] == [
        r.tolist() for r in rows
    ]
    # Each word is a token, and two tokens mark the ends.
    cut = np.mean([len(text.split()) + 2 > 10 for text in few[0].texts])
    (line,) = (line for line in heard.said if "--max-length" in line)
    assert f"{cut:.1%}" in line
    assert "10 tokens" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [({"num_layers": 5}, "teacher has only 4 layers"), ({"max_length": 65}, "positions for 64 tokens")],
    ids=["layers", "max_length"],
)
def test_a_student_that_cannot_be_made_is_refused_before_the_teacher_is_asked(
    change: dict[str, Any],
    said: str,
    tiny_teacher: Bundle,
    few: tuple[Dataset, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asked_texts(monkeypatch)
    with pytest.raises(SettingsError, match=said):
        distil(tiny_teacher, few, tmp_path, **change)
    assert asked == []


def test_an_untuned_teacher_is_refused_and_nothing_is_sealed(
    tiny_teacher: Bundle, copied: Callable[[Bundle], Bundle], few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    untuned = with_weights(copied(tiny_teacher), lambda weights: weights["classifier.weight"].zero_())
    with pytest.raises(TeacherError, match=r"macro-F1.*`potstill teacher`"):
        distil(untuned, few, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_teacher_whose_labels_changed_places_is_refused(
    tiny_teacher: Bundle, copied: Callable[[Bundle], Bundle], few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    def swap(weights: dict[str, torch.Tensor]) -> None:
        weights["classifier.weight"] = weights["classifier.weight"].flip(0).contiguous()
        weights["classifier.bias"] = weights["classifier.bias"].flip(0).contiguous()

    with pytest.raises(TeacherError, match="'negative' -> 'positive', 'positive' -> 'negative'"):
        distil(with_weights(copied(tiny_teacher), swap), few, tmp_path / "out")


def test_data_with_other_label_names_is_refused(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_texts(monkeypatch)
    turned = tuple(Dataset(data.texts, 1 - data.label_ids, ("positive", "negative"), data.source) for data in few)
    for pair in ((turned[0], few[1]), (few[0], turned[1])):
        with pytest.raises(SettingsError, match="the teacher's labels are"):
            distil(tiny_teacher, pair, tmp_path)
    assert asked == []


def test_targets_that_are_one_hot_are_warned_of(
    tiny_teacher: Bundle,
    copied: Callable[[Bundle], Bundle],
    few: tuple[Dataset, Dataset],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    distil(tiny_teacher, few, tmp_path / "soft", epochs=1)
    assert "one-hot" not in caplog.text
    sure = with_weights(copied(tiny_teacher), lambda weights: weights["classifier.weight"].mul_(1000))
    distil(sure, few, tmp_path / "hard", epochs=1)
    assert "one-hot to within 1e-4" in caplog.text


def _no_loading(*arguments: Any, **settings: Any) -> Any:
    raise AssertionError("nothing may be loaded or trained before the folder is known to be writable")


def test_a_folder_that_cannot_be_written_is_found_before_training(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(fine_tuning, "load_pretrained", _no_loading)
    monkeypatch.setattr(fit, "open_teacher", _no_loading)
    with pytest.raises(StorageError, match="cannot write"):
        distil(tiny_teacher, few, tmp_path / "file" / "student")
    with pytest.raises(StorageError, match="cannot write"):
        fit_teacher("builtin:minilm", train=few[0], validation=few[1], out=tmp_path / "file")


def test_a_student_does_not_replace_its_teacher(tiny_teacher: Bundle, few: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(SettingsError, match="would replace its teacher"):
        distil(tiny_teacher, few, tiny_teacher.path / ".." / tiny_teacher.path.name)
    Bundle.open(tiny_teacher.path)


def test_a_teacher_keeps_its_own_dropout_and_a_student_has_none(tiny_teacher: Bundle, tiny_unexported: Bundle) -> None:
    taught = [json.loads(bundle.file("config.json").read_text()) for bundle in (tiny_teacher, tiny_unexported)]
    assert [config["hidden_dropout_prob"] for config in taught] == [0.1, 0.0]
    assert [config["attention_probs_dropout_prob"] for config in taught] == [0.1, 0.0]


def test_the_manifest_says_in_which_numbers_a_run_computed(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    manifest = distil(tiny_teacher, few, tmp_path / "student", device="cpu", mixed_precision="bf16").manifest
    assert manifest.settings["computed"] == {"device": "cpu", "mixed_precision": "bf16"}


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "no")])
def test_a_teacher_computes_in_bf16_where_that_is_faster(
    fast: bool,
    expected: str,
    tiny_model: Path,
    few: tuple[Dataset, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distill.models.devices.multiplies_bf16_faster", lambda: fast)
    settings = TeacherSettings(epochs=1, max_length=32, batch_size=16, device="cpu")
    teacher = fit_teacher(str(tiny_model), train=few[0], validation=few[1], out=tmp_path / "teacher", settings=settings)
    assert teacher.manifest.settings["computed"]["mixed_precision"] == expected


def give_students_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let students number the same words the other way round, their vectors with them."""
    make = fit.new_student

    def renumbered(*given: Any, **rest: Any) -> Any:
        student = make(*given, **rest)
        content = json.loads(student.tokenizer.to_json())
        vocabulary = content["model"]["vocab"]
        last = len(vocabulary) - 1
        content["model"]["vocab"] = {word: index if index < 5 else last + 5 - index for word, index in vocabulary.items()}
        table = student.model.get_input_embeddings().weight.data
        table[5:] = table[5:].flip(0)
        tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(content)), max_length=32, pad_id=student.tokenizer.pad_id)
        return replace(student, tokenizer=tokenizer)

    monkeypatch.setattr(fit, "new_student", renumbered)


def test_a_term_that_compares_tokens_is_refused_a_student_with_other_ids_before_the_teacher_is_asked(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_students_other_ids(monkeypatch)
    asked = asked_texts(monkeypatch)
    with pytest.raises(SettingsError, match=r"hidden compares .* their tokenizers differ .* use losses on logits"):
        distil(tiny_teacher, few, tmp_path, losses=("hidden=1",))
    assert asked == []


def test_a_student_with_other_ids_learns_from_what_the_teacher_says_of_its_own(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_students_other_ids(monkeypatch)
    learnt: list[Any] = []
    run = sealing.run_training

    def noting(student: Any, lesson: Any, **rest: Any) -> Any:
        learnt.append(lesson.examples)
        return run(student, lesson, **rest)

    monkeypatch.setattr(sealing, "run_training", noting)
    bundle = distil(tiny_teacher, few, tmp_path, losses=("logits=1",), mixed_precision="no", epochs=1)
    teacher = load_bundle(tiny_teacher)
    own, foreign = (teacher.logits_of_rows(owner.tokenizer().encode(few[0].texts)) for owner in (tiny_teacher, bundle))
    np.testing.assert_allclose(learnt[0].teacher_logits, own, atol=1e-4)
    assert np.abs(own - foreign).max() > 0.1  # fed the student's ids it would say something else


def test_a_student_compared_with_its_teachers_layers_is_sealed_without_what_compared_them(
    tiny_teacher: Bundle, few: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    losses = ("hidden=1", "relations=0.5")
    bundle = distil(tiny_teacher, few, tmp_path / "with", losses=losses, soft_weight=0, epochs=1)
    plain = distil(tiny_teacher, few, tmp_path / "control", soft_weight=0, epochs=1)
    assert tuple(bundle.manifest.settings["student"]["losses"]) == losses
    weights, others = (safetensors.torch.load_file(one.weights()) for one in (bundle, plain))
    assert weights.keys() == others.keys()
    assert any(not torch.equal(weights[name], others[name]) for name in weights)
