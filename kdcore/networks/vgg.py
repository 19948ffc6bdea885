"""VGG: Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556, with batch norms and one linear layer, for 32 x 32 images.

As in RepDistiller and mdistiller ("vgg8_bn"; 8 layers are their addition): five blocks, each of the first three halved
by a max pool, so that the last two stages and the map that is averaged are 4 x 4. For images of 64 pixels, and for no
others, published code halves the fourth too, and so does this: 4 x 4 at the end again, but 28 x 28 for images of 224.
SDD trains the same network on CUB-200, so that both stems are one. State-dict keys are those of their checkpoints.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks.contract import Network, Output

NETWORKS = {
    "vgg8": {"layers": (1, 1, 1, 1, 1)},
    "vgg11": {"layers": (1, 1, 2, 2, 2)},
    "vgg13": {"layers": (2, 2, 2, 2, 2)},
    "vgg16": {"layers": (2, 2, 3, 3, 3)},
    "vgg19": {"layers": (2, 2, 4, 4, 4)},
}
WIDTHS = (64, 128, 256, 512, 512)
HALVINGS = 3
HALVED_ONCE_MORE = 64
"""Height in pixels of the images for which there is one more."""


class VGG(Network):
    """Five blocks of 3 x 3 convolutions, average pool, linear classifier."""

    def __init__(self, num_classes: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        inputs = 3
        for i, (count, width) in enumerate(zip(layers, WIDTHS, strict=True)):
            self.add_module(f"block{i}", _block(count, inputs, width))
            inputs = width
        # Published as `classifier`, which is a property here: set past the attribute of that name.
        self._modules["classifier"] = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return cast(nn.Linear, self._modules["classifier"])

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the stages."""
        return tuple(cast(nn.BatchNorm2d, block[-1]) for block in self._blocks()[1:])

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output; the first block is the stem, and maps are taken before they are halved."""
        x = images
        halvings = HALVINGS + (images.shape[2] == HALVED_ONCE_MORE)
        maps, preacts = [], []
        for i, block in enumerate(self._blocks()):
            preact = block(F.max_pool2d(x, 2) if 1 <= i <= halvings else x)
            x = F.relu(preact)
            maps.append(x)
            preacts.append(preact)
        pooled = x.mean(dim=(2, 3))
        return Output(
            logits=self.classifier(pooled), stages=tuple(maps), preacts=tuple(preacts), pooled=pooled, final_map=x
        )

    def _blocks(self) -> list[nn.Sequential]:
        return [cast(nn.Sequential, self.get_submodule(f"block{i}")) for i in range(len(WIDTHS))]


def _block(count: int, inputs: int, outputs: int) -> nn.Sequential:
    """Convolutions, each with a batch norm, and ReLUs between them."""
    block = nn.Sequential()
    for i in range(count):
        if i > 0:
            block.append(nn.ReLU())
        block.append(nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1))
        block.append(nn.BatchNorm2d(outputs))
    return block


def build(num_classes: int, *, stem: str, layers: tuple[int, int, int, int, int]) -> Network:
    """A VGG for small images.

    Args:
        num_classes: C.
        stem: not looked at.
        layers: convolutions per block.
    """
    return VGG(num_classes, layers)
