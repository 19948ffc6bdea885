"""What a method refuses to go without, found by trying: networks for small images, and a batch of four."""

import re

import torch

import kdcore
from kdcore import networks
from kdcore.system.errors import UserError

CLASSES, IMAGES, SIZE = 10, 12, 16
LABELS = torch.arange(IMAGES) % CLASSES
SMALL = {"negatives": 4, "copies": 2}
"""Values that make a method's layers small enough for a test."""


class Try:
    """Two networks, and all that a loss may be given."""

    def __init__(self):
        torch.manual_seed(0)
        self.student, self.teacher = networks.create("resnet8", CLASSES), networks.create("resnet14", CLASSES).eval()
        self.views = torch.randn(2, 4, 3, SIZE, SIZE)
        self.target = torch.randint(CLASSES, (4,))

    def given(self):
        """All arguments of a loss, by what the page calls them."""
        return {
            "teacher": self.teacher,
            "student": self.student,
            "image_size": SIZE,
            "labels": LABELS,
            "batch_size": 4,
            "epochs": 4,
            "teacher_outputs": lambda: (self.teacher(images) for images in torch.randn(3, 4, 3, SIZE, SIZE)),
        }

    def make(self, method, arguments, levels=(1,), stand=False, recipe=None):
        """A loss with these arguments."""
        recipe = recipe or kdcore.recipe(method, levels=levels, stand=stand)
        recipe = {key: SMALL.get(key, value) for key, value in recipe.items()}
        return kdcore.DistillationLoss(method, recipe=recipe, levels=levels, stand=stand, **arguments)


def needs(method):
    """What a method needs: the arguments of a loss, "index", "views" or "objective.student"."""
    case, arguments, found = Try(), {}, set()
    objective, said = tried(case.make, method, arguments)
    while objective is None:
        wanted = {*re.findall(r"(\w+)=", said.rpartition("; give ")[2])}
        assert wanted - arguments.keys() == wanted != set(), said
        arguments |= {name: case.given()[name] for name in wanted}
        objective, said = tried(case.make, method, arguments)
    objective.set_epoch(1)
    student = objective.student or case.student
    found |= {"objective.student"} if student is not case.student else set()
    options = {}
    outs = [network(case.views[0]) for network in (student, case.teacher)]
    loss, said = tried(objective, *outs, case.target)
    if loss is None and "weak and strong views" in said:
        found.add("views")
        outs = [[network(view) for view in case.views] for network in (student, case.teacher)]
        loss, said = tried(objective, *outs, case.target)
    if loss is None and "give index=" in said:
        found.add("index")
        options = {"index": torch.arange(4)}
    assert torch.isfinite(objective(*outs, case.target, **options)), method
    return found | arguments.keys()


def tried(call, *arguments):
    """What a call returns, and None; or None, and what it refuses."""
    try:
        return call(*arguments), None
    except UserError as error:
        return None, str(error)
