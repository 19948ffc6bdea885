"""Stage pairs: each pair's teacher under the pair's own name, so that a cell depends on its own teacher alone."""

import shutil
from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import run_folder
from stages import run


def main() -> None:
    """Write pairs/<pair>.safetensors for every pair of the card."""
    pairs = yamlfile.read(card_path("pairs"))["pairs"]
    with whole(Path("pairs")) as folder:
        for pair in pairs:
            weights = Path("teachers") / pair.split("-")[0] / run_folder.WEIGHTS
            if not weights.is_file():
                raise UserError(f"{weights}: not found; run 'dvc repro'")
            shutil.copyfile(weights, folder / f"{pair}.safetensors")


if __name__ == "__main__":
    run(main)
