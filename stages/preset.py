"""`python -m stages.preset [NAME [FORCE]]`: list presets, or show what one changes in params.yaml and install it."""

from rich.console import Console
from rich.text import Text

from kdcore import presets, yamlfile
from kdcore.errors import UserError
from stages import run

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def show() -> None:
    """List all presets, and check them."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    summaries, problems = presets.summarise_all(yamlfile.read("data/recipes.yaml"))
    console.print(presets.table(summaries), presets.FOOTER.replace("\n", " "), sep="\n")
    if problems:
        raise UserError("\n".join(problems))


def main(name: str | None = None, force: str = "0") -> None:
    """Without a name, list all. FORCE is 0 or 1."""
    if name is None:
        return show()
    if force not in ("0", "1"):
        raise UserError(
            f"FORCE: {force!r} must be 0 or 1; with 1, changes of params.yaml that are not committed are lost"
        )
    presets.load(name, yamlfile.read("data/recipes.yaml"))
    console = Console(soft_wrap=True, highlight=False)
    for line in presets.difference(name):
        console.print(Text(line, style=COLOURS.get(line[:1], "")))
    presets.install(name, force=force == "1")
    console.print(f"params.yaml is presets/{name}.yaml; 'make repro' runs it")
    return None


if __name__ == "__main__":
    run(main)
