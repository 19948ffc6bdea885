"""MobileNet: Howard et al., 2017, arXiv:1704.04861, of width 1, for 32 x 32 images.

As in StreamLined ("MobileNetV1" for CIFAR-100): the network for ImageNet without its last two blocks, so that it ends
in 512 channels at 1/16 of the image's size. State-dict keys and initialisation are those of its checkpoints, and the
stages are where it takes them, with the stem's map before and without the pooled vector after them.
"""

from kdcore.networks import _stem
from kdcore.networks.contract import Network
from kdcore.networks.imagenet_mobilenetv1 import MobileNetV1

NETWORKS = {"mobilenetv1": {"blocks": 11}}


def build(num_classes: int, *, stem: str, blocks: int) -> Network:
    """A MobileNet for small images.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        blocks: depthwise separable convolutions behind the stem.
    """
    return _stem.fit(MobileNetV1(num_classes, blocks), stem, "model.0.0")
