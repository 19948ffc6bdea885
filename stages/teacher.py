"""Stage teacher: a published checkpoint, verified and measured, or a network trained here."""

import sys
from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.system import collector, yamlfile
from stages import run


def main(name: str) -> None:
    """Write teachers/<name>."""
    card_file = card_path(name, "teacher")
    card = yamlfile.read(card_file)
    out = Path("teachers") / name
    with collector.uncollected():
        from kdcore.training import experiment
    if card["source"] == "train":
        return experiment.run(card_file, out)
    from kdcore.data import storage
    from kdcore.training import device
    from kdcore.training.adopt import NoSourceError, adopt_teacher, record_tried

    device.use_threads(card.get("threads"))
    dataset = storage.load(experiment.DATA / card["data"])
    try:
        top1 = adopt_teacher(card, dataset, out, device.choose())
    except NoSourceError as error:
        if card.get("otherwise") != "train":
            raise
        print(f"{error.reasons}\nteacher {name}: is trained here instead (otherwise: train)", file=sys.stderr)
        experiment.run(card_file, out)
        return record_tried(out, error.tried)
    published = f", published {card['published_top1']:.2f}%" if "published_top1" in card else ""
    print(f"{name}: top-1 {top1:.2f}%{published}", file=sys.stderr)
    return None


if __name__ == "__main__":
    run(main)
