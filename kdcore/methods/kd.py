"""KD: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.

The loss is T^2 * KL(softmax(teacher / T) || softmax(student / T)). Logits (..., C) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"temperature": "> 0"}
DECOUPLINGS = ["sdd", "fusion_as_published"]


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities, (..., C), (..., C) -> (...)."""
    # The same as F.kl_div, which takes an exponential more in its backward pass.
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of the softened predictions, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: not used; accepted so that all logit losses are called alike.
        temperature: T, dimensionless.

    Returns:
        (...).
    """
    student, teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * divergence(student, teacher)
