"""The binary distribution (one class, all the others), in log space."""

import torch
import torch.nn.functional as F
from torch import Tensor


def log_target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities of (target class, any other class).

    Computed from logits without ever forming 1 - p, so that they and their gradients stay finite when the target
    takes all the probability.

    Args:
        logits: (..., C).
        target: class indices (...).

    Returns:
        (..., 2).
    """
    index = target.unsqueeze(-1)
    of_target = logits.gather(-1, index)
    is_target = F.one_hot(target, logits.shape[-1]).bool()
    of_rest = logits.masked_fill(is_target, -float("inf")).logsumexp(dim=-1, keepdim=True)
    return F.log_softmax(torch.cat([of_target, of_rest], dim=-1), dim=-1)
