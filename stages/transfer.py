"""Stage transfer: probe the features of the teacher and all cells of one pair on another data set."""

from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.matrix.code import refuse_other_code
from kdcore.system import collector, workspace, yamlfile
from kdcore.system.files import file_sha256, whole, write_json
from stages import run


def main(name: str) -> None:
    """Write evaluations/transfer/<target>/<pair>."""
    card_file = card_path(name, "transfer")
    card = yamlfile.read(card_file)
    with collector.uncollected():  # takes seconds
        from kdcore.data import storage
        from kdcore.results import transfer
        from kdcore.training import device
        from kdcore.training.experiment import DATA

    refuse_other_code(card, card_file, {"transfer": transfer.LOADED})
    device.use_threads(card.get("threads"))
    dataset, target = (storage.load(DATA / card[which]) for which in ("data", "target"))
    weights = Path("pairs") / f"{card['pair']}.safetensors"
    identity = file_sha256(DATA / card["target"] / workspace.MANIFEST)
    measured = transfer.probe_pair(card, dataset, target, weights, device.choose(), identity=identity)
    with whole(Path("evaluations") / "transfer" / card["target"] / card["pair"]) as folder:
        write_json(folder / "metrics.json", measured)


if __name__ == "__main__":
    run(main)
