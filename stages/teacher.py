"""Stage teacher: a published checkpoint, verified and measured, or a network trained here."""

import sys
from pathlib import Path

from kdcore import device, experiment, plan, teachers, yamlfile
from kdcore.data import store
from stages import run


def main(name: str) -> None:
    """Write teachers/<name>."""
    card_file = plan.card_file(name, "teacher")
    card = yamlfile.read(card_file)
    out = Path("teachers") / name
    if card["source"] == "train":
        return experiment.run(card_file, out)
    device.use_threads(card.get("threads"))
    dataset = store.load(experiment.DATA / card["data"])
    try:
        top1 = teachers.adopt(card, dataset, out, device.choose())
    except teachers.NoSourceError as error:
        if card.get("otherwise") != "train":
            raise
        print(f"{error.reasons}\nteacher {name}: is trained here instead (otherwise: train)", file=sys.stderr)
        experiment.run(card_file, out)
        return teachers.record_tried(out, error.tried)
    print(f"{name}: top-1 {top1:.2f}%, published {card['published_top1']:.2f}%", file=sys.stderr)
    return None


if __name__ == "__main__":
    run(main)
