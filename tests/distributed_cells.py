"""One cell per method, trained by the processes that torchrun started: python -m tests.distributed_cells FOLDER."""

import sys
from pathlib import Path

from kdcore import catalog, checkpoints
from kdcore.data.sources import digits
from kdcore.system.files import write_json
from kdcore.training import distributed, loop, torchrun
from kdcore.training.finite import NotFiniteError
from tests.train import CPU, as_card, card, changed, training_settings

PAIR = "wrn_16_1-resnet8"
SETTINGS = training_settings(1, 15, 0.002)
METHODS = ["vanilla", *(name for name, entry in catalog.methods().items() if entry.across == "samples"), "fitnet+kd"]


def train(method, world=distributed.ALONE, *, settings=SETTINGS, **changes):
    """A run of three steps over 40 images, whose batches of 15, 15 and 10 two processes cannot halve evenly."""
    cell = card(PAIR, method, as_card(settings)) | changes
    dataset = loop.seen_by(cell, digits.fetch(source="embedded", image_size=16, train_per_class=4))
    teacher = None if method == "vanilla" else loop.create("wrn_16_1", 10, 7, CPU)
    run = loop.prepare(cell, dataset, teacher, device=CPU, world=world)
    loop.train(run, teacher, dataset)
    return run


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with torchrun.joined() as world:
        for method in METHODS:
            run = train(method, world)
            write_json(folder / f"{method}-{world.rank}.json", run.history)
            checkpoints.save(run.student, folder / f"{method}-{world.rank}.safetensors")
        write_json(folder / f"validation-{world.rank}.json", train("kd", world, validation=0.25).history)
        for lr in (1e30, 1e9):
            try:
                train("kd", world, settings=changed(SETTINGS, lr=lr, batch_size=40 if lr < 1e10 else 15))
            except NotFiniteError as error:
                write_json(folder / f"{lr}-{world.rank}.json", {"said": str(error)})
