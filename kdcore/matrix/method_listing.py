"""List distillation methods as text: `python -m kdcore.methods`, and in the pipeline `python -m stages.methods`."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from kdcore import catalog
from kdcore.matrix import recipes
from kdcore.system.errors import UserError

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
WIDTH, INDENT = 100, "    "


def show(*names: str) -> None:
    """Print the methods of these names, or all; a sum such as crd+kd names each of its methods.

    Raises:
        UserError: a name is unknown.
    """
    try:
        entries = [entry for name in names for entry in catalog.terms(name)] or list(catalog.methods().values())
    except ValueError as error:
        raise UserError(str(error)) from error
    print("\n".join(lines(entries)))


def lines(entries: Iterable[catalog.MethodEntry]) -> Iterator[str]:
    """Yield the lines of the list, logit methods first; each begins with a name or is indented below one."""
    published, entries = recipes.published(), list(entries)
    for kind in catalog.KINDS:
        of_kind = sorted((entry for entry in entries if entry.kind == kind), key=lambda entry: entry.name)
        yield from (TITLES[kind], "") if of_kind else ()
        for entry in of_kind:
            yield entry.name
            about = [*_folded(entry.title), *(line for one in remarks(entry) for line in _folded(f"- {one}"))]
            yield from (f"{INDENT}{line}" for line in (*about, *_parameters(entry, published)))
            yield ""
    yield from textwrap.wrap(FOOTER, WIDTH)


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - len(INDENT), break_on_hyphens=False)


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


def _parameters(entry: catalog.MethodEntry, published: dict[str, Any]) -> Iterator[str]:
    """Describe each parameter on a line of its own, such as "alpha = 1.0 (>= 0)": its default, then what is allowed."""
    methods = published[DATASET]["methods"]
    values = published[DATASET]["scales"] | methods.get(entry.name, {}).get("default", {})
    allowed = {
        key: domain
        for key, domain in recipes.domains(entry.name).items()
        if key not in recipes.WEIGHTS and (key in values or key not in catalog.UNSAID)
    }
    for key in sorted(allowed, key=lambda key: (key not in entry.parameters, key in catalog.COMMON)):
        domain = allowed[key]
        choices = domain if isinstance(domain, str) else " | ".join(str(choice) for choice in domain)
        if domain != ["sdd"]:
            yield f"{key} = {values.get(key, '–')} ({choices})"


def _named(need: str) -> str:
    """Name what a method needs: "student.stages" -> "feature maps of stages (student)"."""
    role, _, part = need.rpartition(".")
    return catalog.PARTS[part] + (f" ({role})" if role else "")
