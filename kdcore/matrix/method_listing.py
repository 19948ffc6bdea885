"""Make the table of distillation methods that `python -m stages.methods` prints."""

from typing import Any

from rich.table import Table

from kdcore import catalog
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.recipes import domains
from kdcore.system import yamlfile

DATASET = "cifar100"
FOOTER = (
    f"Parameters are shown as name = default on {DATASET} (allowed); a dash where data/recipes.yaml has none. "
    "kd_weight is the weight of the method's own loss, warmup the epochs over which it rises (0: none). Logit methods "
    'that are not "across a batch" also have complementary_weight for scales above 1. What stand and pairs change is '
    "in data/recipes.yaml."
)


def table(entries: list[catalog.MethodEntry]) -> Table:
    """Build a table with one row per method, logit methods first."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    shown = Table(show_lines=True)
    for heading in ("name", "kind", "paper", "parameters", "views"):
        shown.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in sorted(entries, key=lambda entry: (entry.kind == "feature", entry.name)):
        kind = f"{entry.kind},\nacross a batch" if entry.across == "batch" else entry.kind
        shown.add_row(entry.name, kind, entry.title, _parameters(entry, published), " and\n".join(entry.views))
    return shown


def _parameters(entry: catalog.MethodEntry, published: dict[str, Any]) -> str:
    """Describe each parameter on a line of its own, such as "alpha = 1.0 (>= 0)": its default, then what is allowed."""
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
