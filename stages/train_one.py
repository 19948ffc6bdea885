"""One cell outside DVC, into scratch/cells, anew: python -m stages.train_one --pair a-b --method dkd --scale 4."""

import argparse

from kdcore.matrix.cell import BASE
from kdcore.system import yamlfile
from kdcore.training import experiment, single
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.train_one", description=__doc__)
    parser.add_argument("--pair", required=True, help="teacher-student")
    parser.add_argument("--method", required=True, help="as python -m stages.methods lists it, or a sum: crd+kd")
    parser.add_argument("--scale", help="SDD's M: 1 (default), 2, 4, L2, L1_4")
    parser.add_argument("--stand", action="store_true", help="standardise the logits")
    parser.add_argument("--variant", default=BASE, help="one of section variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="instead of the params file's; milestones are stretched with them")
    parser.add_argument("--teacher", help="its checkpoint (default: the pipeline's)")
    parser.add_argument("--weights-key", help="the teacher's state dict, where its file holds several that fit")
    parser.add_argument("--params", default="params.yaml", help="data set, training settings and overrides")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Train the cell and write its folder."""
    options = _options(arguments)
    axes = ("pair", "method", "scale", "stand", "variant", "seed")
    card = single.card(options.params, epochs=options.epochs, **{axis: getattr(options, axis) for axis in axes})
    weights = single.teacher_weights(card, options.teacher)
    weights = single.check_inputs(card, weights, options.params, weights_key=options.weights_key)
    card_file, out = single.FOLDER / f"{card['name']}.yaml", single.FOLDER / card["name"]
    yamlfile.write(card_file, card)
    experiment.run(card_file, out, teacher_weights=weights)
    print(out)


if __name__ == "__main__":
    run(main)
