"""A smaller feed-forward keeps the neurons that matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.errors import SettingsError
from distill.models.torch_classifier import TorchClassifier, write_model_files
from distill.settings import StudentSettings
from distill.students.build import build_student
from distill.students.width import activation_moments, feed_forwards, narrow_feed_forward, sample_of

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm with a charming actor", "unheard words")
FAMILIES = ("bert", "roberta", "electra", "distilbert")


def silence(classifier: TorchClassifier, neurons: slice, *, activation_before: float) -> None:
    """Make some neurons of each layer say the same of every token."""
    with torch.no_grad():
        for name, _ in feed_forwards(classifier):
            up = classifier.model.get_submodule(name)
            up.weight[neurons] = 0
            up.bias[neurons] = activation_before


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_that_never_vary_go_first_and_the_bias_speaks_for_them(family: str, make_classifier: Make) -> None:
    classifier = make_classifier(family)
    silence(classifier, slice(5, 25), activation_before=1.5)
    narrow = narrow_feed_forward(classifier, 44, texts=TEXTS)
    np.testing.assert_allclose(narrow.predict_logits(TEXTS), classifier.predict_logits(TEXTS), atol=2e-5)
    for up, _ in feed_forwards(narrow):
        theirs, ours = (one.model.get_submodule(up).weight for one in (classifier, narrow))
        assert torch.equal(ours, torch.cat([theirs[:5], theirs[25:]]))  # in the old order


def test_what_a_neuron_varies_by_counts_times_what_carries_it_on(make_classifier: Make) -> None:
    classifier = make_classifier(num_hidden_layers=1, intermediate_size=3)
    ((_, name),) = feed_forwards(classifier)
    down = classifier.model.get_submodule(name)
    deviation = activation_moments(classifier, [name], TEXTS)[name].deviation.float()
    with torch.no_grad():  # make the importances 1, 3 and 2, whatever the deviations are
        for neuron, importance in enumerate((1.0, 3.0, 2.0)):
            down.weight[:, neuron] = 0
            down.weight[neuron, neuron] = importance / deviation[neuron]
    narrow = narrow_feed_forward(classifier, 2, texts=TEXTS)
    assert torch.equal(narrow.model.get_submodule(name).weight, down.weight[:, [1, 2]])


def test_moments_are_those_of_the_real_tokens(make_classifier: Make) -> None:
    classifier = make_classifier()
    _, name = feed_forwards(classifier)[2]
    heard = []
    hook = classifier.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0][0]))
    for text in TEXTS:  # one at a time: nothing is padded
        classifier.predict_logits([text])
    hook.remove()
    activations = torch.cat(heard).double()
    moments = activation_moments(classifier, [name], TEXTS)[name]
    assert len(activations) == sum(map(len, classifier.tokenizer.encode(TEXTS)))
    torch.testing.assert_close(moments.mean, activations.mean(dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(moments.deviation, activations.std(dim=0, correction=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_student_reloads_with_plain_transformers(family: str, make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier(family)
    student = build_student(teacher, StudentSettings(num_layers=2, intermediate_size=16), labelled=TEXTS)
    assert teacher.num_parameters() > student.num_parameters()
    write_model_files(student, tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = AutoTokenizer.from_pretrained(tmp_path)(list(TEXTS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(logits, student.predict_logits(TEXTS), atol=1e-5)


def test_the_model_is_left_as_it_was_while_it_is_listened_to(make_classifier: Make) -> None:
    classifier = make_classifier()
    before = classifier.digest()
    classifier.model.train()
    narrow_feed_forward(classifier, 8, texts=TEXTS)
    assert classifier.model.training
    assert classifier.digest() == before
    assert not any(module._forward_pre_hooks for module in classifier.model.modules())


def test_what_cannot_be_narrowed_is_refused(make_classifier: Make) -> None:
    classifier = make_classifier()
    assert narrow_feed_forward(classifier, 64, texts=()) is classifier
    with pytest.raises(SettingsError, match=r"65.* 64 neurons"):
        narrow_feed_forward(classifier, 65, texts=TEXTS)
    with pytest.raises(SettingsError, match="intermediate_size needs texts"):
        narrow_feed_forward(classifier, 8, texts=())
    with pytest.raises(SettingsError, match=r"albert.*--intermediate-size"):
        narrow_feed_forward(make_classifier("albert"), 8, texts=TEXTS)


def test_a_sample_is_spread_over_all_texts() -> None:
    assert sample_of(["a", "b"]) == ["a", "b"]
    sample = sample_of([str(number) for number in range(5120)])
    assert sample == [str(number) for number in range(0, 5120, 10)]
