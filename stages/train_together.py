"""The stale cells of one pair and seed in one process: python -m stages.train_together PAIR SEED, then dvc repro."""

from kdcore import together
from kdcore.errors import UserError
from stages import run


def main(pair: str, seed: str) -> None:
    """Train them; 'dvc repro' then writes their results without training."""
    if not seed.isdecimal():
        raise UserError(f"seed {seed!r} must be a number")
    names = together.train(pair, int(seed))
    print(f"{len(names)} cells trained; 'dvc repro' writes their results" if names else "no cell is stale")


if __name__ == "__main__":
    run(main)
