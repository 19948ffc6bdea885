"""A network with what published ones of others have, and those of the zoo have not."""

import torch
from torch import nn


class Masked(nn.Module):
    """With a mask of infinities, as of attention, and a weight that two parts share."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
