"""A checkpoint measured: python -m stages.evaluate_checkpoint --network resnet8x4 --checkpoint f --dataset cifar100."""

import argparse
from pathlib import Path

from kdcore import checkpoints, networks
from kdcore.system.files import write_json
from kdcore.training import single
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.evaluate_checkpoint", description=__doc__)
    parser.add_argument("--network", required=True, choices=networks.names(), metavar="NAME", help="as it was trained")
    parser.add_argument("--checkpoint", required=True, help=".safetensors, or a published .pth")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--dataset", help="its name: as 'dvc repro data' fetched it, or from --source")
    chosen.add_argument("--params", help="a params file, whose section data says which, and from where")
    parser.add_argument("--source", help="as data.source of params.yaml: download, or a path")
    parser.add_argument("--image-size", type=int, help="of a data set of your own")
    parser.add_argument("--json", type=Path, help="file that takes all figures, those of the classes too")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print accuracy, calibration, accuracy of every class, and cost."""
    options = _options(arguments)
    single.check_writable(options.json)
    checkpoints.check_there(Path(options.checkpoint))
    dataset = single.dataset(options.dataset, options.params, source=options.source, image_size=options.image_size)
    from kdcore.results import console, evaluation
    from kdcore.training import device  # seconds to import, for which a wrong option need not wait

    where = device.choose()
    metrics, of_classes = evaluation.evaluate_checkpoint(options.network, Path(options.checkpoint), dataset, where)
    console.print_checkpoint(f"{options.network} on {dataset.name}", metrics, of_classes)
    if options.json:
        write_json(options.json, {"network": options.network, **metrics, "top1_of_classes": of_classes.to_dict()})


if __name__ == "__main__":
    run(main)
