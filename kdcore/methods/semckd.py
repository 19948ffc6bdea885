"""SemCKD: Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021, arXiv:2012.03236.

Every stage of the student is compared with every stage of the teacher, by the mean squared difference of projected
maps. A trained attention, from how alike a batch's images are in both stages, says how much each pair counts for an
image. Maps (B, Ch, H, W) of every stage -> scalar without unit.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import same_size
from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS = {"soft": "> 0"}
NEEDS = ["stages"]


@at_least_float32
def loss(
    student_values: Sequence[Sequence[Tensor]], teacher_values: Sequence[Sequence[Tensor]], attention: Tensor
) -> Tensor:
    """Sum over the teacher's stages of attended mean squared differences, averaged over images and student's stages.

    Args:
        student_values: maps (B, Ch_j, H_ij, W_ij), row i of the student's stage i, projected for the teacher's stage j.
        teacher_values: maps of the same shapes.
        attention: (B, S, T), how much each pair of stages counts.

    Returns:
        Scalar.
    """
    errors = torch.stack(
        [
            torch.stack([(own - other).square().mean(dim=(1, 2, 3)) for own, other in zip(*row, strict=True)], dim=1)
            for row in zip(student_values, teacher_values, strict=True)
        ],
        dim=1,
    )
    return (attention * errors).sum(dim=2).mean()


@at_least_float32
def attention_of(queries: Tensor, keys: Tensor, *, soft: float) -> Tensor:
    """Softmax over the teacher's stages of cosines: queries (B, S, d), keys (B, T, d) -> (B, S, T).

    Args:
        queries: embeddings of the student's stages; one of zeros attends to all stages alike, and gets no gradient.
        keys: embeddings of the teacher's stages.
        soft: the cosines are divided by it.
    """
    return (unit(queries) @ unit(keys).mT / soft).softmax(dim=2)


@at_least_float32
def affinities(feature_map: Tensor, width: int) -> Tensor:
    """Dot products of every two images' maps: (B, Ch, H, W) -> (B, width), zeros where the batch has fewer images.

    A batch of more images, which a lone last one makes, loses the products with those beyond the width.
    """
    flat = feature_map.flatten(1)
    return F.pad(flat @ flat.mT, (0, width - len(flat)))


class Adapter(nn.Module):
    """Embeddings of all stages' affinities, which give the attention, and a projection for every pair of stages.

    Args:
        setting: the shapes, and the size of a batch, which is the width of the embeddings' first layer.
        soft: see `attention_of`.
    """

    def __init__(self, setting: Setting, *, soft: float) -> None:
        super().__init__()
        self.soft, self.batch_size = soft, setting.batch_size
        student, teacher = _widths(setting.student), _widths(setting.teacher)
        self.queries = nn.ModuleList(_embedding(setting.batch_size) for _ in student)
        self.keys = nn.ModuleList(_embedding(setting.batch_size) for _ in teacher)
        self.projections = nn.ModuleList(nn.ModuleList(_projection(own, other) for other in teacher) for own in student)

    def attention(self, student: Output, teacher: Output) -> Tensor:
        """(B, S, T), how much each pair of stages counts for an image."""
        queries = self._embedded(self.queries, student.stages[1:])
        keys = self._embedded(self.keys, teacher.stages[1:])
        return attention_of(queries, keys, soft=self.soft)

    def forward(self, step: Step) -> Tensor:
        """`loss` of all pairs of stages after the stem; of a pair's maps the larger is pooled to the smaller."""
        own, others = [], []
        for student_map, projections in zip(step.student.stages[1:], self.projections, strict=True):
            pairs = [same_size(student_map, teacher_map) for teacher_map in step.teacher.stages[1:]]
            projecting = zip(cast(nn.ModuleList, projections), pairs, strict=True)
            own.append([project(student) for project, (student, _) in projecting])
            others.append([teacher for _, teacher in pairs])
        return loss(own, others, self.attention(step.student, step.teacher))

    def _embedded(self, embeddings: Iterable[nn.Module], maps: Sequence[Tensor]) -> Tensor:
        each = [embed(affinities(of_one, self.batch_size)) for embed, of_one in zip(embeddings, maps, strict=True)]
        return torch.stack(each, dim=1)


def _widths(output: Output) -> list[int]:
    return [stage.shape[1] for stage in output.stages[1:]]


def _embedding(width: int) -> nn.Sequential:
    outputs = max(width // 4, 1)
    return nn.Sequential(nn.Linear(width, 2 * outputs), nn.ReLU(), nn.Linear(2 * outputs, outputs))


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    middle = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 1, bias=False),
    )
