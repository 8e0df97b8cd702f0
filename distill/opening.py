"""Opening what a command is given: a bundle, or a fine-tuned Hugging Face classifier, which is adopted.

A bundle is opened without torch.
"""

from __future__ import annotations

from pathlib import Path

from distill.bundle import MANIFEST, Bundle
from distill.errors import SettingsError, requires
from distill.progress import Reporter

_OF_A_CHECKPOINT = ("config.json", "modules.json", "model_head.pkl", "adapter_config.json")


def open_or_adopt(source: Path | str, *, out: Path | str | None = None, reporter: Reporter | None = None) -> Bundle:
    """Open a bundle, or make one of a fine-tuned Hugging Face classifier.

    Args:
        source: A bundle, a folder that transformers saved, or `hub:ID`.
        out: Folder of the new bundle; None is a folder of the cache, named by the digest of the checkpoint's files.
        reporter: Told what was read from the checkpoint.

    Raises:
        BundleError: It is neither, or damaged.
        SettingsError: `out` is given for a bundle.
    """
    if not is_checkpoint(source):
        if out is not None:
            raise SettingsError(f"{source} is a bundle, so nothing is adopted into {out}; leave --out away")
        return Bundle.open(source)
    with requires("adopting a Hugging Face classifier"):
        from distill.teachers.adopting import adopt
    return adopt(str(source), out=out, reporter=reporter)


def is_checkpoint(source: Path | str) -> bool:
    """Return whether this is `hub:ID`, or a folder that transformers saved, rather than a bundle or what is left of one."""
    if str(source).startswith("hub:"):
        return True
    folder = Path(source)
    if (folder / MANIFEST).exists() or any(folder.glob(".staging-*")):
        return False
    return any((folder / name).is_file() for name in _OF_A_CHECKPOINT)
