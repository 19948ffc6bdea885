"""The model card of an exported student: what it is, what it was made from, how good it is, how it is loaded."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kdcore.export import forms, licences
from kdcore.export.about import About
from kdcore.export.student import Cell
from kdcore.matrix.cell import BASE
from kdcore.results.row import Row
from kdcore.results.rows import METRICS, read_evaluation
from kdcore.system import yamlfile
from kdcore.system.files import file_sha256
from kdcore.training import run_folder
from kdcore.training.made_from import TEACHERS

EVALUATIONS = Path("evaluations")
LOADING = {
    forms.SAFETENSORS: "its tensors, with the names of `kdcore.networks`, or of timm or torchvision",
    forms.TORCH: "a program of `torch.export`, which torch alone runs",
    forms.ONNX: "an ONNX model, which onnxruntime and others run",
}
"""What a form is, in words."""
MEASURED = (("test_top1", "test"), ("val_top1", "validation"))
"""Columns of a history, and the images that they were measured on."""


def text(cell: Cell, about: About, form: str, file: Path) -> str:
    """Write the model card.

    Args:
        cell: the cell whose student is exported.
        about: what the file says of itself.
        form: of the file.
        file: the exported one.

    Raises:
        UserError: an evaluation or the meta.json of the teacher is damaged.
    """
    parts = [
        f"# {about.content['network']}, {_label(cell)}, on {cell.card['data']}",
        f"A student of knowledge distillation, cell `{cell.name}`. `{file.name}` is {LOADING[form]}.",
        "\n".join(("## Accuracy", "", *_accuracy(cell))),
        "\n".join(("## Data", "", *_data(about))),
        "\n".join(("## Teacher and method", "", *_teaching(cell))),
        "\n".join(("## Training", "", *_block({"recipe": cell.meta["recipe"], "train": cell.meta["train"]}))),
        "\n".join(("## Licences", "", *_licences(cell))),
        "\n".join(("## How to load it", "", *_loading(form, file))),
    ]
    return "\n\n".join(parts) + "\n"


def _label(cell: Cell) -> str:
    """Name the cell's row as the tables do, with its variant by name."""
    variant = cell.card["variant"]
    return _row(cell).label + ("" if variant == BASE else f", variant {variant}")


def _row(cell: Cell) -> Row:
    card = cell.card
    return Row(card["method"], card.get("scale"), card.get("stand"), card["variant"])


def _accuracy(cell: Cell) -> list[str]:
    """Say how accurate the student, its row over all seeds, and its teacher are."""
    folder = EVALUATIONS / cell.card["pair"]
    measured = read_evaluation(folder) if (folder / METRICS).is_file() else {"cells": []}
    sha256 = file_sha256(cell.weights)
    own = next((one for one in measured["cells"] if one["weights_sha256"] == sha256), None)
    if own is None:
        last = run_folder.read_history(cell.folder / run_folder.HISTORY, cell.meta).iloc[-1]
        shown = ", ".join(f"{last[name]:.2f} % on {of} images" for name, of in MEASURED if name in last)
        return [f"Top-1 accuracy after the last epoch: {shown}. Stage evaluate has not measured these weights yet."]
    seeds = {one["seed"]: one["top1"] for one in measured["cells"] if _row(cell).holds(one)}
    values = list(seeds.values())
    over = f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
    listed = ", ".join(f"{seed}: {value:.2f}" for seed, value in sorted(seeds.items()))
    spread = "mean ± sample standard deviation" if len(values) > 1 else "one seed, so its noise is not known"
    return [
        "Accuracy in percent on test images, of the last epoch; no test image was used to choose it.",
        "",
        "| | top-1 |",
        "|:--|:--|",
        f"| this file, seed {cell.card['seed']} | {own['top1']:.2f} |",
        f"| its row over seeds ({listed}): {spread} | {over} |",
        f"| teacher {cell.card['pair'].partition('-')[0]} | {measured['teacher']['top1']:.2f} |",
        "",
        f"Top-5 {own['top5']:.2f}, expected calibration error {own['ece']:.2f}, agreement with the teacher "
        f"{own['agreement']:.2f} (percent); negative log-likelihood {own['nll']:.3f} nats.",
    ]


def _data(about: About) -> list[str]:
    content, classes, size = about.content, about.classes, about.content["image_size"]
    shown = ", ".join(classes[:10]) + (f", ... (`{forms.KEY}` in the file has all)" if len(classes) > 10 else "")
    return [
        f"- data set: {content['provenance']['data']}, {len(classes)} classes: {shown}",
        f"- an image file: {content['preparation']['text']}, in RGB",
        f"- pixels from 0 to 1 are normalised with mean {content['mean']} and deviation {content['std']}",
        f"- input: (B, 3, {size}, {size}) float32; output: logits (B, {len(classes)})",
    ]


def _teaching(cell: Cell) -> list[str]:
    card, name = cell.card, cell.card["pair"].partition("-")[0]
    if cell.teacher is None:
        return ["Trained alone, without a teacher."]
    axes = {"scale (M)": card.get("levels"), "stand": card.get("stand"), "variant": card["variant"]}
    shown = ", ".join(f"{key} {value}" for key, value in axes.items() if value is not None)
    named = name if name == card["teacher"] else f"{name} (a {card['teacher']})"
    return [f"- teacher: {named}", f"- method: {card['method']}; {shown}; seed {card['seed']}"]


def _block(content: dict[str, Any]) -> list[str]:
    return ["```yaml", yamlfile.text(content).rstrip(), "```"]


def _licences(cell: Cell) -> list[str]:
    name = cell.card["pair"].partition("-")[0]
    folder = TEACHERS / name
    meta = run_folder.read_teacher(folder) if (folder / run_folder.META).is_file() else None
    started = [
        f"- the student began with the published weights of {one.get('package')}, whose licence applies too"
        for one in cell.described.values()
        if one.get("pretrained")
    ]
    return [
        f"- images: {licences.of_data(cell.card['data'])}",
        *([f"- teacher {name}: {licences.of_teacher(meta)}"] if cell.teacher is not None else []),
        *started,
        "- the code that trained it (kdcore): MIT",
        "",
        "Nobody has stated a licence for these weights yet; the terms above may bind what you do with them.",
    ]


def _loading(form: str, file: Path) -> list[str]:
    code = {
        forms.SAFETENSORS: (
            "from pathlib import Path",
            "",
            "from kdcore.export import forms",
            "",
            f'classify, about = forms.read(Path("{file.name}"))  # images as above -> logits',
        ),
        forms.TORCH: (
            "import torch",
            "",
            f'classify = torch.export.load("{file.name}").module()  # images as above -> logits',
        ),
        forms.ONNX: (
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{file.name}")',
            f'(logits,) = session.run(None, {{"{forms.INPUT}": images}})  # images as above, an array',
        ),
    }
    end = "Or, with kdcore, `python -m stages.predict FILE IMAGE...`; docs/export.md has the whole way from an image."
    return ["```python", *code[form], "```", "", end]
