"""One network trained, in one call."""

import torch

from kdcore import training

CPU = torch.device("cpu")


def train(student, teacher, goal, dataset, settings, *, seed=0, **options):
    """Its history."""
    run = training.Run(student, goal, settings, seed=seed, device=CPU, **options)
    training.train([run], teacher, dataset)
    return run.history


def carry_out(card, dataset, teacher, **options):
    """The student of a card, its objective, and its history."""
    run = training.prepare(card, dataset, teacher, device=CPU, **options)
    training.train([run], teacher, dataset)
    return run.student, run.goal, run.history
