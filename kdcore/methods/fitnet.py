"""FitNet: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv:1412.6550.

The loss is mean((r(student) - teacher)^2) with a trained regressor r. Maps (B, Ch, H, W) of one stage -> scalar
without unit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._regressor import Regressor
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"hint_layer": "integer >= 1"}
NEEDS = ["stages"]


@at_least_float32
def loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the regressed student's map and the teacher's, both (B, Ch, H, W). Scalar."""
    return F.mse_loss(student, teacher)


class Adapter(nn.Module):
    """Regresses the student's hint map to the shape of the teacher's (see `Regressor`).

    Args:
        setting: the shapes.
        hint_layer: which stage is compared, 0 being the stem; the last one of a network that has fewer.
    """

    def __init__(self, setting: Setting, *, hint_layer: int) -> None:
        super().__init__()
        self.hint_layer = hint_layer
        self.regressor = Regressor(*self._hints(setting.student, setting.teacher))

    def forward(self, step: Step) -> Tensor:
        """Scalar."""
        return loss(*self.regressor.regressed(*self._hints(step.student, step.teacher)))

    def _hints(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        of_student, of_teacher = (output.stages[: self.hint_layer + 1] for output in (student, teacher))
        return of_student[-1], of_teacher[-1]
