"""L2-SP: a pull back to where the encoder began, against forgetting what the source taught it (Xuhong et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from distill.training.losses import Objective, StepLoss, TrainingBatch


class AnchoredObjective(Objective):
    """An objective plus weight * the squared distance of the encoder's trained weights from their first values.

    The head is left out: it is new, or belongs to another task.
    """

    def __init__(self, objective: Objective, encoder: nn.Module, *, weight: float) -> None:
        super().__init__(objective.parts)
        self._weight = weight
        trained = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        # In lists, which a module does not look into: the weights are the model's, and where they began need not be saved.
        self._now = list(trained.values())
        self._began = [parameter.detach().clone() for parameter in trained.values()]

    def distance(self) -> Tensor:
        """Return the squared distance, a scalar with a gradient."""
        pairs = zip(self._now, self._began, strict=True)
        squares = [(parameter - began).square().sum() for parameter, began in pairs]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        return total

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Return the objective's loss with the pull added; the terms name it `anchor`, before it is weighted."""
        loss = super().forward(model, batch)
        distance = self.distance()
        return StepLoss(loss.total + self._weight * distance, {**loss.terms, "anchor": float(distance.detach())})
