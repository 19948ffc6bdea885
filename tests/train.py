"""One network trained, in one call."""

import torch

from kdcore import catalog
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.train_section import TrainSettings
from kdcore.system import yamlfile
from kdcore.system.signals import Interruption
from kdcore.training import experiment, loop
from kdcore.training.inference import predict
from kdcore.training.state import restore

CPU = torch.device("cpu")
PUBLISHED = yamlfile.read(ROOT / "data/recipes.yaml")


def training_settings(epochs, batch_size, lr, **changes):
    """Settings of a training in float32, by a cosine where nothing else is said."""
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "schedule": "cosine", "precision": "float32"}
    return TrainSettings(**{**settings, **changes})


def changed(settings, **changes):
    """The same settings with others in some places."""
    return TrainSettings(**{**settings.model_dump(), **changes})


def as_card(settings):
    """Settings as a card holds them."""
    return settings.model_dump(exclude_none=True)


def top1_of(network, dataset):
    """The accuracy on the test images, in percent, as a training writes it into its history."""
    right = predict(network.eval(), dataset.test, dataset, CPU).argmax(dim=1) == torch.from_numpy(dataset.test.labels)
    return 100 * right.sum().item() / len(right)


def card(pair, method, settings):
    """Of a cell on the digits with the published recipe; logit methods with M=[1,2] and the z-score."""
    logit = catalog.kind(method) == "logit"
    cell = Cell(pair, method, 0, *((2, True) if logit else (None, None)))
    recipe = recipes.resolve(cell, dataset="digits", published=PUBLISHED, overrides={}, stand_recipe="paper")
    made = {"name": cell.name, "student": cell.student, "method": method, "seed": 0, "train": settings}
    made |= {"recipe": {key: value.value for key, value in recipe.items()}}
    return made | ({"levels": [1, 2], "stand": True} if logit else {})


def train(student, teacher, goal, dataset, settings, *, seed=0, state=None, **options):
    """The history of a training; with a state, one that is saved and continued."""
    run = loop.Run(student, goal, settings, seed=seed, device=CPU, **options)
    carry_on(run, teacher, dataset, state) if state else loop.train(run, teacher, dataset)
    return run.history


def carry_on(run, teacher, dataset, state, interruption=None):
    """Train a run from its saved state to its end, or until a signal; its state is saved after every epoch."""
    restore(run, state.load())
    for _ in loop.steps(run, teacher, dataset):
        experiment.save_epoch({run: state})
        experiment.leave_if_asked({run: state}, interruption or Interruption())


def carry_out(card, dataset, teacher, *, state=None, **options):
    """The student of a card, its objective, and its history; with a state, one that is saved and continued."""
    run = loop.prepare(card, dataset, teacher, device=CPU, **options)
    carry_on(run, teacher, dataset, state) if state else loop.train(run, teacher, dataset)
    return run.student, run.objective, run.history
