"""Teacher logits are computed once, found again by content, and never trusted when damaged."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import tiny_texts

from distill.bundle import Bundle
from distill.classifier import Ensemble
from distill.errors import DatasetError, SettingsError, StorageError
from distill.labels import ProblemType
from distill.models.devices import Compute
from distill.models.loading import load_bundle
from distill.models.torch_classifier import TorchClassifier
from distill.teachers import answers as soft_targets
from distill.teachers.answer_store import AnswerStore, keys_of
from distill.teachers.answers import share_of, teacher_logits

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm", "it was cold with awful music", "a great actor")
RECORD_BYTES = 16 + 2 * 4 + 8  # key, two float32 logits, checksum


def rows_asked(teacher: TorchClassifier) -> list[int]:
    """Make the teacher note how many rows each call asks it for, and return the notes."""
    asked: list[int] = []
    answer = teacher.steady_logits

    def noting(rows: Sequence[np.ndarray], *rest: Any) -> Iterator[Any]:
        if rows:
            asked.append(len(rows))
        return answer(rows, *rest)

    teacher.steady_logits = noting  # type: ignore[method-assign]
    return asked


def cache_file(folder: Path) -> Path:
    (file,) = folder.glob("*.logits")
    return file


def test_logits_are_the_teachers_and_the_second_time_the_same_to_the_bit(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    cold = teacher_logits(teacher, TEXTS, folder=tmp_path)
    asked = rows_asked(teacher)
    warm = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert (cold.num_cached, warm.num_cached) == (0, 5)
    assert asked == []
    assert cold.logits.dtype == warm.logits.dtype == np.float32
    np.testing.assert_array_equal(warm.logits, cold.logits)
    np.testing.assert_allclose(cold.logits, teacher.predict_logits(TEXTS), atol=1e-5)
    assert len(np.unique(cold.logits[:, 0])) == len(TEXTS)  # else a wrong order would not show


def test_only_logits_are_kept(make_classifier: Make, tmp_path: Path) -> None:
    teacher_logits(make_classifier(), TEXTS, folder=tmp_path)
    assert cache_file(tmp_path).stat().st_size == len(TEXTS) * RECORD_BYTES


def test_answers_in_bf16_are_kept_apart(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    exact = teacher_logits(teacher, TEXTS, folder=tmp_path)
    rough = teacher_logits(teacher, TEXTS, compute="bf16", folder=tmp_path)
    again = teacher_logits(teacher, TEXTS, compute="bf16", folder=tmp_path)
    assert (rough.num_cached, again.num_cached) == (0, 5)
    np.testing.assert_array_equal(again.logits, rough.logits)
    assert not np.array_equal(rough.logits, exact.logits)
    np.testing.assert_allclose(rough.logits, exact.logits, rtol=0.05, atol=0.1)  # 8 bits of each number
    np.testing.assert_array_equal(teacher_logits(teacher, TEXTS, folder=tmp_path).logits, exact.logits)


def test_rows_that_moved_take_their_logits_with_them(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    first = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    asked = rows_asked(teacher)
    order = [3, 0, 4, 2, 1]
    moved = teacher_logits(teacher, [TEXTS[index] for index in order], folder=tmp_path)
    assert asked == []
    np.testing.assert_array_equal(moved.logits, first[order])


def test_only_new_texts_are_computed(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    teacher_logits(teacher, TEXTS[:2], folder=tmp_path)
    asked = rows_asked(teacher)
    found = teacher_logits(teacher, ("new", *TEXTS[:2], "newer"), folder=tmp_path)
    assert asked == [2]
    assert found.num_cached == 2
    np.testing.assert_allclose(found.logits, teacher.predict_logits(("new", *TEXTS[:2], "newer")), atol=1e-6)


def test_a_repeated_text_is_computed_once(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    asked = rows_asked(teacher)
    logits = teacher_logits(teacher, ("dull", "a great actor", "dull"), folder=tmp_path).logits
    assert asked == [2]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert not np.array_equal(logits[0], logits[1])


def test_texts_that_differ_in_case_alone_are_different_texts(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    asked = rows_asked(teacher)
    teacher_logits(teacher, ("Dull", "dull"), folder=tmp_path)  # equal to this tokenizer, but not to every one
    assert asked == [2]


def test_a_teacher_with_other_weights_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    before = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    with torch.no_grad():
        next(teacher.model.classifier.parameters())[0, 0] += 1.0
    after = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert after.num_cached == 0
    assert not np.array_equal(after.logits, before)
    np.testing.assert_allclose(after.logits, teacher.predict_logits(TEXTS), atol=1e-5)


def test_a_teacher_that_reads_fewer_tokens_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier(max_length=32)
    before = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    shorter = replace(teacher, tokenizer=teacher.tokenizer.with_max_length(5))
    after = teacher_logits(shorter, TEXTS, folder=tmp_path)
    assert after.num_cached == 0
    np.testing.assert_allclose(after.logits[1], before[1], atol=1e-6)  # "dull" is 3 tokens, nothing is cut
    assert np.abs(after.logits[2] - before[2]).max() > 1e-3  # the long one is cut


def test_a_teacher_whose_config_differs_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    teacher_logits(teacher, TEXTS, folder=tmp_path)
    teacher.model.config.layer_norm_eps = 0.5
    assert teacher_logits(teacher, TEXTS, folder=tmp_path).num_cached == 0


def test_a_record_cut_by_a_kill_is_computed_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    whole = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    file = cache_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    asked = rows_asked(teacher)
    mended = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert asked == [1]
    assert mended.num_cached == len(TEXTS) - 1
    np.testing.assert_array_equal(mended.logits, whole)
    assert teacher_logits(teacher, TEXTS, folder=tmp_path).num_cached == len(TEXTS)


@pytest.fixture
def wide_teacher(make_classifier: Make) -> TorchClassifier:
    """Return a teacher whose products are large enough for the blocks and tails of real kernels."""
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 768}
    return make_classifier(max_length=20, **sizes)


@pytest.fixture
def many_texts() -> list[str]:
    """Return texts of 5 to 20 words, of which the longest are cut."""
    return [text for text, _ in tiny_texts(90, seed=3)]


@pytest.mark.parametrize("compute", ["no", "bf16"])
def test_a_texts_logits_are_the_same_to_the_bit_whatever_was_computed_beside_it(
    wide_teacher: TorchClassifier, many_texts: list[str], tmp_path: Path, compute: Compute
) -> None:
    cold = teacher_logits(wide_teacher, many_texts, compute=compute, folder=tmp_path / "cold").logits
    generator = np.random.default_rng(0)
    for number, known in enumerate((1, 40, 89)):
        folder = tmp_path / f"half-warm-{number}"
        some = [many_texts[index] for index in generator.permutation(90)[:known]]
        teacher_logits(wide_teacher, (*some, "a text of another run"), compute=compute, folder=folder)
        half_warm = teacher_logits(wide_teacher, many_texts, compute=compute, folder=folder)
        assert half_warm.num_cached == known
        np.testing.assert_array_equal(half_warm.logits, cold)


def test_a_batch_without_padding_is_computed_as_one_with(make_classifier: Make, tmp_path: Path) -> None:
    # Eight tokens each: nothing would be masked, and transformers takes another attention kernel then.
    teacher = make_classifier(max_length=8)
    full = [f"{' '.join(['film'] * 5)} {word}" for word in ("good", "the", "plot")]
    shapes: list[tuple[int, ...]] = []
    run = teacher._run
    teacher._run = lambda batch: (shapes.append((*batch.input_ids.shape, int(batch.attention_mask.min()))), run(batch))[1]  # type: ignore[method-assign]
    teacher_logits(teacher, full, folder=tmp_path)
    assert shapes == [(128, 8, 0)]  # 1,024 tokens; something is masked


def test_what_was_computed_before_a_kill_is_kept(tiny_teacher: Bundle, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from test_answers import *\n"
        f"teacher = load_bundle(Bundle.open({str(tiny_teacher.path)!r}))\n"
        f"teacher_logits(teacher, [text for text, _ in tiny_texts(4_000, seed=5)], folder=Path({str(tmp_path)!r}))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program])
    try:
        while not any(file.stat().st_size > 500 * RECORD_BYTES for file in tmp_path.glob("*.logits")):
            assert running.poll() is None
            time.sleep(0.01)
    finally:
        running.kill()  # -9
        running.wait()
    kept = cache_file(tmp_path).stat().st_size // RECORD_BYTES
    assert 500 <= kept < 4_000
    teacher, texts = load_bundle(tiny_teacher), [text for text, _ in tiny_texts(4_000, seed=5)]
    file = AnswerStore(cache_file(tmp_path), 2)
    found, logits = file.find(keys_of(texts))
    assert found.sum() == kept
    some = [texts[index] for index in np.flatnonzero(found)[:50]]
    np.testing.assert_array_equal(logits[found][:50], teacher_logits(teacher, some, folder=tmp_path / "cold").logits)


def test_an_interrupted_pass_keeps_its_last_piece(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    run, count = teacher._run, 0

    def interrupting(batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return run(batch)

    teacher._run = interrupting  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert cache_file(tmp_path).stat().st_size == RECORD_BYTES  # the longest text has a batch of its own


def test_logits_can_be_laid_into_a_mapped_file(make_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_targets, "CHUNK_TEXTS", 2)
    teacher = make_classifier()
    in_memory = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    mapped = teacher_logits(teacher, TEXTS, folder=tmp_path, into=tmp_path / "rows")
    assert isinstance(mapped.logits.base, np.memmap)
    assert mapped.num_cached == 5
    np.testing.assert_array_equal(mapped.logits, in_memory)
    assert (tmp_path / "rows").stat().st_size == 5 * 2 * 4


def test_an_ensembles_members_are_kept_apart(make_classifier: Make, tmp_path: Path) -> None:
    first, second = make_classifier(), make_classifier(seed=1)
    alone = teacher_logits(first, TEXTS, folder=tmp_path).logits
    both = teacher_logits(Ensemble((first, second)), TEXTS, folder=tmp_path)
    assert both.num_cached == 0
    np.testing.assert_allclose(both.logits, (alone + second.predict_logits(TEXTS)) / 2, atol=1e-5)
    asked = rows_asked(second)
    assert teacher_logits(second, TEXTS, folder=tmp_path).num_cached == 5
    assert teacher_logits(Ensemble((second, first)), TEXTS, folder=tmp_path).num_cached == 5
    assert asked == []


@pytest.mark.parametrize("chunk", [1, 16_384])
def test_shares_are_each_text_once_whoever_asks_first(
    make_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(soft_targets, "CHUNK_TEXTS", chunk)
    teacher = make_classifier()
    texts = [*(text for text, _ in tiny_texts(40, seed=4)), *TEXTS, *TEXTS]
    teacher_logits(teacher, TEXTS, folder=tmp_path)
    asked = rows_asked(teacher)
    found = [teacher_logits(teacher, share_of(texts, share=share, of=3), folder=tmp_path).num_cached for share in (2, 0, 1)]
    assert sum(asked) == 40
    assert sum(found) == 10
    assert len(cache_file(tmp_path).read_bytes()) == 45 * RECORD_BYTES
    shared = teacher_logits(teacher, texts, folder=tmp_path)
    assert shared.num_cached == 50
    np.testing.assert_array_equal(shared.logits, teacher_logits(teacher, texts, folder=tmp_path / "alone").logits)


def test_a_teacher_without_a_digest_is_refused(make_classifier: Make, tmp_path: Path) -> None:
    class Nameless:
        labels = ("negative", "positive")
        problem_type: ProblemType = "single_label_classification"

        def predict_logits(self, texts: Sequence[Any]) -> np.ndarray:
            raise AssertionError(f"asked for {len(texts)} texts, whose answers nobody would find")

    for teacher in (Nameless(), Ensemble((make_classifier(), Nameless()))):
        with pytest.raises(SettingsError, match="Nameless"):
            teacher_logits(teacher, TEXTS, folder=tmp_path)


def test_without_a_folder_the_users_cache_is_used(
    make_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    teacher_logits(make_classifier(), TEXTS)
    assert cache_file(tmp_path / "soft_targets").suffix == ".logits"


def test_no_texts_give_no_rows(make_classifier: Make, tmp_path: Path) -> None:
    found = teacher_logits(make_classifier(), (), folder=tmp_path)
    assert found.logits.shape == (0, 2)
    assert found.num_cached == 0


def test_a_lone_surrogate_is_refused_by_name(make_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lone surrogate"):
        teacher_logits(make_classifier(), ("dull", "du\ud800ll"), folder=tmp_path)


def test_a_cache_that_cannot_be_written_is_said(make_classifier: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        teacher_logits(make_classifier(), TEXTS, folder=tmp_path / "file" / "inside")
