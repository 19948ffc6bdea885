"""MGD: Yang et al., Masked Generative Distillation, ECCV 2022, arXiv:2205.01529.

Part of the student's last map is set to zero, and two convolutions generate the teacher's map from what is left. The
loss is the squared difference, summed over all entries of an image and averaged over images. Maps (B, Ch, H, W) ->
scalar without unit.
"""

import torch
from torch import Tensor, nn

from kdcore.methods._stages import same_size
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"  # the masks of a batch are drawn in one go, which several processes could not share
PARAMETERS = {"mask_ratio": "[0, 1)", "mask": ["channel", "spatial"]}
NEEDS = ["stages"]


@at_least_float32
def loss(generated: Tensor, teacher_map: Tensor, *, alpha: float) -> Tensor:
    """Squared difference of two maps (B, Ch, H, W), summed, divided by B, and multiplied by `alpha`. Scalar."""
    return alpha / len(generated) * (generated - teacher_map).square().sum()


def kept(noise: Tensor, *, mask: str, mask_ratio: float) -> Tensor:
    """Which entries a mask keeps: from uniform numbers in [0, 1) of any shape, as many zeros and ones (float).

    Args:
        noise: the uniform numbers.
        mask: "channel" drops small numbers, "spatial" drops large ones, as the two published codes do.
        mask_ratio: the share that is dropped.
    """
    return ((noise >= mask_ratio) if mask == "channel" else (noise <= 1 - mask_ratio)).to(noise.dtype)


class Adapter(nn.Module):
    """Fits the student's map to the teacher's width if need be, masks it, and generates the teacher's map from it.

    Of two maps of unequal size, the larger one is pooled to the smaller before anything else.

    Args:
        setting: the shapes.
        mask_ratio: the share of the map that is dropped.
        mask: "channel" draws for each channel of each image, "spatial" for each pixel of each image.
    """

    def __init__(self, setting: Setting, *, mask_ratio: float, mask: str) -> None:
        super().__init__()
        self.mask_ratio, self.mask = mask_ratio, mask
        maps = same_size(setting.student.stages[-1], setting.teacher.stages[-1])
        student, teacher = (of_one.shape[1] for of_one in maps)
        self.masked = (teacher, 1, 1) if mask == "channel" else (1, *maps[1].shape[2:])
        """The shape of an image's mask."""
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def generated(self, student_map: Tensor, noise: Tensor) -> Tensor:
        """What is generated from the student's map (B, Ch, H, W), whose mask comes from uniform `noise`."""
        keep = kept(noise, mask=self.mask, mask_ratio=self.mask_ratio)
        aligned = self.align(student_map)
        return self.generation(aligned * keep.to(aligned.dtype))

    def prepare(self, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Draw the uniform numbers that the masks of a batch with classes `target` (B,) come from."""
        shape = (len(target), *self.masked)
        # In float32 whatever the precision of the maps, so that a training in bfloat16 has the same masks.
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)

    def forward(self, step: Step) -> Tensor:
        """`loss` of the last stages with alpha 1; the weight of the method takes its place."""
        student, teacher = same_size(step.student.stages[-1], step.teacher.stages[-1])
        return loss(self.generated(student, step.prepared), teacher, alpha=1.0)
