"""Export a trained student as one file: python -m stages.export CELL --to safetensors|torch|onnx [--out FILE]."""

import argparse
from pathlib import Path

from stages import run

FORMS = ("safetensors", "torch", "onnx")


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.export", description=__doc__)
    parser.add_argument("cell", metavar="CELL", help="as DVC names it behind '@': resnet20-resnet8-kd-1-False-base-0")
    parser.add_argument("--to", required=True, choices=FORMS, help="tensors, a torch.export program, or an ONNX model")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: scratch/exports/<cell>.<form's suffix>)")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Write the file and its model card, and print how the file was checked."""
    options = _options(arguments)
    from kdcore.export import exporting, forms, student  # imported late, because it takes seconds

    forms.check_installed(options.to)
    cell = student.find(options.cell)
    out = exporting.target(cell.name, options.to, options.out)
    print(f"{out}: {exporting.export(cell, options.to, out)}")
    print(f"{out}.md: its model card")


if __name__ == "__main__":
    run(main)
