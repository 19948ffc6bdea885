"""CC: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, arXiv:1904.01802; the form that
RepDistiller compares with.

The loss is the mean over i of d_i . d_(i+1) with d = |student - teacher|. Embedded features (B, D) -> scalar
without unit.
"""

from torch import Tensor, nn

from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS = {"embedding": "integer >= 1"}


@at_least_float32
def loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation of the absolute differences of consecutive samples.

    Args:
        student: embedded features (B, D).
        teacher: embedded features (B, D).

    Returns:
        Scalar: mean over consecutive rows of the dot products of |student - teacher|; 0 for one row.
    """
    differences = (student - teacher).abs()
    return (differences[:-1] * differences[1:]).sum() / max(len(differences) - 1, 1)


class Adapter(nn.Module):
    """Linear embeddings of both networks' pooled features.

    Args:
        setting: the shapes.
        embedding: their dimension.
    """

    def __init__(self, setting: Setting, *, embedding: int) -> None:
        super().__init__()
        self.student = nn.Linear(setting.student.pooled.shape[1], embedding)
        self.teacher = nn.Linear(setting.teacher.pooled.shape[1], embedding)

    def forward(self, step: Step) -> Tensor:
        """`loss` of the embedded features."""
        return loss(self.student(step.student.pooled), self.teacher(step.teacher.pooled))
