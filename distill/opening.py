"""Opening what a command is given: a bundle, or a fine-tuned Hugging Face classifier, which is adopted.

A bundle is opened without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distill.bundle import Bundle, is_checkpoint
from distill.errors import SettingsError, requires
from distill.progress import Reporter

if TYPE_CHECKING:
    from distill.data import Dataset

LabelledReader = Callable[[tuple[str, ...]], "Dataset"]
"""Reads labelled texts with these label names in this order; with none, the names are those of the data."""


def open_or_adopt(
    source: Path | str,
    *,
    out: Path | str | None = None,
    labelled: LabelledReader | None = None,
    judged: bool = True,
    reporter: Reporter | None = None,
) -> Bundle:
    """Open a bundle, or make one of a fine-tuned Hugging Face classifier.

    Args:
        source: A bundle, a folder that transformers saved, or `hub:ID`.
        out: Folder of the new bundle; None is a folder of the cache, where it is found again.
        labelled: Called if something is adopted, for the texts that name labels without names and show pairs; see `adopt`.
        judged: Refuse a classifier that is useless on these texts. Without, they only name its labels.
        reporter: Told what was read from the checkpoint.

    Raises:
        BundleError: It is neither, or damaged.
        TeacherError: The labelled texts show that its labels are swapped, or that it is useless.
        SettingsError: `out` is given for a bundle.
    """
    if not is_checkpoint(source):
        bundle = Bundle.open(source)
        if out is not None:
            raise SettingsError(f"{source} is a bundle, so nothing is adopted into {out}; leave out --out")
        return bundle
    with requires("adopting a Hugging Face classifier"):
        from distill.teachers.adopting import adopt, labels_to_read
    texts = labelled(labels_to_read(str(source))) if labelled else None
    return adopt(str(source), out=out, labelled=texts, judged=judged, reporter=reporter)
