"""Stage diagnose: compare the students of one pair with their teacher, and measure what they cost."""

from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.matrix.code import refuse_other_code
from kdcore.matrix.fingerprint import fingerprint
from kdcore.system import collector, yamlfile
from kdcore.system.files import whole
from stages import run


def main(pair: str) -> None:
    """Write evaluations/diagnostics/<pair>."""
    card_file = card_path(pair, "diagnose")
    card = yamlfile.read(card_file)
    refuse_other_code(card, card_file, {"diagnostics": fingerprint("kdcore.results.diagnostics.pair")})
    with collector.uncollected():  # takes seconds
        from kdcore.data import storage
        from kdcore.results.diagnostics import measured_cost, stored
        from kdcore.results.diagnostics import pair as diagnostics
        from kdcore.training import device
        from kdcore.training.experiment import DATA

    device.use_threads(card.get("threads"))
    dataset, where = storage.load(DATA / card["data"]), device.choose()
    found = diagnostics.diagnose(card, dataset, Path("pairs") / f"{pair}.safetensors", where)
    cost = measured_cost.measure(card, dataset, Path("pairs") / f"{pair}.safetensors", where)
    with whole(stored.FOLDER / pair) as folder:
        stored.write(folder, found, cost)


if __name__ == "__main__":
    run(main)
