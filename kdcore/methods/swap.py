"""SWAP: Wen, Lai and Qian, Preparing Lessons: Improve Knowledge Distillation with Better Supervision, Neurocomputing
2021, arXiv:1911.07471; the form that RLD compares with, there called LA.

The loss is KD from logits in which the teacher's largest and its target's have changed places; no cross-entropy goes
with it. Logits (..., C) and target (...) -> (...), in nats.
"""

import torch
from torch import Tensor

from kdcore.methods import kd
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"temperature": "> 0"}
TARGET = "refused"
CROSS_ENTROPY = "none"


def swapped(teacher: Tensor, target: Tensor) -> Tensor:
    """Logits (..., C) with the largest and the target's exchanged; of several largest, the first is exchanged."""
    places = torch.stack([target, teacher.argmax(dim=-1)], dim=-1)
    return teacher.scatter(-1, places.flip(-1), teacher.gather(-1, places))


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """T^2 * KL(swapped teacher || student) of the softened predictions, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        temperature: T, dimensionless.

    Returns:
        (...).
    """
    return kd.loss(student, swapped(teacher, target), temperature=temperature)
