"""Stage data: fetch the data set and store it with a manifest."""

from pathlib import Path

from kdcore import plan, yamlfile
from kdcore.data import sets, store
from kdcore.folders import whole
from stages import run


def main() -> None:
    """Fetch what the card names."""
    section = yamlfile.read(plan.card_file("data"))
    del section["code"]
    dataset = sets.fetch(section)
    with whole(Path("data") / dataset.name) as folder:
        store.save(dataset, folder)


if __name__ == "__main__":
    run(main)
