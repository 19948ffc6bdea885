"""`python -m kdcore.methods`: every method with its kind, paper, parameters and views."""

from typing import Any

from rich.console import Console
from rich.table import Table

from kdcore import catalog, yamlfile
from kdcore.fingerprint import ROOT
from kdcore.recipes import COMMON, domains

DEFAULTS = "cifar100"


def parameters(entry: catalog.MethodEntry, published: dict[str, Any]) -> str:
    """ "alpha 1.0 (>= 0), ...": each with its published default on CIFAR-100 and its domain, the common ones last."""
    default = published[DEFAULTS]["methods"].get(entry.name, {}).get("default", {})
    of_scales = published[DEFAULTS]["scales"]
    shown = []
    allowed = domains(entry.name)
    for key in sorted(allowed, key=lambda key: (key not in entry.parameters, key in COMMON)):
        domain = allowed[key]
        values = domain if isinstance(domain, str) else " | ".join(str(choice) for choice in domain)
        shown.append(f"{key} {default.get(key, of_scales.get(key, '–'))} ({values})")
    return ", ".join(shown)


def table() -> Table:
    """All methods, logit methods first."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    shown = Table("name", "kind", "paper", f"parameters: default on {DEFAULTS} (allowed)", "views", show_lines=True)
    for entry in sorted(catalog.methods().values(), key=lambda entry: (entry.kind == "feature", entry.name)):
        kind = f"{entry.kind}, across a batch" if entry.across == "batch" else entry.kind
        shown.add_row(entry.name, kind, entry.title, parameters(entry, published), " and ".join(entry.views))
    return shown


if __name__ == "__main__":
    Console(width=None if Console().is_terminal else 200).print(table())
