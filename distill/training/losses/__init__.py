"""What a student is trained to make small: single terms, one a file, and their weighted sum.

Knows nothing of files, epochs or optimisers: a batch goes in, a number with a gradient comes out.
"""

from distill.training.losses.objective import Objective, StepLoss, TrainingBatch, mixed_objective
from distill.training.losses.term import UNLABELLED

__all__ = ["UNLABELLED", "Objective", "StepLoss", "TrainingBatch", "mixed_objective"]
