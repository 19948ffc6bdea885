"""Stage robustness: measure the teacher and all cells of one pair on corrupted test images."""

from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.matrix.code import refuse_other_code
from kdcore.matrix.fingerprint import fingerprint
from kdcore.matrix.robustness_section import MEASURING
from kdcore.matrix.robustness_section import folder as folder_of
from kdcore.system import collector, yamlfile
from kdcore.system.files import whole, write_json
from stages import run


def main(name: str) -> None:
    """Write evaluations/robustness/<set>/<pair>; `name` is <pair>-<set>."""
    card_file = card_path(name, "robustness")
    card = yamlfile.read(card_file)
    refuse_other_code(card, card_file, {"robustness": fingerprint(MEASURING)})
    with collector.uncollected():  # takes seconds
        from kdcore.data import storage
        from kdcore.results.robustness import measure, stored
        from kdcore.training import device
        from kdcore.training.experiment import DATA

    device.use_threads(card.get("threads"))
    dataset = storage.load(DATA / card["data"])
    weights = Path("pairs") / f"{card['pair']}.safetensors"
    measured = measure.measure_pair(card, dataset, weights, device.choose())
    with whole(folder_of(card["set"], card["pair"])) as folder:
        write_json(folder / stored.FILE, measured)


if __name__ == "__main__":
    run(main)
