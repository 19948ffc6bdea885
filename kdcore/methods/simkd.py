"""SimKD: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, arXiv:2203.14001.

The loss is the mean squared difference of the student's projected last map and the teacher's last map. The student is
trained and evaluated with the projector and the teacher's classifier. Maps (B, D, h, w) -> scalar without unit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import pooled_to, same_size
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Network
from kdcore.networks.other_end import End, OtherEnd
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"factor": "integer >= 1"}
CROSS_ENTROPY = "none"
NEEDS = ["final_map", "classifier"]


@at_least_float32
def loss(projected_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of two maps (B, D, h, w). Scalar."""
    return F.mse_loss(projected_map, teacher_map)


class Projector(End):
    """Three convolutions (1 x 1, 3 x 3, 1 x 1), each with batch norm and ReLU, from the student's map to the teacher's.

    Args:
        inputs: channels of the student's last map.
        outputs: channels of the teacher's.
        factor: how many times fewer channels there are in the middle than in the teacher's map.
        size: height and width of the teacher's map; a larger map of the student is pooled to it first.
    """

    def __init__(self, inputs: int, outputs: int, *, factor: int, size: tuple[int, int]) -> None:
        super().__init__()
        middle = max(outputs // factor, 1)
        self.size = size
        self.layers = nn.Sequential(*_layer(inputs, middle, 1), *_layer(middle, middle, 3), *_layer(middle, outputs, 1))

    def forward(self, final_map: Tensor) -> tuple[Tensor, None]:
        """(B, inputs, h, w) -> (B, outputs, h', w')."""
        size = min(final_map.shape[-2], self.size[0]), min(final_map.shape[-1], self.size[1])
        return self.layers(pooled_to(final_map, size)), None


def other_end(network: Network, *, outputs: int, factor: int, size: list[int], bias: bool) -> OtherEnd:
    """Give a network a projector and an untrained classifier of the teacher's width.

    Args:
        network: the student.
        outputs: channels of the teacher's last map.
        factor: see `Projector`.
        size: height and width of the teacher's last map.
        bias: whether the teacher's classifier has one.
    """
    own = network.classifier
    end = Projector(own.in_features, outputs, factor=factor, size=(size[0], size[1]))
    arguments = {"outputs": outputs, "factor": factor, "size": list(size), "bias": bias}
    head = nn.Linear(outputs, own.out_features, bias=bias)
    return OtherEnd(network, end, head, method="simkd", arguments=arguments)


class Adapter(nn.Module):
    """Gives the student the projector and the teacher's frozen classifier.

    Args:
        setting: the shapes, and the teacher's classifier.
        factor: see `Projector`.
    """

    def __init__(self, setting: Setting, *, factor: int) -> None:
        super().__init__()
        _, self.outputs, *self.size = setting.teacher.final_map.shape
        self.factor = factor
        self.teacher = (setting.classifiers[1],)

    def as_student(self, student: Network) -> OtherEnd:
        """The student with the projector and the teacher's classifier, which is not trained."""
        bias = self.teacher[0].bias is not None
        made = other_end(student, outputs=self.outputs, factor=self.factor, size=self.size, bias=bias)
        made.classifier.load_state_dict(self.teacher[0].state_dict())
        made.classifier.requires_grad_(False)
        return made

    def forward(self, step: Step) -> Tensor:
        """`loss` of the last maps; the teacher's is pooled where it is larger."""
        return loss(*same_size(step.student.final_map, step.teacher.final_map))


def _layer(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
