"""Another pretrained model as student, with a tokenizer of its own. It learns from the teacher's logits alone."""

from __future__ import annotations

from distill.classifier import Classifier
from distill.errors import SettingsError
from distill.settings import DistillSettings
from distill.training.devices import chosen_device, on_device
from distill.training.models import TorchClassifier, load_pretrained


def load_student(source: str, settings: DistillSettings, *, teacher: Classifier) -> TorchClassifier:
    """Return the model that is to learn, with a head for the teacher's labels.

    A head of as many labels that the checkpoint brings is kept, as is every other weight.

    Args:
        source: A folder, a bundle, a hub id, or `builtin:minilm`.
        settings: Device, the seed of a new head, and the tokens kept per text; without them as many as the teacher keeps.
        teacher: Whose labels, and whose `max_length` if it has one.

    Raises:
        SettingsError: Nothing says how many tokens to keep, or the model takes fewer.
        BundleError: No model can be loaded from there.
    """
    max_length = settings.max_length
    if max_length is None:
        if not isinstance(teacher, TorchClassifier):
            raise SettingsError("this teacher has no max_length that its student could take over; give it with --max-length")
        max_length = teacher.tokenizer.max_length
    student = load_pretrained(
        source, labels=teacher.labels, max_length=max_length, seed=settings.seed, problem_type=teacher.problem_type
    )
    on_device(student.model, chosen_device(settings.device))
    return student
