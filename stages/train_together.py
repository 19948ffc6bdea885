"""The stale cells of one pair and seed in one process: python -m stages.train_together PAIR SEED, then dvc repro."""

from kdcore.system.errors import UserError, shown
from kdcore.training import together
from stages import run

DIGITS = 10
"""Of the largest seed."""


def main(pair: str, seed: str) -> None:
    """Train them; 'dvc repro' then writes their results without training."""
    if not seed.isdecimal() or len(seed) > DIGITS:
        raise UserError(f"SEED {shown(seed)}: must be one of the seeds in params.yaml, a number")
    names = together.train(pair, int(seed))
    print(f"{len(names)} cells trained; 'dvc repro' writes their results" if names else "no cell is stale")


if __name__ == "__main__":
    run(main)
