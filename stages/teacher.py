"""Stage teacher: a published checkpoint, verified and measured, or a network trained here."""

import sys
from pathlib import Path

from kdcore import device, experiment, plan, teachers, yamlfile
from kdcore.data import store
from stages import run


def main(name: str) -> None:
    """Write teachers/<name>."""
    card_file = plan.FOLDER / "teacher" / f"{name}.yaml"
    card = yamlfile.read(card_file)
    out = Path("teachers") / name
    if card["source"] == "train":
        experiment.run(card_file, out)
    else:
        dataset = store.load(experiment.DATA / card["data"])
        top1 = teachers.adopt(card, dataset, out, device.choose())
        print(f"{name}: top-1 {top1:.2f}%, published {card['published_top1']:.2f}%", file=sys.stderr)


if __name__ == "__main__":
    run(main)
