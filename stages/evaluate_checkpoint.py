"""Measure a checkpoint: python -m stages.evaluate_checkpoint --network resnet8x4 --checkpoint f --dataset cifar100."""

import argparse
from pathlib import Path

from kdcore.training import device, single
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.evaluate_checkpoint", description=__doc__)
    parser.add_argument("--network", required=True, metavar="NAME", help="what was trained: of the zoo, or of --params")
    parser.add_argument("--checkpoint", required=True, type=Path, help=".safetensors, or a published .pth")
    parser.add_argument("--weights-key", help="the state dict that is meant, where the file holds several that fit")
    parser.add_argument("--mean-std", type=float, nargs=6, metavar="X", help="of the images that it was trained on")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--dataset", help="name of a data set that 'dvc repro data' fetched, or that --source holds")
    chosen.add_argument("--params", help="a params file; its sections data and networks count")
    parser.add_argument("--source", help="where the data set comes from: download, or a path")
    parser.add_argument("--image-size", type=int, help="height and width of images, for a data set of your own")
    parser.add_argument("--json", type=Path, help="write all figures to this file, also those of every class")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print accuracy, calibration, accuracy of every class, and cost."""
    options = _options(arguments)
    described = single.described(options.params, options.network)
    single.check_options(options.checkpoint, options.json, options.mean_std)
    dataset = single.dataset(options.dataset, options.params, source=options.source, image_size=options.image_size)
    from kdcore.results import console, evaluation  # imported late, because it takes seconds

    what = options.network, options.checkpoint, dataset, device.choose(), options.mean_std
    metrics, by_class = evaluation.evaluate_checkpoint(*what, weights_key=options.weights_key, described=described)
    console.print_checkpoint(f"{options.network} on {dataset.name}", metrics, by_class)
    single.write(options.json, {"network": options.network, **metrics, "top1_of_classes": by_class.to_dict()})


if __name__ == "__main__":
    run(main)
