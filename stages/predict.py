"""Name the five likeliest classes of image files: python -m stages.predict CELL|FILE IMAGE..."""

import argparse
from pathlib import Path

from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.predict", description=__doc__)
    parser.add_argument("student", metavar="CELL|FILE", help="a trained cell, or a file that stages.export wrote")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, of any size")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print the classes and their probabilities."""
    options = _options(arguments)
    from kdcore.export import exporting, prediction  # imported late, because it takes seconds

    classify, about = exporting.opened(options.student)
    images = prediction.read(options.images, about.preparation)
    print(f"{about.content['cell']}: each image is {about.preparation.text}")
    for file, classes in zip(options.images, prediction.best(classify, about, images), strict=True):
        print(f"{file}: " + ", ".join(f"{name} {100 * chance:.2f} %" for name, chance in classes))


if __name__ == "__main__":
    run(main)
