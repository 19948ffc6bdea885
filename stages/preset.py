"""`python -m stages.preset [NAME [FORCE]]`: list presets, or show what one changes in params.yaml and install it."""

from rich.console import Console
from rich.text import Text

from kdcore.matrix import presets
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from stages import run

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def _list(recipes: dict[str, object], teachers: dict[str, object]) -> None:
    """Print a table of all presets, and check them."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    summaries, problems = presets.summarise_all(recipes, teachers)
    console.print(presets.table(summaries), presets.FOOTER, sep="\n")
    if problems:
        raise UserError("\n".join(problems))


def main(name: str | None = None, force: str = "0") -> None:
    """Install the preset, over uncommitted changes too where FORCE is 1; without a name, list all presets."""
    known = [yamlfile.read(file) for file in ("data/recipes.yaml", "data/teachers.yaml")]
    if name is None:
        return _list(*known)
    if force not in ("0", "1"):
        raise UserError(f"FORCE: {force!r} must be 0 or 1; 1 replaces even what is not committed")
    presets.load(name, *known)
    console = Console(soft_wrap=True, highlight=False)
    if lines := presets.difference(name):
        console.print(Text("\n").join(Text(line, style=COLOURS.get(line[:1], "")) for line in lines))
        presets.install(name, force=force == "1")
    return console.print(f"params.yaml is presets/{name}.yaml; 'make repro' runs it")


if __name__ == "__main__":
    run(main)
