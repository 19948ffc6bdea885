"""The page that lists every method: its paper, its loss, its parameters, and what its paper sets them to."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from words import plain

from kdcore import catalog
from kdcore.catalog import MethodEntry
from kdcore.matrix import method_listing
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.recipes import domains
from kdcore.system import yamlfile

INTRODUCTION = """# Methods

Made from the files in `kdcore/methods` and from `data/recipes.yaml`; `python -m stages.methods` prints the same. The
loss of a cell is `ce_weight` times cross-entropy plus `kd_weight` times the method's own loss, which rises over the
first `warmup` epochs: [hyper-parameters](../params.md#hyper-parameters).
Of shapes, B are images, C classes, Ch channels of H x W, D features.

`vanilla` is the student trained alone. A sum such as `crd+kd` trains with both losses: [methods](../params.md#methods).
"""
KINDS = {
    "logit": ("Logit methods", "For `methods`: each takes every scale (SDD) and stand (LSKD)."),
    "feature": ("Feature methods", "For `baselines`: no scales, no stand."),
}
SHARED = ("complementary_weight", "consistent_weight")
"""The weights of regions, which are the same for all logit methods that have them."""
LAYERS = {"default": "plain row", "scales": "with regions", "stand": "with stand"}


def render() -> str:
    """Write the page in Markdown."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    parts = [INTRODUCTION]
    for kind, (title, about) in KINDS.items():
        entries = [entry for entry in catalog.methods().values() if entry.kind == kind]
        parts += [f"## {title}\n", f"{about}\n", _overview(entries)]
        parts += [part for entry in entries for part in _section(entry, published)]
    return "\n".join(parts)


def _overview(entries: list[MethodEntry]) -> str:
    lines = ["| method | paper |", "|:--|:--|"]
    lines += [f"| [`{entry.name}`](#{entry.name}) | {_linked(entry.title)} |" for entry in entries]
    return "\n".join(lines) + "\n"


def _section(entry: MethodEntry, published: dict[str, Any]) -> Iterator[str]:
    path = f"kdcore/methods/{entry.name}.py"
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    document = ast.get_docstring(tree) or ""
    title, _, formula = document.partition("\n\n")
    yield f"### `{entry.name}` {{ #{entry.name} }}\n"
    yield f"{_linked(' '.join(title.split()))}\n"
    yield "".join(f"{plain(part)}\n\n" for part in formula.split("\n\n"))
    if remarks := [*method_listing.remarks(entry)]:
        yield f"It {'; it '.join(map(_sentence, remarks))}.\n"
    yield _parameters(entry, published)
    yield f"The pure loss, `{entry.module}.loss({_arguments(tree)})`:\n"
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 4\n"
    yield f"::: {entry.module}.loss\n{options}"


def _arguments(tree: ast.Module) -> str:
    """The names of the arguments of a file's loss; keywords stand behind a star."""
    given = next(node.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "loss")
    keywords = ["*", *(one.arg for one in given.kwonlyargs)] if given.kwonlyargs else []
    return ", ".join([*(one.arg for one in given.args), *keywords])


def _sentence(remark: str) -> str:
    """Let a remark of the list follow "it"."""
    begins = {"its loss contains": "contains", "published": "is published", "trained": "is trained"}
    for old, new in begins.items():
        if remark.startswith(old):
            return new + remark.removeprefix(old)
    return remark


def _parameters(entry: MethodEntry, published: dict[str, Any]) -> str:
    recipe = published[method_listing.DATASET]["methods"].get(entry.name, {})
    shared = {key: value for key, value in published[method_listing.DATASET]["scales"].items() if key in SHARED}
    takes = {key: shared[key] for key in domains(entry.name) if key in shared}
    recipe = {**recipe, "scales": {**takes, **recipe.get("scales", {})}} if takes else recipe
    layers = [layer for layer in LAYERS if layer in recipe]
    lines = [f"| parameter | allowed | {' | '.join(LAYERS[layer] for layer in layers)} |"]
    lines.append("|:--|:--|" + ":--|" * len(layers))
    for key, domain in {**entry.parameters, **catalog.COMMON, **domains(entry.name)}.items():
        values = [recipe[layer].get(key, "") for layer in layers]
        if key in entry.parameters or any(value != "" for value in values):
            said = domain if isinstance(domain, str) else ", ".join(str(choice) for choice in domain)
            lines.append(f"| `{key}` | {said} | {' | '.join(map(_value, values))} |")
    sources = [f"{LAYERS[layer]}: {recipe[layer]['source']}" for layer in layers if "source" in recipe[layer]]
    lines += ["", f"As published for {method_listing.DATASET}. {'; '.join(sources)}."]
    if pairs := recipe.get("pairs"):
        where = "[`data/recipes.yaml`](../files/data/recipes.yaml.md)"
        lines[-1] += f" Pairs with values of their own, in {where}: {len(pairs)}."
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else ""


def _linked(text: str) -> str:
    """Make links of the numbers of papers."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<![/\w])(openreview\.net/\S+?)(?=[.;,]?(\s|$))", r"[\1](https://\1)", text)
