"""Who teaches: a bundle, any classifier, or several of them whose logits are averaged.

Opens them and says who they are; asking them is `soft_targets`' job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distill.bundle import WEIGHTS, Bundle
from distill.classifier import Classifier, Ensemble
from distill.errors import SettingsError
from distill.settings import Device
from distill.training.devices import chosen_device, on_device
from distill.training.models import TorchClassifier, load_bundle
from distill.training.soft_targets import PartlyAnswered
from distill.training.static import StaticClassifier

AnyTeacher = Bundle | Classifier
"""What may teach, alone or with others."""


@dataclass(frozen=True)
class Teacher:
    """One teacher or several, ready to be asked.

    Attributes:
        members: Each of them; all have the same labels in the same order.
        names: What the lineage says of each: the sha256 of a bundle's weights, else a digest or a name, else the class.
    """

    members: tuple[Classifier, ...]
    names: tuple[str, ...]

    @property
    def asked(self) -> Classifier:
        """The one that gives the answers: the only member, or the mean of all."""
        return self.members[0] if len(self.members) == 1 else Ensemble(self.members)

    @property
    def said(self) -> str:
        """What decides the answers beside the members: what was given elsewhere, by name; nothing where nothing was."""
        return " ".join(member.said for member in self.members if isinstance(member, PartlyAnswered))

    def lender(self) -> TorchClassifier:
        """Return whose layers a student is made of: the first PyTorch member that has some.

        Raises:
            SettingsError: There is none.
        """
        member = next((one for one in self._torch_members() if not isinstance(one.model, StaticClassifier)), None)
        if member is None:
            raise SettingsError(
                "a student is made of its teacher's layers, and this teacher has none; name a bundle with weights too, or "
                "a pretrained model with --student"
            )
        return member

    def torch_member(self) -> TorchClassifier | None:
        """Return the first PyTorch member, if there is one."""
        return next(self._torch_members(), None)

    def _torch_members(self) -> Iterator[TorchClassifier]:
        models = (member.teacher if isinstance(member, PartlyAnswered) else member for member in self.members)
        return (model for model in models if isinstance(model, TorchClassifier))


def open_teacher(teacher: AnyTeacher | Sequence[AnyTeacher], *, device: Device) -> Teacher:
    """Load whatever teaches; models of bundles go to the device, other classifiers stay where they are.

    Raises:
        SettingsError: No teacher is given, or they do not share their labels.
        BundleError: A bundle has no weights.
    """
    several = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    if not several:
        raise SettingsError("no teacher is given; name a bundle")
    opened = Teacher(tuple(_load(one, device) for one in several), tuple(map(_name_of, several)))
    if len(several) > 1:
        Ensemble(opened.members)  # refuses members whose labels differ
    return opened


def _load(teacher: AnyTeacher, device: Device) -> Classifier:
    loaded = load_bundle(teacher) if isinstance(teacher, Bundle) else teacher
    if isinstance(loaded, TorchClassifier):
        on_device(loaded.model, chosen_device(device))
    return loaded


def _name_of(teacher: AnyTeacher) -> str:
    if isinstance(teacher, Bundle):
        return teacher.manifest.files[WEIGHTS].sha256
    digest = getattr(teacher, "digest", None)
    return str(digest()) if callable(digest) else type(teacher).__name__
