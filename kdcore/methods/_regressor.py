"""A regressor from a map of the student to the shape of one of the teacher: FitNet's, which WKD shares."""

from torch import Tensor, nn

from kdcore.methods._stages import same_size


class Regressor(nn.Sequential):
    """A convolution, batch norm and ReLU.

    The convolution halves or doubles the map where the sizes are so related, as published. Between other sizes the
    larger map is pooled to the smaller before a 1 x 1 convolution (docs/differences.md).

    Args:
        student: a map (B, Ch, H, W), for its shape.
        teacher: a map (B, Ch', H', W'), for its shape.
    """

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        channels = student.shape[1], teacher.shape[1]
        super().__init__(_resizing(channels, student, teacher), nn.BatchNorm2d(channels[1]), nn.ReLU())

    def regressed(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The student's map regressed, and the teacher's, pooled if need be: both of the same shape."""
        convolution = self[0]
        if isinstance(convolution, nn.Conv2d) and convolution.stride == (1, 1):
            student, teacher = same_size(student, teacher)
        return self(student), teacher


def _resizing(channels: tuple[int, int], student: Tensor, teacher: Tensor) -> nn.Module:
    size, wanted = student.shape[-2:], teacher.shape[-2:]
    if all(a == 2 * b for a, b in zip(size, wanted, strict=True)):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if all(2 * a == b for a, b in zip(size, wanted, strict=True)):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    return nn.Conv2d(*channels, 1)
