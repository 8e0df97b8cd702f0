"""The demo: `potstill fit` on the built-in movie sentences, with a budget that leaves four students."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from distill.data import TextSources, load_splits
from distill.errors import requires
from distill.progress import Reporter
from distill.recipes import RecipeName
from distill.settings import BUILTIN_MINILM, DataSettings
from distill.storage import require_writable
from export.settings import DemoSettings, FitSettings

if TYPE_CHECKING:
    from export.fitting.reporting.result import FitReport

TASK: Final = "movies"
MAX_MB: Final = 9.0
RECIPES: Final[tuple[RecipeName, ...]] = ("narrow", "static")
"""The two fastest kinds of student, each with 8-bit and 4-bit tables; all seven take hours."""


@dataclass(frozen=True)
class Profile:
    """What the demo fits.

    Attributes:
        data: Where the labelled texts come from.
        unlabeled: Data sets whose texts the student learns from too, without their labels.
        fit: Budget and effort.
    """

    data: DataSettings
    unlabeled: tuple[str, ...]
    fit: FitSettings


def profile_of(settings: DemoSettings) -> Profile:
    """Return what a profile fits."""
    source, quick = f"builtin:{TASK}", settings.profile == "quick"
    return Profile(
        data=DataSettings(train=(source,), test=source, limit=1600 if quick else None),
        # Texts of other domains, whose labels are never read: a shallow student gains most from more texts.
        unlabeled=() if quick else ("builtin:amazon", "builtin:tweets", "builtin:nyt"),
        fit=FitSettings(
            max_mb=MAX_MB,
            effort=settings.effort or ("quick" if quick else "standard"),
            recipes=RECIPES,
            seed=settings.seed,
        ),
    )


def run_demo(out: Path, settings: DemoSettings = DemoSettings(), *, reporter: Reporter | None = None) -> FitReport:
    """Fit a student on the built-in texts; see `export.fitting.run.fit`.

    Raises:
        PotstillError: The error of any stage; finished stages are kept and not repeated next time.
    """
    return fit_profile(out, profile_of(settings), reporter=reporter)


def fit_profile(
    out: Path, profile: Profile, *, teacher: Path | str = BUILTIN_MINILM, reporter: Reporter | None = None
) -> FitReport:
    """Fit what a profile names, as `run_demo` does, with an encoder that is fine-tuned or a bundle."""
    with requires("the demo"):
        from export.fitting.run import fit
    require_writable(out)
    return fit(
        load_splits(profile.data),
        out=out,
        teacher=teacher,
        unlabeled=TextSources(profile.unlabeled, profile.data),
        settings=profile.fit,
        reporter=reporter,
    )
