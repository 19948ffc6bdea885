"""Stage pairs: each pair's teacher under the pair's own name, so that a cell depends on its own teacher alone."""

import shutil
from pathlib import Path

from kdcore import plan, runs, yamlfile
from kdcore.folders import whole
from stages import run


def main() -> None:
    """Write pairs/<pair>.safetensors for every pair of the card."""
    with whole(Path("pairs")) as folder:
        for pair in yamlfile.read(plan.FOLDER / "pairs.yaml")["pairs"]:
            teacher = pair.split("-")[0]
            shutil.copyfile(Path("teachers") / teacher / runs.WEIGHTS, folder / f"{pair}.safetensors")


if __name__ == "__main__":
    run(main)
