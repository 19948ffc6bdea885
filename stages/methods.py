"""List the distillation methods by kind, with paper, needs and parameters: python -m stages.methods [NAME...]."""

from rich.console import Console

from kdcore import catalog
from kdcore.matrix import method_listing
from kdcore.system.errors import UserError
from stages import run


def main(*names: str) -> None:
    """Print the methods of these names, or all; a sum such as crd+kd names each of its methods."""
    try:
        entries = [entry for name in names for entry in catalog.terms(name)] or list(catalog.methods().values())
    except ValueError as error:
        raise UserError(str(error)) from error
    console = Console(width=None if Console().is_terminal else 100)
    for table in method_listing.tables(entries):
        console.print(table)
    console.print(method_listing.FOOTER, highlight=False)


if __name__ == "__main__":
    run(main)
