"""CRD: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699.

With h = exp(s . m / T) / z, the loss is -log(h / (h + K / N)) for a sample's own row m of the memory, plus -log((K
/ N) / (h + K / N)) for each of K rows of other classes, in nats; it is taken both ways, student against the
teacher's memory and teacher against the student's. Embeddings (B, E) -> scalar.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
TARGET = "dominant"
PARAMETERS = {
    "temperature": "> 0",
    "momentum": "[0, 1)",
    "negatives": "integer >= 1",
    "embedding": "integer >= 1",
}
EPSILON = 1e-7


class Scores(NamedTuple):
    """The noise-contrastive loss of a network, and the parts that it was made of."""

    loss: Tensor
    """Scalar, in nats."""
    likeness: Tensor
    """(B, K + 1), exp(dot product / temperature) / z, the positive first."""
    z: Tensor
    """The normalising constant, scalar."""


@at_least_float32
def contrast(
    embedded: Tensor,
    memory: Tensor,
    drawn: Tensor,
    z: Tensor,
    *,
    temperature: float,
    eps: float = EPSILON,
) -> Scores:
    """Noise-contrastive loss of telling a sample's own row of a memory from others.

    Args:
        embedded: (B, E), unit rows.
        memory: (N, E), of the other network, its rows of unit length once their image was seen; it gets no gradient.
        drawn: (B, K + 1) rows of the memory, the sample's own first.
        z: the normalising constant, scalar; NaN until the first batch sets it, to N times the mean exponential.
        temperature: of the dot products.
        eps: added to denominators.

    Returns:
        The loss (sum over the K negatives, mean over B) and what it was made of.
    """
    count, negatives = len(memory), drawn.shape[1] - 1
    if count <= 8 * drawn.shape[1]:  # one large product is then cheaper than gathering B * K rows
        products = (embedded @ memory.clone().T).gather(1, drawn)  # the memory changes before the backward pass
    else:
        products = (memory[drawn] @ embedded[:, :, None]).squeeze(2)
    exponentials = torch.exp(products / temperature)
    z = torch.where(z.isnan(), exponentials.detach().mean() * count, z)
    likeness = exponentials / z
    noise = negatives / count
    own = torch.log(likeness[:, 0] / (likeness[:, 0] + noise + eps))
    others = torch.log(noise / (likeness[:, 1:] + noise + eps))
    return Scores(-(own.sum() + others.sum()) / len(embedded), likeness, z)


def both(
    student: Tensor,
    teacher: Tensor,
    memories: tuple[Tensor, Tensor],
    drawn: Tensor,
    z: tuple[Tensor, Tensor],
    *,
    temperature: float,
    eps: float = EPSILON,
) -> tuple[Scores, Scores]:
    """Score the student against the teacher's memory and the teacher against the student's; arguments as in `loss`."""
    return (
        contrast(student, memories[1], drawn, z[0], temperature=temperature, eps=eps),
        contrast(teacher, memories[0], drawn, z[1], temperature=temperature, eps=eps),
    )


def loss(
    student: Tensor,
    teacher: Tensor,
    memories: tuple[Tensor, Tensor],
    drawn: Tensor,
    z: tuple[Tensor, Tensor],
    *,
    temperature: float,
    eps: float = EPSILON,
) -> Tensor:
    """Add the losses of `both`.

    Args:
        student: (B, E), unit rows.
        teacher: (B, E), unit rows.
        memories: the embeddings (N, E) of all training images, by the student and by the teacher.
        drawn: (B, K + 1) rows of the memories, the sample's own first.
        z: normalising constants of the student's and of the teacher's scores, see `contrast`.
        temperature: of the dot products.
        eps: added to denominators.

    Returns:
        Scalar.
    """
    of_student, of_teacher = both(student, teacher, memories, drawn, z, temperature=temperature, eps=eps)
    return of_student.loss + of_teacher.loss


def remembered(rows: Tensor, embedded: Tensor, momentum: float) -> Tensor:
    """Update the memory's rows (B, E) after their batch was scored: moving averages, scaled to unit length."""
    return unit(momentum * rows + (1 - momentum) * embedded)


class Others:
    """Draws training images of other classes, on the device.

    Args:
        labels: (N,), of all training images.
    """

    def __init__(self, labels: Tensor) -> None:
        self.by_class = labels.argsort(stable=True)
        self.sizes = labels.bincount()
        self.starts = self.sizes.cumsum(0) - self.sizes

    def draw(self, target: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Per class of `target` (B,), `count` images of any other class, with replacement: (B, count)."""
        start, size = self.starts[target, None], self.sizes[target, None]
        chance = torch.rand(len(target), count, generator=generator, device=target.device)
        place = (chance * (len(self.by_class) - size)).long()
        return self.by_class[place + size * (place >= start)]


class Adapter(nn.Module):
    """Linear embeddings of both networks' pooled features and the two memories of all training images.

    Args:
        setting: the shapes, and the classes of the training images: negatives are of other classes ("exact").
        temperature: of the dot products.
        momentum: share of a memory's row that is kept when its image is seen again.
        negatives: K, drawn with replacement per image and step.
        embedding: E.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    z_student: Tensor
    z_teacher: Tensor

    def __init__(
        self, setting: Setting, *, temperature: float, momentum: float, negatives: int, embedding: int
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.negatives = temperature, momentum, negatives
        self.student = nn.Linear(setting.student.pooled.shape[1], embedding)
        self.teacher = nn.Linear(setting.teacher.pooled.shape[1], embedding)
        self.others = Others(setting.labels)
        bound = 1 / math.sqrt(embedding / 3)
        for role in ("student", "teacher"):
            memory = torch.empty(len(setting.labels), embedding).uniform_(-bound, bound)
            self.register_buffer(f"memory_{role}", memory)
            self.register_buffer(f"z_{role}", torch.tensor(math.nan))

    def prepare(self, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Draw K images of other classes for each of `target` (B,): (B, K)."""
        return self.others.draw(target, self.negatives, generator)

    def forward(self, step: Step) -> Tensor:
        """Compute the `loss` of this batch, then update the rows of its images in both memories."""
        drawn = torch.cat([step.index[:, None], step.prepared], dim=1)
        student = unit(self.student(step.student.pooled).float())
        teacher = unit(self.teacher(step.teacher.pooled).float())
        memories, z = (self.memory_student, self.memory_teacher), (self.z_student, self.z_teacher)
        of_student, of_teacher = both(student, teacher, memories, drawn, z, temperature=self.temperature)
        self.z_student.copy_(of_student.z)
        self.z_teacher.copy_(of_teacher.z)
        with torch.no_grad():
            for memory, embedded in zip(memories, (student, teacher), strict=True):
                memory[step.index] = remembered(memory[step.index], embedded, self.momentum)
        return of_student.loss + of_teacher.loss
