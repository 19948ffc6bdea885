"""Stage data: fetch the data set and store it with a manifest."""

from pathlib import Path

from kdcore.data import sources, storage
from kdcore.matrix.card_files import card_path
from kdcore.system import yamlfile
from kdcore.system.files import whole
from stages import run


def main() -> None:
    """Fetch what the card names."""
    section = yamlfile.read(card_path("data"))
    del section["code"]
    dataset = sources.fetch(section)
    with whole(Path("data") / dataset.name) as folder:
        storage.save(dataset, folder)
    counts = f"{len(dataset.train.labels)} training and {len(dataset.test.labels)} test images"
    print(f"{dataset.name}: {len(dataset.classes)} classes, {counts}")


if __name__ == "__main__":
    run(main)
