"""The page that lists every key of params.yaml: its type, default and meaning, from the sections in kdcore/matrix."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from words import plain

from kdcore.matrix import params, protocols
from kdcore.matrix.robustness_section import SETS

Schema = dict[str, Any]
INTRODUCTION = """# params.yaml, key by key

Made from the typed sections in `kdcore/matrix`, which read the file: what stands here is what is checked. `<name>`
stands for a name of your own, `[]` for each item of a list. [What params.yaml may hold](../params.md) explains the
parts with choices, with examples; [studies](../studies.md) says how cells are varied, named and left out.
"""
TITLES = {
    "params": ("The whole file", "Params"),
    "data": ("`data`", None),
    "train": ("`train`", "Train"),
    "exceptions": ("`train.exceptions[]`", "SpecialCase"),
    "augmentation": ("`train.augmentation`", "Augmentation"),
    "randaugment": ("`train.augmentation.randaugment`", "RandAugment"),
    "label_noise": ("`train.label_noise`", "LabelNoise"),
    "teachers": ("`teachers.<name>`", "Teacher"),
    "networks": ("`networks.<name>`", "NamedNetwork"),
    "variants": ("`variants.<name>`", "Variant"),
    "exclude": ("`exclude[]`, `variants.<name>.only`", "Selector"),
    "targets": ("`targets.<name>`", "Target"),
    "tables": ("`tables`", "TableOptions"),
    "tune": ("`tune`", "Tune"),
}
"""Anchor -> the heading of a table, and the section whose keys it lists."""
MORE = {
    "data": "[data sets](../params.md#data-sets), [a data set of yours](../extending.md#a-data-set-of-yours)",
    "train": "[recipes of training](../params.md#recipes-of-training), [milestones](../params.md#milestones), "
    "[precision, threads and compiling](../params.md#precision-threads-and-compiling)",
    "exceptions": "[a pair](../extending.md#a-pair)",
    "augmentation": "[recipes of training](../params.md#recipes-of-training)",
    "label_noise": "[training images](../params.md#training-images)",
    "teachers": "[teachers](../params.md#teachers)",
    "networks": "[networks](../params.md#networks)",
    "variants": "[studies](../studies.md)",
    "exclude": "[studies](../studies.md)",
    "targets": "[transfer](../transfer.md)",
    "tables": "[results](../results.md)",
    "tune": "[tuning](../tuning.md)",
}
"""Anchor -> where the text about these keys is."""
MUST = "must be there"
DATA_SETS = ("Digits", "Cifar100", "TinyImagenet", "Stl10", "Cub200", "Imagenet", "Own")
ANCHORS = {section: anchor for anchor, (_, section) in TITLES.items() if section} | {"TrainSettings": "train"}
PROTOCOLS = ", ".join(f"`{name}`" for name in protocols.PROTOCOLS)
WRITTEN = {
    ("Params", "pairs"): ("pairs", "a list of `<teacher>-<student>`", MUST),
    ("Params", "methods"): ("methods", "a list of [logit methods](methods.md#logit-methods)", MUST),
    ("Params", "baselines"): ("baselines", "a list of `vanilla`, [feature methods](methods.md#feature-methods)", MUST),
    ("Params", "scales"): ("scales", "a list of `1`, `2`, `4`, `L2`, `L4`, `L1_4` ...", MUST),
    ("Params", "targets"): ("targets", "`<name>:` a [mapping](#targets)", "absent"),
    ("Params", "robustness"): ("robustness", f"a list of {', '.join(f'`{name}`' for name in SETS)}", MUST),
    ("Params", "methods_config"): ("methods_config", "`<method>:` a mapping", MUST),
    ("Variant", "recipes"): ("<method>", "a mapping", "none"),
    ("Target", "data"): ("...", "the keys of a [data set](#data)", "those of the known data set"),
    ("Target", "protocols"): ("protocol", f"{PROTOCOLS}, or a list of them", f"`{protocols.DEFAULT}`"),
    ("Target", "image_size"): ("image_size", "a whole number from 8 to 1024", "that of the training images"),
}  # fmt: skip
"""Section and field -> key, type and default, where the file is written in another form than it is kept in."""


def render() -> str:
    """Write the page in Markdown."""
    schema = params.Params.model_json_schema()
    parts = [INTRODUCTION]
    for anchor, (title, section) in TITLES.items():
        parts.append(f"## {title} {{ #{anchor} }}\n")
        parts += [f"More: {MORE[anchor]}.\n"] if anchor in MORE else []
        if section is None:
            parts += list(_of_data_sets(schema))
        else:
            part = schema if section == "Params" else schema["$defs"][section]
            parts += [_about(section), _table(section, part)]
    return "\n".join(parts)


def keys() -> set[str]:
    """List the last parts of all keys that params.yaml may hold."""
    schema = params.Params.model_json_schema()
    parts = {"Params": schema, **schema["$defs"]}
    return {
        WRITTEN.get((section, key), (key,))[0] for section, part in parts.items() for key in part.get("properties", {})
    } - {"<method>", "..."}


def _of_data_sets(schema: Schema) -> Iterator[str]:
    yield "`data.name` decides which keys there are. Those of all data sets:\n"
    shared = ("mean", "std", "validation")
    own = schema["$defs"]["Own"]
    yield _table("Own", own, only=shared)
    for section in DATA_SETS:
        part = schema["$defs"][section]
        name = part["properties"]["name"].get("const", "<name>")
        others = [key for key in part["properties"] if key not in shared]
        yield f"### `data.name: {name}` {{ #data-{name.strip('<>')} }}\n"
        yield _about(section)
        yield _table(section, part, only=others)


def _table(section: str, part: Schema, only: Any = None) -> str:
    lines = ["| key | allowed | default | meaning |", "|:--|:--|:--|:--|"]
    for key, value in part["properties"].items():
        if only is not None and key not in only:
            continue
        default = _default(value) if key not in part.get("required", ()) else MUST
        name, allowed, default = WRITTEN.get((section, key), (key, _allowed(value), default))
        cells = (f"`{name}`", allowed, default, _meaning(section, key))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(value: Schema) -> str:
    default = value.get("default")
    if default is None:
        return "absent"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _allowed(value: Schema) -> str:
    """Say in words what a schema allows; null is what "absent" says."""
    if "anyOf" in value or "oneOf" in value:
        options = [one for one in value.get("anyOf") or value["oneOf"] if one.get("type") != "null"]
        if all("$ref" in one for one in options) and len(options) == len(DATA_SETS):
            return "a [mapping](#data)"
        return ", or ".join(_allowed(one) for one in options)
    if "$ref" in value:
        return f"a [mapping](#{ANCHORS[value['$ref'].rpartition('/')[2]]})"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    return _of_type(value)


def _of_type(value: Schema) -> str:
    kind = value.get("type")
    if kind in ("integer", "number"):
        return _number(value, "whole number" if kind == "integer" else "number")
    if kind == "array":
        return f"a list of: {_allowed(value['items'])}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"`<name>:` {_allowed(inner)}" if isinstance(inner, dict) else "a mapping"
    return {"string": "text", "boolean": "`true`, `false`", None: "any"}[kind]


def _number(value: Schema, what: str) -> str:
    bounds = {
        "minimum": "at least {:g}",
        "exclusiveMinimum": "above {:g}",
        "maximum": "at most {:,}",
        "exclusiveMaximum": "below {:,}",
    }
    said = [text.format(value[bound]) for bound, text in bounds.items() if bound in value]
    return f"{what} {', '.join(said)}".strip()


def _about(section: str) -> str:
    return "".join(f"{plain(part)}\n\n" for part in (inspect.getdoc(_model(section)) or "").split("\n\n"))


def _meaning(section: str, key: str) -> str:
    """What stands below a field, in its class or the nearest one above it; of an exception, what it changes."""
    others = _model("TrainSettings").__mro__ if section == "SpecialCase" else ()
    for model in (*_model(section).__mro__, *others):
        if text := _texts(model.__module__).get((model.__name__, key)):
            return plain(text)
    raise ValueError(f"{section}.{key} of kdcore/matrix has no text below it that says what it means; write one")


@cache
def _model(name: str) -> Any:
    modules = ("params", "axes", "data_section", "train_section", "train_recipe", "train_images", "networks_section")
    others = ("selector", "tables_section", "transfer_section", "tune_section", "variants")
    for module in (*modules, *others):
        found = getattr(importlib.import_module(f"kdcore.matrix.{module}"), name, None)
        if found is not None:
            return found
    raise ValueError(f"no module of kdcore/matrix has a section {name}")


@cache
def _texts(module: str) -> dict[tuple[str, str], str]:
    """Read the text below every field of a module's classes."""
    if not module.startswith("kdcore."):
        return {}
    found = {}
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id
            if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[node.name, named] = str(text.value.value)
    return found
