"""The training settings that take effect, as parts of cards."""

from kdcore import catalog
from kdcore.matrix.code import Card
from kdcore.matrix.train_section import TrainSettings, as_epochs


def settings_card(train: TrainSettings, method: str) -> Card:
    """Return only the settings that take effect. Without distillation, optimizer dot is the same as sgd."""
    unused = {"milestones", "lr_decay"} if train.schedule == "cosine" else set()
    settings = train.model_dump(exclude={*unused, "threads", "small_maps"}) | threads_card(train)
    if train.optimizer == "sgd" or method == catalog.VANILLA:
        settings["optimizer"] = "sgd"
        del settings["dot_delta"]
    if "milestones" in settings:
        settings["milestones"] = as_epochs(train.milestones, train.epochs)
    if train.grad_clip_norm is None:
        del settings["grad_clip_norm"]
    return settings


def threads_card(train: TrainSettings) -> Card:
    """Return the number of CPU threads as a part of a card; empty when `threads` is auto."""
    return {} if train.threads == "auto" else {"threads": train.threads}
