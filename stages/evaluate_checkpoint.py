"""A checkpoint measured: python -m stages.evaluate_checkpoint --network resnet8x4 --checkpoint f --dataset cifar100."""

import argparse
from pathlib import Path

from kdcore import console, device, evaluation, jsonfile, networks, params
from kdcore.data import sets, store
from kdcore.experiment import DATA
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.evaluate_checkpoint", description=__doc__)
    parser.add_argument("--network", required=True, choices=networks.names(), metavar="NAME", help="as it was trained")
    parser.add_argument("--checkpoint", required=True, help=".safetensors, or a published .pth")
    parser.add_argument("--dataset", required=True, help="a data set that 'dvc repro data' has fetched, or any with")
    parser.add_argument("--source", help="where it comes from, as data.source of params.yaml: download, or a path")
    parser.add_argument("--image-size", type=int, help="of a data set of your own")
    parser.add_argument("--json", type=Path, help="file that takes all figures, those of the classes too")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print accuracy, calibration, accuracy of every class, and cost."""
    options = _options(arguments)
    if options.source:
        size = {"image_size": options.image_size} if options.image_size else {}
        dataset = sets.fetch_once(params.data_section(name=options.dataset, source=options.source, **size))
    else:
        dataset = store.load(DATA / options.dataset)
    where = device.choose()
    metrics, of_classes = evaluation.evaluate_checkpoint(options.network, Path(options.checkpoint), dataset, where)
    console.print_checkpoint(f"{options.network} on {options.dataset}", metrics, of_classes)
    if options.json:
        jsonfile.write(options.json, {"network": options.network, **metrics, "top1_of_classes": of_classes.to_dict()})


if __name__ == "__main__":
    run(main)
