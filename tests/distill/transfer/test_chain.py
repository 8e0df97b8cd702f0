"""From source task to target task: what is kept of a bundle, what the lineage says, what is forgotten."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_task import Listening

from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.models.loading import load_bundle
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.training.origin import Origin, SourceTask
from distill.transfer.parameters import start_from

TEXTS = ["a lovely film", "dull boring plot"]


def on(bundle: Bundle, labels: tuple[str, ...]) -> np.ndarray:
    loaded = start_from(
        bundle, labels=labels, settings=TeacherSettings(max_length=32), problem_type="single_label_classification"
    )
    loaded.model.eval()
    return loaded.predict_logits(TEXTS)


def test_the_head_is_kept_by_label_names(tiny_teacher: Bundle) -> None:
    before = load_bundle(tiny_teacher).predict_logits(TEXTS)
    np.testing.assert_allclose(on(tiny_teacher, ("negative", "positive")), before, atol=1e-5)
    np.testing.assert_allclose(on(tiny_teacher, ("positive", "negative")), before[:, ::-1], atol=1e-5)


def test_other_labels_draw_a_new_head_even_of_the_same_number(tiny_teacher: Bundle) -> None:
    before = load_bundle(tiny_teacher).predict_logits(TEXTS)
    new = on(tiny_teacher, ("sport", "weather"))
    assert np.abs(new - before).max() > 0.5
    settings = TeacherSettings(max_length=32)
    loaded = start_from(
        tiny_teacher, labels=("sport", "weather"), settings=settings, problem_type="single_label_classification"
    )
    assert float(loaded.model.classifier.weight.detach().std()) == pytest.approx(
        0.02, rel=0.25
    )  # the config's initializer_range
    assert not loaded.model.classifier.bias.any()
    assert on(tiny_teacher, ("a", "b", "c")).shape == (2, 3)


def topics(part: Dataset) -> Dataset:
    """The same texts, by whether they speak of music."""
    ids = np.array([int("music" in text) for text in part.texts], dtype=np.int64)
    return replace(part, label_ids=ids, labels=("other", "music"))


def test_a_chain_of_three_stands_in_the_lineage(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = TeacherSettings(epochs=1, learning_rate=1e-3, max_length=32)
    train, validation = topics(tiny_splits.train), topics(tiny_splits.validation)
    second = fit_teacher(
        train=train, validation=validation, out=tmp_path / "second", settings=settings, origin=Origin(tiny_teacher)
    )
    third = fit_teacher(
        train=tiny_splits.train,
        validation=tiny_splits.validation,
        out=tmp_path / "third",
        settings=settings,
        origin=Origin(second),
    )
    chain = third.manifest.lineage.chain
    assert [link.labels for link in chain] == [("negative", "positive"), ("other", "music")]
    assert [link.weights_sha256 for link in chain] == [
        bundle.manifest.files[WEIGHTS].sha256 for bundle in (tiny_teacher, second)
    ]
    assert third.manifest.lineage.base_model == tiny_teacher.manifest.lineage.base_model
    assert Bundle.open(third.path).manifest.lineage == third.manifest.lineage


def test_forgetting_is_measured_and_an_anchor_or_replay_lessens_it(
    tiny_teacher: Bundle, tiny_splits: Splits, tiny_test: Dataset, tmp_path: Path
) -> None:
    # A target task that contradicts the source: the labels are turned round.
    turned = [replace(part, label_ids=1 - part.label_ids) for part in (tiny_splits.train, tiny_splits.validation)]
    source = SourceTask(tiny_splits.train, tiny_test)

    def after(name: str, **settings: object) -> float:
        reporter = Listening()
        chosen = TeacherSettings(epochs=4, learning_rate=1e-3, max_length=32, batch_size=16, **settings)
        bundle = fit_teacher(
            train=turned[0].take(range(100)),
            validation=turned[1],
            out=tmp_path / name,
            settings=chosen,
            origin=Origin(tiny_teacher, source),
            reporter=reporter,
        )
        quality = bundle.manifest.quality
        assert quality["source_before"]["macro_f1"] > 0.9
        assert any("source task: macro-F1" in line for line in reporter.said)
        return float(quality["source_after"]["macro_f1"])

    pytest.importorskip("datasketch")
    free = after("free")
    assert free < 0.4
    assert after("anchored", anchor=100.0) > free + 0.2
    assert after("replayed", replay_share=3.0) > free + 0.2


def test_source_settings_that_cannot_be_honoured(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    train, validation = topics(tiny_splits.train), topics(tiny_splits.validation)
    with pytest.raises(SettingsError, match="would replace the bundle it starts from"):
        fit_teacher(train=train, validation=validation, out=tiny_teacher.path, origin=Origin(tiny_teacher))
    with pytest.raises(SettingsError, match="and there are none; name them with --source"):
        fit_teacher(train=train, validation=validation, out=tmp_path, settings=TeacherSettings(replay_share=0.5))
    with pytest.raises(SettingsError, match=r"have the labels \['other', 'music'\], the bundle to start from"):
        fit_teacher(
            train=train, validation=validation, out=tmp_path, origin=Origin(tiny_teacher, SourceTask(train, validation))
        )


def test_adapting_learns_to_guess_words(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    reporter = Listening()
    settings = TeacherSettings(epochs=1, max_length=32, adapt_epochs=3, adapt_learning_rate=3e-3, batch_size=16)
    bundle = fit_teacher(
        str(tiny_model),
        train=tiny_splits.train.take(range(32)),
        validation=tiny_splits.validation,
        out=tmp_path,
        settings=settings,
        origin=Origin(adapt_texts=tiny_splits.train.texts),
        reporter=reporter,
    )
    line = next(line for line in reporter.said if "masked word" in line)
    first, last = map(float, re.findall(r"\d+\.\d+", line))
    assert last < first - 0.1  # 29 words are 3.37 nats for one that knows nothing
    assert bundle.manifest.lineage.adapted_fingerprint is not None


def test_masking_leaves_special_tokens_and_padding_alone() -> None:
    from distill.transfer.adapt import IGNORED, masked_ids

    ids = torch.tensor([[2, 7, 8, 9, 3, 0, 0]] * 400)
    real = (ids != 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden, wanted = masked_ids(ids, real, mask_id=4, num_tokens=100, share=0.5)
    chosen = wanted != IGNORED
    assert not chosen[:, [0, 4, 5, 6]].any()
    assert torch.equal(wanted[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert float(chosen[:, 1:4].float().mean()) == pytest.approx(0.5, abs=0.06)
    assert float((hidden[chosen] == 4).float().mean()) == pytest.approx(0.8, abs=0.06)
