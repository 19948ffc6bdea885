"""VID: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, arXiv:1904.05835.

Each stage adds mean((mean - teacher)^2 / variance + log variance) / 2, where the student predicts the mean, and
each channel has a variance. Maps (B, Ch, H, W) of every stage -> scalar, in nats.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import matched, same_size
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"initial_variance": "> 0", "variant": ["trained", "as_published"]}
NEEDS = ["stages"]
EPSILON = 1e-5
TINY = 1e-12


def variance(log_scale: Tensor, eps: float) -> Tensor:
    """The variance of each channel, (Ch,) -> (Ch,): the softplus of a free parameter, plus `eps`."""
    return F.softplus(log_scale) + eps


@at_least_float32
def loss(mean: Tensor, teacher: Tensor, log_scale: Tensor, *, eps: float = EPSILON) -> Tensor:
    """Negative log-likelihood (without its constant) of the teacher's map under a Gaussian; mean over all entries.

    Args:
        mean: (B, Ch, H, W), what the student predicts.
        teacher: (B, Ch, H', W'); the larger of the two is pooled to the smaller.
        log_scale: (Ch,), see `variance`.
        eps: the least variance.

    Returns:
        Scalar.
    """
    mean, teacher = same_size(mean, teacher)
    spread = variance(log_scale, eps)[:, None, None]
    return 0.5 * ((mean - teacher).square() / spread + spread.log()).mean()


class Adapter(nn.Module):
    """Per stage three 1 x 1 convolutions that predict the teacher's map, and its variances.

    Args:
        setting: the shapes.
        initial_variance: of every channel; `EPSILON` is the least.
        variant: "trained" learns the variances (the paper); "as_published" leaves them as they are, as mdistiller's
            optimiser does, which never sees them.
    """

    def __init__(self, setting: Setting, *, initial_variance: float, variant: str) -> None:
        super().__init__()
        pairs = list(zip(*matched(setting.student.stages, setting.teacher.stages), strict=True))
        self.regressors = nn.ModuleList(_regressor(student.shape[1], teacher.shape[1]) for student, teacher in pairs)
        spare = max(initial_variance - EPSILON, TINY)
        start = spare + math.log(-math.expm1(-spare))  # the inverse of softplus, for large values too
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full((teacher.shape[1],), start), requires_grad=variant == "trained")
            for _, teacher in pairs
        )

    def forward(self, step: Step) -> Tensor:
        """Sum over stages of `loss`; a student's map that is larger than the teacher's is pooled before it predicts."""
        losses = []
        stages = zip(*matched(step.student.stages, step.teacher.stages), strict=True)
        for maps, regressor, log_scale in zip(stages, self.regressors, self.log_scales, strict=True):
            student, teacher = same_size(*maps)
            losses.append(loss(regressor(student), teacher, log_scale))
        return torch.stack(losses).sum()


def _regressor(inputs: int, outputs: int) -> nn.Module:
    widths = (inputs, outputs, outputs, outputs)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
