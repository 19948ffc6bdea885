"""Make the tables of distillation methods that `python -m stages.methods` prints."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from kdcore import catalog
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.recipes import WEIGHTS, domains
from kdcore.system import yamlfile

DATASET = "cifar100"
TITLES = {
    "logit": "Logit methods, for section methods of params.yaml: each takes every scale and stand",
    "feature": "Feature methods, for section baselines of params.yaml: no scales, no stand",
}
CROSS_ENTROPY = {
    "beside": "",
    "inside": "its loss contains cross-entropy",
    "none": "published without cross-entropy",
}
FOOTER = (
    f"Parameters are shown as name = default on {DATASET} (allowed); a dash where data/recipes.yaml has none. "
    "Cross-entropy with weight ce_weight is added to the loss, unless the method says otherwise; it is then 0 as "
    "published. kd_weight is the weight of the method's own loss, warmup the epochs over which it rises (0: none). "
    f"Every method also has schedule ({' | '.join(catalog.COMMON['schedule'])}) and decay_from "
    f"({catalog.COMMON['decay_from']}), shown where they are published. Logit methods that do not "
    '"relate the images of a batch" also have complementary_weight and consistent_weight for scales above 1. What '
    "stand and pairs change is in data/recipes.yaml. What a method needs, both networks of a pair must have, or the "
    "one in parentheses; all of the catalog do."
)


def tables(entries: list[catalog.MethodEntry]) -> list[Table]:
    """Build a table per kind, logit methods first, with one row per method."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    found = []
    for kind in catalog.KINDS:
        of_kind = sorted((entry for entry in entries if entry.kind == kind), key=lambda entry: entry.name)
        shown = Table(title=TITLES[kind], title_justify="left", show_lines=True)
        for heading in ("name", "paper, and what is special", "parameters"):
            shown.add_column(heading, overflow="fold", no_wrap=heading == "name")
        for entry in of_kind:
            about = [entry.title, *(f"- {remark}" for remark in remarks(entry))]
            shown.add_row(entry.name, "\n".join(about), _parameters(entry, published))
        found += [shown] if of_kind else []
    return found


def remarks(entry: catalog.MethodEntry) -> Iterator[str]:
    """Say what a method asks for, or does, that most others do not."""
    if entry.across == "batch":
        yield "relates the images of a batch"
    if len(entry.views) > 1:
        yield f"trained on {' and '.join(entry.views)} views of each image"
    if CROSS_ENTROPY[entry.cross_entropy]:
        yield CROSS_ENTROPY[entry.cross_entropy]
    if entry.replaces_student:
        yield "gives the student another end"
    if entry.needs:
        yield f"needs {', '.join(map(_named, entry.needs))}"


def _parameters(entry: catalog.MethodEntry, published: dict[str, Any]) -> str:
    """Describe each parameter on a line of its own, such as "alpha = 1.0 (>= 0)": its default, then what is allowed."""
    methods = published[DATASET]["methods"]
    values = published[DATASET]["scales"] | methods.get(entry.name, {}).get("default", {})
    allowed = {
        key: domain
        for key, domain in domains(entry.name).items()
        if key not in WEIGHTS and (key in values or key not in catalog.UNSAID)
    }
    lines = []
    for key in sorted(allowed, key=lambda key: (key not in entry.parameters, key in catalog.COMMON)):
        domain = allowed[key]
        choices = domain if isinstance(domain, str) else " | ".join(str(choice) for choice in domain)
        if domain != ["sdd"]:
            lines.append(f"{key} = {values.get(key, '–')} ({choices})")
    return "\n".join(lines)


def _named(need: str) -> str:
    """Name what a method needs: "student.stages" -> "feature maps of stages (student)"."""
    role, _, part = need.rpartition(".")
    return catalog.PARTS[part] + (f" ({role})" if role else "")
