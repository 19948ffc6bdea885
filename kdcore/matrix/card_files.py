"""Where the cards lie. It imports next to nothing, for stages that read a card have no use for what makes cards."""

from pathlib import Path

from kdcore.system.errors import UserError, shown, suggest

CARDS = Path("cards")


def card_path(name: str, kind: str = "") -> Path:
    """Return the path of the card of a stage, or of a cell, a teacher or a pair that a command line names.

    Args:
        name: must be the name of an existing card, so that it cannot lead to another folder.
        kind: folder of the cards: "train", "baseline", "teacher", "evaluate" or "diagnose"; "" for the cards of whole
            stages.

    Raises:
        UserError: there is no such card.
    """
    known = sorted(path.stem for path in (CARDS / kind).glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"{CARDS / kind}/: holds no card of {shown(name)}.{suggest(name, known)} "
            "Run 'dvc repro plan', which writes those of params.yaml"
        )
    return CARDS / kind / f"{name}.yaml"
