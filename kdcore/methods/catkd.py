"""CAT-KD: Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023, arXiv:2304.12777.

The loss is the mean squared difference of the two networks' class activation maps, pooled to a few pixels. A class
activation map is the last map weighted by the classifier's row of the class; the student is trained and evaluated with
a classifier without bias, so that its logits are the averages of these maps. (B, C, h, w) -> scalar without unit.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import pooled_to
from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Network
from kdcore.networks.other_end import End, OtherEnd
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"resolution": "integer >= 1", "normalize": [True, False], "binarize": [False, True]}
NEEDS = ["final_map", "classifier"]


@at_least_float32
def loss(
    student_maps: Tensor, teacher_maps: Tensor, *, resolution: int, normalize: bool, binarize: bool = False
) -> Tensor:
    """Mean squared difference of class activation maps that are pooled adaptively and, if wanted, normalised.

    Args:
        student_maps: (B, C, h, w).
        teacher_maps: (B, C, h', w').
        resolution: height and width that both are pooled to.
        normalize: whether each pooled map is scaled to length 1; one of zeros stays so, and gets no gradient.
        binarize: whether the teacher's maps become 1 where they are above the mean of their absolute values, else 0.

    Returns:
        Scalar.
    """
    if binarize:
        teacher_maps = (teacher_maps > teacher_maps.abs().mean(dim=(2, 3), keepdim=True)).to(teacher_maps)
    size = resolution, resolution
    student, teacher = (pooled_to(maps, size).flatten(2) for maps in (student_maps, teacher_maps))
    if normalize:
        student, teacher = unit(student), unit(teacher)
    return F.mse_loss(student, teacher)


def activation_maps(final_map: Tensor, classifier: nn.Linear) -> Tensor:
    """Class activation maps: (B, D, h, w) -> (B, C, h, w), weighted by the classifier's rows, without its bias."""
    return F.conv2d(final_map, classifier.weight.to(final_map)[:, :, None, None])


def other_end(network: Network) -> OtherEnd:
    """Take the bias from a network's classifier."""
    classifier = network.classifier
    classifier.register_parameter("bias", None)
    return OtherEnd(network, End(), classifier, method="catkd", arguments={})


class Adapter(nn.Module):
    """Takes the bias from the student's classifier, and compares class activation maps.

    Args:
        setting: both classifiers.
        resolution: see `loss`.
        normalize: see `loss`.
        binarize: see `loss`.
    """

    def __init__(self, setting: Setting, *, resolution: int, normalize: bool, binarize: bool) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"resolution": resolution, "normalize": normalize, "binarize": binarize}
        self.classifiers = setting.classifiers

    def as_student(self, student: Network) -> OtherEnd:
        """The student with a classifier that has no bias."""
        return other_end(student)

    def forward(self, step: Step) -> Tensor:
        """`loss` of the class activation maps."""
        finals = step.student.final_map, step.teacher.final_map
        return loss(*(activation_maps(*of) for of in zip(finals, self.classifiers, strict=True)), **self.options)
