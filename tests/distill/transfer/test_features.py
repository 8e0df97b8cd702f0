"""Pooled features by hand, their cache, and that a head on them is an ordinary classifier of the encoder's family."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face import save_random
from tiny_task import Listening
from transformers import AutoModelForSequenceClassification

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.models.loading import load_bundle, load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.progress import SilentReporter
from distill.teacher_settings import FeatureSettings, TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.transfer.features import pooled_features, pooled_states
from distill.transfer.head import LinearHead, classifier_of, fit_heads

LABELS = ("negative", "positive")
TEXTS = ("a lovely film", "dull plot it was", "the end", "great great great music")


def fit_head(
    features: np.ndarray, labels: np.ndarray, *, num_labels: int, strength: float, balanced: bool = False
) -> LinearHead:
    (head,) = fit_heads(features, labels, num_labels=num_labels, strengths=(strength,), balanced=balanced)
    return head


def loaded(folder: Path) -> TorchClassifier:
    return load_pretrained(str(folder), labels=LABELS, max_length=32, seed=0)


def test_pooling_by_hand() -> None:
    # One text of two real tokens and padding; one state of width 2.
    state = torch.tensor([[[1.0, 3.0], [3.0, 9.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])

    def pooled(pooling: str) -> list[float]:
        return pooled_states([state], mask, pooling=pooling, last_layers=1)[0, 0].tolist()  # type: ignore[arg-type]

    assert pooled("cls") == [1.0, 3.0]
    # mean (2, 6), largest (3, 9): of width 2 both normalise to (-1, 1)
    assert pooled("mean") == pytest.approx([-1, 1])
    assert pooled("max") == pytest.approx([-1, 1])


def test_last_averages_the_states_before_it_too() -> None:
    states = [torch.tensor([[[0.0, 0.0, 3.0]]]), torch.tensor([[[3.0, 0.0, 0.0]]])]
    mean = torch.tensor([1.5, 0.0, 1.5])  # of both; (x - 1) / sqrt(1/2)
    found = pooled_states(states, torch.tensor([[1]]), pooling="last", last_layers=2)
    assert found[0, 1].tolist() == pytest.approx(((mean - 1) / 0.5**0.5).tolist())
    assert found[0, 0].tolist() == pytest.approx([-(0.5**0.5), -(0.5**0.5), 2**0.5])


def test_padding_changes_no_feature(tiny_model: Path, tmp_path: Path) -> None:
    encoder = loaded(tiny_model)
    for pooling in ("cls", "mean", "max", "last"):
        settings = FeatureSettings(pooling=pooling)
        together = pooled_features(encoder, TEXTS, settings, folder=tmp_path / pooling / "a").values
        alone = pooled_features(encoder, TEXTS[:1], settings, folder=tmp_path / pooling / "b").values
        np.testing.assert_allclose(together[:1], alone, atol=1e-4)


def test_second_run_comes_from_the_cache_and_other_weights_do_not(tiny_model: Path, tmp_path: Path) -> None:
    settings = FeatureSettings()
    first = pooled_features(loaded(tiny_model), TEXTS, settings, folder=tmp_path)
    other_head = load_pretrained(str(tiny_model), labels=("a", "b", "c"), max_length=32, seed=5)
    again = pooled_features(other_head, [*reversed(TEXTS), "a new film"], settings, folder=tmp_path)
    assert (first.num_cached, again.num_cached) == (0, 4)
    np.testing.assert_array_equal(first.values, again.values[:4][::-1])
    changed = loaded(tiny_model)
    with torch.no_grad():
        changed.model.bert.encoder.layer[3].output.dense.weight.mul_(1.01)
    assert pooled_features(changed, TEXTS, settings, folder=tmp_path).num_cached == 0
    assert pooled_features(loaded(tiny_model), TEXTS, FeatureSettings(pooling="cls"), folder=tmp_path).num_cached == 0


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_classifier_computes_the_heads_logits(tiny_model: Path, tiny_splits: Splits, tmp_path: Path, pooling: str) -> None:
    train = tiny_splits.train
    encoder = loaded(tiny_model)
    settings = FeatureSettings(pooling=pooling)
    features = pooled_features(encoder, train.texts, settings, folder=tmp_path).values[:, 2]
    head = fit_head(features, train.label_ids, num_labels=2, strength=0.1)
    made = classifier_of(encoder, head, layers=2, pooling=settings.pooling)
    assert made.model.config.num_hidden_layers == (3 if pooling == "mean" else 2)
    np.testing.assert_allclose(made.predict_logits(train.texts), head.logits(features), atol=2e-3)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_classifier_of_robertas_family_computes_them_too(
    family: str, make_classifier: Callable[..., TorchClassifier], tiny_splits: Splits, tmp_path: Path
) -> None:
    train, encoder = tiny_splits.train, make_classifier(family)
    features = pooled_features(encoder, train.texts, FeatureSettings(), folder=tmp_path).values[:, 2]
    head = fit_head(features, train.label_ids, num_labels=2, strength=0.1)
    made = classifier_of(encoder, head, layers=2, pooling="mean")
    assert (made.model.config.model_type, made.model.config.num_hidden_layers) == (family, 3)
    np.testing.assert_allclose(made.predict_logits(train.texts), head.logits(features), atol=2e-3)


def test_two_classes_have_the_probabilities_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3)).astype(np.float32)
    labels = (features[:, 0] + generator.normal(size=60) > 0).astype(np.int64)
    head = fit_head(features, labels, num_labels=2, strength=1.0)
    logits = head.logits(features)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    wanted = LogisticRegression(C=1.0).fit(standard, labels).predict_proba(standard)[:, 1]
    np.testing.assert_allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), wanted, atol=1e-4)


def test_a_fit_that_float32_is_too_coarse_for_is_made_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the solver's steps become too small for float32 depends on the processor, so here they always do."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    generator, whole = np.random.default_rng(0), LogisticRegression.fit
    features, labels = generator.normal(size=(60, 3)).astype(np.float32), np.tile([0, 1], 30)
    fine = fit_head(features, labels, num_labels=2, strength=1.0)
    seen = []

    def coarse(self: Any, standard: Any, label_ids: Any) -> Any:
        seen.append(standard.dtype)
        if standard.dtype == np.float32:
            warnings.warn("ABNORMAL", ConvergenceWarning, stacklevel=1)
        return whole(self, standard, label_ids)

    monkeypatch.setattr(LogisticRegression, "fit", coarse)
    found = fit_head(features, labels, num_labels=2, strength=1.0)
    assert seen == [np.float32, np.float64]
    np.testing.assert_allclose(found.logits(features), fine.logits(features), atol=1e-3)


def test_each_strength_ends_where_it_would_end_alone() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(90, 4)).astype(np.float32)
    labels = (features @ generator.normal(size=(4, 3)) + generator.normal(size=(90, 3))).argmax(axis=1)
    together = fit_heads(features, labels, num_labels=3, strengths=(0.01, 0.1, 1.0))
    for strength, head in zip((0.01, 0.1, 1.0), together, strict=True):
        alone = fit_head(features, labels, num_labels=3, strength=strength)
        np.testing.assert_allclose(head.logits(features), alone.logits(features), atol=5e-3)
    assert abs(together[0].weight).max() < abs(together[2].weight).max() / 2


def test_a_label_that_all_or_no_training_texts_have_is_always_or_never_predicted() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    several = np.stack([np.ones(20), np.zeros(20), features[:, 0] > 0], axis=1).astype(np.int64)
    logits = fit_head(features, several, num_labels=3, strength=1.0).logits(features)
    assert (logits[:, 0] > 10).all()
    assert (logits[:, 1] < -10).all()
    assert ((logits[:, 2] > 0) == several[:, 2]).mean() > 0.9
    only = fit_head(features, np.full(20, 1), num_labels=3, strength=1.0).logits(features)
    assert (only.argmax(axis=1) == 1).all()


def test_balanced_classes_let_a_rare_one_count() -> None:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 190 + [1] * 10)
    features = (generator.normal(size=(200, 2)) + labels[:, None]).astype(np.float32)
    given = [
        int(fit_head(features, labels, num_labels=2, strength=1.0, balanced=balanced).logits(features).argmax(axis=1).sum())
        for balanced in (False, True)
    ]
    assert given[0] < 10 < given[1]


def test_features_end_in_a_bundle_that_transformers_loads(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = TeacherSettings(transfer="features", max_length=32)
    bundle = fit_teacher(
        str(tiny_model), train=tiny_splits.train, validation=tiny_splits.validation, out=tmp_path / "out", settings=settings
    )
    assert bundle.manifest.settings["teacher"]["feature_layer"] in range(1, 5)
    # Random layers still tell which words stand there: far above the 0.33 of always saying one label.
    assert bundle.manifest.quality["pytorch"]["macro_f1"] > 0.8
    model = AutoModelForSequenceClassification.from_pretrained(bundle.path).eval()
    ours = load_bundle(Bundle.open(bundle.path))
    rows = ours.tokenizer.encode(TEXTS[:1])
    with torch.inference_mode():
        theirs = model(input_ids=torch.from_numpy(rows[0])[None]).logits.numpy()
    np.testing.assert_allclose(theirs, ours.predict_logits(TEXTS[:1]), atol=1e-3)


def test_a_second_run_runs_no_layer_and_ends_in_the_same_bundle(
    tiny_model: Path, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    run: list[str] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: run.append(type(module).__name__))
    try:
        counts, bundles = [], []
        for number in range(2):
            bundles.append(
                fit_teacher(
                    str(tiny_model),
                    train=tiny_splits.train,
                    validation=tiny_splits.validation,
                    out=tmp_path / str(number),
                    settings=TeacherSettings(transfer="features", max_length=32),
                )
            )
            counts.append(run.count("BertLayer"))
    finally:
        hook.remove()
    assert counts[0] > 0
    assert counts[1] == counts[0]
    assert bundles[0].manifest.files == bundles[1].manifest.files
    assert bundles[0].manifest.quality == bundles[1].manifest.quality


def test_features_export_like_any_teacher(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    from export.pipeline import export_bundle
    from export.runtime.sessions import OnnxClassifier

    settings = TeacherSettings(transfer="features", max_length=32)
    validation = tiny_splits.validation
    bundle = fit_teacher(
        str(tiny_model), train=tiny_splits.train, validation=validation, out=tmp_path / "out", settings=settings
    )
    exported = export_bundle(bundle, validation=validation, reporter=SilentReporter())
    graph = OnnxClassifier.open(exported.path, precision="fp32").predict_logits(validation.texts)
    np.testing.assert_allclose(graph, load_bundle(exported).predict_logits(validation.texts), atol=5e-3)


def test_pooling_that_no_bert_computes_is_refused(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = TeacherSettings(transfer="features", pooling="max", max_length=32)
    with pytest.raises(SettingsError, match=r"max-pooled.*--pooling"):
        fit_teacher(
            str(tiny_model), train=tiny_splits.train, validation=tiny_splits.validation, out=tmp_path, settings=settings
        )
    with pytest.raises(SettingsError, match="feature_layer is 9, but the model has only 4 layers"):
        fit_teacher(
            str(tiny_model),
            train=tiny_splits.train,
            validation=tiny_splits.validation,
            out=tmp_path,
            settings=TeacherSettings(transfer="features", feature_layer=9, max_length=32),
        )


@pytest.mark.parametrize(
    ("family", "given", "advised"),
    [
        ("roberta", {"epochs": 20}, ["--transfer", "features"]),
        ("mpnet", {}, ["--transfer", "features", "--model", "builtin:minilm"]),
        ("roberta", {}, None),  # both methods were tried
    ],
)
def test_whoever_follows_the_advice_for_a_bad_teacher_gets_another_teacher(
    family: str, given: dict[str, Any], advised: list[str] | None, tiny_model: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    model = str(save_random(tmp_path / "encoder", tiny_model, family, num_labels=2))
    # Every answer to these validation texts ignores the text: they are all the same.
    validation = Dataset(("film",) * 20, np.arange(20) % 2, LABELS, "validation")
    texts: Any = {"train": tiny_splits.train.take(range(40)), "validation": validation}
    heard = Listening()
    settings = TeacherSettings(max_length=32, **given)
    fit_teacher(model, **texts, out=tmp_path / "bad", settings=settings, reporter=heard)
    (warning,) = (line for line in heard.said if line.startswith("warning: the teacher is no better than"))
    found = re.search(r"; try `potstill teacher (--.+?)`, or another model", warning)
    if advised is None:
        assert found is None
        assert "; try another model" in warning
        return
    assert found is not None
    flags = found[1].split()
    assert flags == advised
    named = dict(zip(flags[::2], flags[1::2], strict=True))
    changed = settings.model_copy(update={"transfer": named["--transfer"]})
    fit_teacher(named.get("--model", model), **texts, out=tmp_path / "other", settings=changed)


def test_the_refusal_of_a_family_names_what_works(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    model = str(save_random(tmp_path / "encoder", tiny_model, "mpnet"))
    settings = TeacherSettings(transfer="features", max_length=32)
    wanted = "bert, camembert, roberta, xlm-roberta, this is a mpnet; use --model builtin:minilm"
    with pytest.raises(SettingsError, match=wanted):
        fit_teacher(model, train=tiny_splits.train, validation=tiny_splits.validation, out=tmp_path / "out", settings=settings)


def test_a_head_for_several_labels_asks_each_by_itself(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    def several(part: Dataset) -> Dataset:
        long = np.array([len(text.split()) > 12 for text in part.texts], dtype=np.int64)
        return Dataset(part.texts, np.stack([part.label_ids, long], axis=1), ("good", "long"), part.source)

    settings = TeacherSettings(transfer="features", max_length=32)
    train, validation = several(tiny_splits.train), several(tiny_splits.validation)
    bundle = fit_teacher(str(tiny_model), train=train, validation=validation, out=tmp_path / "out", settings=settings)
    assert bundle.manifest.problem_type == "multi_label_classification"
    assert bundle.manifest.quality["pytorch"]["macro_f1"] > 0.75
