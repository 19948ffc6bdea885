"""`python -m kdcore.methods [NAME...]`: methods with their kind, paper, parameters and views; all without a name."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from kdcore import catalog
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.recipes import domains
from kdcore.system import yamlfile
from kdcore.system.errors import UserError

DATASET = "cifar100"
FOOTER = f"""Parameters are shown as name = default on {DATASET} (allowed); a dash where data/recipes.yaml has none.
kd_weight is the weight of the method's own loss, warmup the epochs over which it rises (0: none). Logit methods that
are not "across a batch" also have complementary_weight for scales above 1. What stand and pairs change is in
data/recipes.yaml."""


def parameters(entry: catalog.MethodEntry, published: dict[str, Any]) -> str:
    """ "alpha = 1.0 (>= 0)", one per line, each with its published default and its domain, the common ones last."""
    methods = published[DATASET]["methods"]
    values = published[DATASET]["scales"] | methods.get(entry.name, {}).get("default", {})
    allowed = {key: domain for key, domain in domains(entry.name).items() if key != "complementary_weight"}
    lines = []
    for key in sorted(allowed, key=lambda key: (key not in entry.parameters, key in catalog.COMMON)):
        domain = allowed[key]
        choices = domain if isinstance(domain, str) else " | ".join(str(choice) for choice in domain)
        if domain != ["sdd"]:
            lines.append(f"{key} = {values.get(key, '–')} ({choices})")
    return "\n".join(lines)


def table(entries: list[catalog.MethodEntry]) -> Table:
    """Logit methods first."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    shown = Table(show_lines=True)
    for heading in ("name", "kind", "paper", "parameters", "views"):
        shown.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in sorted(entries, key=lambda entry: (entry.kind == "feature", entry.name)):
        kind = f"{entry.kind},\nacross a batch" if entry.across == "batch" else entry.kind
        shown.add_row(entry.name, kind, entry.title, parameters(entry, published), " and\n".join(entry.views))
    return shown


def main(*names: str) -> None:
    """Print the methods of these names, or all."""
    entries = [entry for name in names for entry in catalog.terms(name)] or list(catalog.methods().values())
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(entries))
    console.print(FOOTER.replace("\n", " "), highlight=False)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
