"""What the processes of a run do together before they train: they ask the teacher, each for a share of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from distill.classifier import Classifier
from distill.progress import Reporter
from distill.training.devices import Compute
from distill.training.processes import gathered, require_same_folder
from distill.training.soft_targets import SoftTargets, answer_share, soft_targets_dir, teacher_logits


def logits_together(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    accelerator: Accelerator,
    compute: Compute = "no",
    into: Path | None = None,
    reporter: Reporter,
) -> SoftTargets:
    """Return the teacher's logits of each text, in every process, each having asked for its share; see `teacher_logits`."""
    num_cached = ask_together(teacher, texts, accelerator=accelerator, compute=compute, reporter=reporter)
    soft = teacher_logits(teacher, texts, compute=compute, into=into, reporter=reporter)
    return soft if num_cached is None else replace(soft, num_cached=num_cached)


def ask_together(
    teacher: Classifier, texts: Sequence[str], *, accelerator: Accelerator, compute: Compute = "no", reporter: Reporter
) -> int | None:
    """Bring the teacher's answers into the cache, of which each process computes its share; wait until all are there.

    Args:
        teacher: One or an ensemble. One whose answers cannot be kept is asked by each process that needs them.
        texts: The same in all processes, as is the teacher.
        accelerator: The processes; where there is one nothing is done, as it will ask when it needs to.
        compute: Numbers the teacher computes in.
        reporter: Told of progress.

    Returns:
        How many of the texts were in the cache before; None where nothing was done.

    Raises:
        ClusterError: A process has ended, or the cache is not one and the same for all.
        TeacherError: The answers are not finite numbers of the right shape.
    """
    if accelerator.num_processes == 1:
        return None
    require_same_folder(soft_targets_dir(), accelerator)
    share, of = accelerator.process_index, accelerator.num_processes
    num_cached = answer_share(teacher, texts, share=share, of=of, compute=compute, reporter=reporter)
    return sum(gathered(num_cached, accelerator))
