"""FitNet: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv:1412.6550.

The loss is mean((r(student) - teacher)^2) with a trained regressor r. Maps (B, Ch, H, W) of one stage -> scalar
without unit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import same_size
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"hint_layer": "integer >= 1"}


@at_least_float32
def loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the regressed student's map and the teacher's, both (B, Ch, H, W). Scalar."""
    return F.mse_loss(student, teacher)


class Adapter(nn.Module):
    """Regresses the student's hint map to the shape of the teacher's: a convolution, batch norm and ReLU.

    The convolution halves or doubles the map where the sizes are so related, as published. Between other sizes the
    larger map is pooled to the smaller before a 1 x 1 convolution (docs/differences.md).

    Args:
        setting: the shapes.
        hint_layer: which stage is compared, 0 being the stem; the last one of a network that has fewer.
    """

    def __init__(self, setting: Setting, *, hint_layer: int) -> None:
        super().__init__()
        self.hint_layer = hint_layer
        student, teacher = self._hints(setting.student, setting.teacher)
        channels = student.shape[1], teacher.shape[1]
        self.regressor = nn.Sequential(_resizing(channels, student, teacher), nn.BatchNorm2d(channels[1]), nn.ReLU())

    def forward(self, step: Step) -> Tensor:
        """Scalar."""
        student, teacher = self._hints(step.student, step.teacher)
        if not isinstance(self.regressor[0], nn.ConvTranspose2d) and self.regressor[0].stride == (1, 1):
            student, teacher = same_size(student, teacher)
        return loss(self.regressor(student), teacher)

    def _hints(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        of_student, of_teacher = (output.stages[: self.hint_layer + 1] for output in (student, teacher))
        return of_student[-1], of_teacher[-1]


def _resizing(channels: tuple[int, int], student: Tensor, teacher: Tensor) -> nn.Module:
    size, wanted = student.shape[-2:], teacher.shape[-2:]
    if all(a == 2 * b for a, b in zip(size, wanted, strict=True)):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if all(2 * a == b for a, b in zip(size, wanted, strict=True)):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    return nn.Conv2d(*channels, 1)
