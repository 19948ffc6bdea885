"""What an exported file says of itself: how its images are prepared, what its outputs mean, and what made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from kdcore.system import validated
from kdcore.system.errors import UserError
from kdcore.system.validated import Stored

if TYPE_CHECKING:
    from kdcore.data.dataset import Dataset

FORMAT = 1
"""The version of what is said."""
CONTEXT = 8 / 7
"""The shorter side of a resized image divided by the side of its middle, where images are decoded as they are seen
(`kdcore.data.stream`)."""
REMEDY = "export the cell again"


class Preparation(Stored):
    """How an image becomes what the network sees: resized bilinearly in RGB of 8 bits, then its middle is cut out."""

    resize: Literal["both sides", "shorter side"]
    """Whether both sides become `side`, whatever the image's form, or the shorter one, which keeps the form."""
    side: int
    """In pixels."""
    crop: int
    """Height and width, in pixels, of the middle that the network sees."""

    @property
    def text(self) -> str:
        """Say it in words."""
        form = f"{self.side} x {self.side} pixels" if self.resize == "both sides" else f"{self.side} pixels"
        what = "resized" if self.resize == "both sides" else "its shorter side resized"
        middle = f"; then the middle of {self.crop} x {self.crop} pixels"
        return f"{what} to {form} (bilinear){middle if self.crop != self.side else ''}"


class _About(Stored):
    """The keys that prediction reads."""

    format: int
    cell: str
    network: str
    classes: list[str]
    mean: list[float]
    std: list[float]
    image_size: int
    stem: str
    networks: dict[str, Any]
    preparation: Preparation


@dataclass(frozen=True)
class About:
    """What an exported file says of itself."""

    content: dict[str, Any]
    """As the file holds it: `format`, `cell`, `network`, `classes` in the order of the logits, `mean` and `std` of the
    channels for pixels from 0 to 1, `image_size`, `preparation`, `stem` and `networks`, from which
    `kdcore.networks.create` makes the network, and `provenance`.
    """

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return list(self.content["classes"])

    @property
    def preparation(self) -> Preparation:
        """How images are prepared."""
        return Preparation.model_validate(self.content["preparation"])

    @property
    def text(self) -> str:
        """The text that a file holds: JSON."""
        return json.dumps(self.content, sort_keys=True)

    @classmethod
    def parse(cls, text: str | None, file: Path) -> "About":
        """Read the text of a file.

        Args:
            text: JSON; None or empty where the file has none.
            file: for messages.

        Raises:
            UserError: the text is missing or damaged, or of another format.
        """
        if not text:
            raise UserError(
                f"{file}: does not say what it is; name a file that 'python -m stages.export' wrote, or a cell"
            )
        try:
            content = json.loads(text)
            if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
                raise UserError(f"{file}: is of format {content['format']}, and {FORMAT} is read here; {REMEDY}")
            _About.model_validate(content)
        except ValidationError as error:
            raise validated.damaged(file, validated.problem(error), REMEDY) from error
        except (ValueError, RecursionError) as error:
            raise validated.damaged(file, error, REMEDY) from error
        return cls(content)


def preparation(dataset: "Dataset") -> Preparation:
    """Say how the test images of a data set are prepared, for images that come later."""
    from kdcore.data.dataset import Encoded  # it imports pyarrow, for which readers of exported files need not wait

    size = dataset.image_size
    if isinstance(dataset.test, Encoded):
        return Preparation(resize="shorter side", side=round(CONTEXT * size), crop=size)
    return Preparation(resize="both sides", side=int(dataset.test.images.shape[1]), crop=size)
