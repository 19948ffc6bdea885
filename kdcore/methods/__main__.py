"""List the distillation methods by kind, with paper, needs and parameters: python -m kdcore.methods [NAME...]."""

from kdcore.matrix import method_listing
from kdcore.system.command import open_streams, run


def main(*names: str) -> None:
    """Print the methods of these names, or all; a sum such as crd+kd names each of its methods."""
    method_listing.show(*names)


if __name__ == "__main__":
    open_streams()
    run(main)
