"""Stage data: fetch the data set and store it with a manifest. With a name, stage target: the same for a target."""

from pathlib import Path

from kdcore.data import sources, storage
from kdcore.matrix.card_files import card_path
from kdcore.matrix.transfer_section import renamed
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from stages import run


def main(target: str | None = None) -> None:
    """Fetch what the card names."""
    section = yamlfile.read(card_path("data") if target is None else card_path(target, "target"))
    del section["code"]
    try:
        dataset = sources.fetch(section)
    except UserError as error:
        if target is None:
            raise
        raise UserError(renamed(str(error), target)) from error
    name = target or dataset.name
    with whole(Path("data") / name) as folder:
        storage.save(dataset, folder)
    counts = f"{len(dataset.train.labels)} training and {len(dataset.test.labels)} test images"
    print(f"{name}: {len(dataset.classes)} classes, {counts}")


if __name__ == "__main__":
    run(main)
