"""The training settings that take effect, as parts of cards, and what cards say of validation."""

from kdcore import catalog
from kdcore.matrix import train_recipe
from kdcore.matrix.cell import Cell
from kdcore.matrix.code import Card
from kdcore.matrix.data_section import Source
from kdcore.matrix.train_recipe import ADAPTIVE, RecipeKeys
from kdcore.matrix.train_section import TrainSettings, as_epochs


def settings_card(train: TrainSettings, method: str) -> Card:
    """Return only the settings that take effect. Without distillation, optimizer dot is the same as sgd."""
    unused = {"milestones", "lr_decay"} if train.schedule == "cosine" else set()
    if train.optimizer in ADAPTIVE:
        unused |= {"momentum", "nesterov"}
    of_recipe = {*RecipeKeys.model_fields, "augmentation"}
    settings = train.model_dump(exclude={*unused, *of_recipe, "threads", "small_maps"}) | threads_card(train)
    if train.optimizer == "dot" and method == catalog.VANILLA:
        settings["optimizer"] = "sgd"
    if settings["optimizer"] != "dot":
        del settings["dot_delta"]
    if "milestones" in settings:
        settings["milestones"] = as_epochs(train.milestones, train.epochs)
    if train.grad_clip_norm is None:
        del settings["grad_clip_norm"]
    if train.per_class is None:
        del settings["per_class"]
    return settings | train_recipe.card(train)


def cell_settings(cell: Cell, train: TrainSettings) -> Card:
    """Return the training settings that take effect in a cell."""
    has_regions = cell.scale is not None and max(catalog.levels(cell.scale)) > 1
    small_maps = {"small_maps": train.small_maps} if train.small_maps and has_regions else {}
    return settings_card(train, cell.method) | small_maps


def validation_card(data: Source) -> Card:
    """Return the share of the training images that is kept for validation, as a part of a card; empty where none is."""
    return {} if data.validation is None else {"validation": data.validation}


def measured_on(card: Card) -> tuple[str, ...]:
    """Name the images that a network is measured on after an epoch, in the order of the columns of its history,
    `val_top1` and `test_top1`.

    Args:
        card: of a teacher that is trained here, or of a cell. `validation` asks for validation images. `test: false`,
            which no setting of params.yaml writes, makes a run that never looks at test images; it needs `validation`.
    """
    return (*(["val"] if "validation" in card else []), *(["test"] if card.get("test", True) else []))


def is_measured(epoch: int, *, epochs: int, every: int | None) -> bool:
    """Return whether a network is measured after an epoch, counted from 1: where `every` divides it, and after the last
    of `epochs`. None is every epoch.
    """
    return epoch == epochs or epoch % (every or 1) == 0


def threads_card(train: TrainSettings) -> Card:
    """Return the number of CPU threads as a part of a card; empty when `threads` is auto."""
    return {} if train.threads == "auto" else {"threads": train.threads}
