"""Stage data: fetch the data set and store it as arrays with a manifest."""

import importlib
from pathlib import Path

from kdcore import plan, yamlfile
from kdcore.data import store
from kdcore.folders import whole
from stages import run


def main() -> None:
    """Fetch what the card names."""
    card = yamlfile.read(plan.FOLDER / "data.yaml")
    del card["code"]
    name = card.pop("name")
    dataset = importlib.import_module(f"kdcore.data.{name}").fetch(**card)
    with whole(Path("data") / name) as folder:
        store.save(dataset, folder)


if __name__ == "__main__":
    run(main)
