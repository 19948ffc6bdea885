"""A student that ends otherwise than its network was made: some methods change the last map, or the classifier.

SimKD puts a projector and the teacher's classifier at the end, CAT-KD a classifier without bias, NORM a linear
transform of the last map. Such a student is trained, evaluated, saved and counted with that end, and without the
classifier that it replaces.
"""

import json
from typing import Any

from torch import Tensor, nn

from kdcore.networks.contract import Network, Output


class End(nn.Module):
    """What a method does to the last map. This one leaves it as it is."""

    def forward(self, final_map: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the map (B, D', h', w') whose average is classified, and `Output.extra`, from the map (B, D, h, w)."""
        return final_map, None


class OtherEnd(Network):
    """A network whose last map goes through an end, and whose logits are a linear function of that map's average.

    Args:
        network: loses its own classifier.
        end: what is done to its last map.
        classifier: the linear head behind it, D' -> C.
        method: the method whose end it is.
        arguments: of the method's function `other_end`, which builds it again from a network and these.
    """

    def __init__(
        self, network: Network, end: End, classifier: nn.Linear, *, method: str, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        own = network.classifier
        self.dropout = nn.Dropout(0.0)
        for module in list(network.modules()):
            for name, part in module._modules.items():  # some networks have a property of the same name
                if part is own:
                    module._modules[name] = nn.Identity()
                    self.dropout = _dropout_in(module)
        self.network, self.end, self.head = network, end, classifier
        self.made_by = {"method": method, "arguments": arguments}

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.head

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Those of the network."""
        return self.network.norms

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output, in which `final_map`, `pooled` and `logits` are those behind the end."""
        output: Output = self.network(images)
        final_map, extra = self.end(output.final_map)
        pooled = final_map.mean(dim=(2, 3))
        return output._replace(logits=self.head(self.dropout(pooled)), pooled=pooled, final_map=final_map, extra=extra)

    def described(self) -> str:
        """What made the end, as a text that is saved beside the weights."""
        return json.dumps(self.made_by, sort_keys=True)


def _dropout_in(head: nn.Module) -> nn.Dropout:
    """The dropout of a head that is a sequence of modules; one that drops nothing where the head has none."""
    found = (
        [part for part in head.children() if isinstance(part, nn.Dropout)] if isinstance(head, nn.Sequential) else []
    )
    return nn.Dropout(found[0].p if found else 0.0)
