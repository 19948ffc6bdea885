"""MLKD with one view: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023, as StreamLined trains it.

The loss is KL + class correlation + batch correlation of the usual view, each summed over three temperatures. Logits
(..., B, C) -> (...), the first term in nats.
"""

from torch import Tensor

from kdcore.methods import mlkd

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"temperature": "> 0", "variant": ["as_published", "as_written"]}
FIXED_TEMPERATURES = (3.0, 2.0)


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float,
    kd_weight: float = 1.0,
    standardize: bool = False,
    variant: str = "as_published",
) -> Tensor:
    """Sum of the three terms of `kdcore.methods.mlkd.terms` that look at one view, per batch.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: not used; accepted so that all logit losses are called alike.
        temperature: the first of three, the others are fixed.
        kd_weight: weight of the sum.
        standardize: z-score the logits of KL; the correlations take them as they are, as LSKD does with two views.
        variant: "as_written" keeps the samples and the classes of which the teacher is unsure. "as_published" reduces
            before it masks, so that each mask acts as its mean.

    Returns:
        (...), a scalar for one batch.
    """
    found = mlkd.terms(
        *(student, student, teacher, teacher),
        temperature=temperature,
        standardize=standardize,
        variant=variant,
        fixed_temperatures=FIXED_TEMPERATURES,
    )
    return kd_weight * (found.kd_weak + found.cc + found.bc)
