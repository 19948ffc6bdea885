"""What every logit method's loss costs beside the student's own forward and backward pass.

In float32. Run: python -m benchmarks.losses [SCALE [BATCH [CLASSES]]], e.g. 4 64 100 for M=[1,2,4].
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.networks.contract import Output
from kdcore.objective import BatchContext, Objective, build
from kdcore.system import yamlfile
from kdcore.training import device, loop
from kdcore.training.random import device_generator

STUDENT, TEACHER = "resnet20", "resnet56"
SHARE = 0.1
"""Of the student's time that a loss may take."""


def seconds(runs: list[Callable[[], object]], where: torch.device, repetitions: int = 25) -> list[float]:
    """Median time of each call, the calls in turn, so that all see the machine in the same states."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repetitions):
        for found, run in zip(times, runs, strict=True):
            start = time.perf_counter()
            run()
            if where.type == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
    return [statistics.median(found[repetitions // 5 :]) for found in times]


def main(scale: str = "4", batch_size: str = "64", classes: str = "100") -> None:
    """Print milliseconds of loss and backward, of the student's own passes, and their ratio, and keep them."""
    where = device.choose()
    torch.manual_seed(0)
    student, teacher = (loop.create(name, int(classes), 0, where) for name in (STUDENT, TEACHER))
    target = torch.randint(int(classes), (int(batch_size),), device=where)
    images = torch.randn(int(batch_size), 3, 32, 32, device=where).to(memory_format=torch.channels_last)

    def own(views: int) -> None:
        student.zero_grad()
        outputs = [student(images) for _ in range(views)]
        torch.stack([F.cross_entropy(output.logits, target) for output in outputs]).sum().backward()

    with torch.no_grad():
        # Not in evaluation mode: without running statistics an untrained network's logits reach thousands.
        taught = [teacher.train()(images)] * 2
    context = BatchContext(torch.arange(len(target), device=where), 1, device_generator(0, 1, where))
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    milliseconds: dict[str, list[float]] = {}
    for name in catalog.logit_methods():
        recipe = recipes.resolve(
            Cell(f"{TEACHER}-{STUDENT}", name, 0, int(scale), True),
            dataset="cifar100",
            published=published,
            overrides={},
            stand_recipe="paper",
        )
        for stand in (False, True):
            objective, _ = build(
                name,
                {key: value.value for key, value in recipe.items()},
                student=student,
                teacher=teacher,
                labels=target,
                image_size=32,
                batch_size=int(batch_size),
                epochs=240,
                levels=levels(int(scale)),
                stand=stand,
                teacher_outputs=lambda: iter([teacher(images)]),
            )
            outputs = [leaves(student(images)) for _ in range(objective.views)]
            loss = partial(loss_and_backward, objective, outputs, taught, target, context)
            times = seconds([loss, partial(own, objective.views)], where)
            milliseconds[f"{name} + stand" if stand else name] = [round(1e3 * time, 3) for time in times]
    print(f"{STUDENT}, M={list(levels(int(scale)))}, batch {batch_size}, {classes} classes, float32, {where}\n")
    rows = [
        [label, f"{loss:.2f}", f"{whole:.1f}", f"{loss / whole:.1%}{'' if loss < SHARE * whole else ' (!)'}"]
        for label, (loss, whole) in milliseconds.items()
    ]
    common.show(["method", "loss, ms", "student, ms", "ratio"], rows)
    print(f"wanted: less than {SHARE:.0%}")
    content = {
        "student": STUDENT,
        "levels": levels(int(scale)),
        "batch": int(batch_size),
        "classes": int(classes),
        "milliseconds": {label: {"loss": loss, "student": whole} for label, (loss, whole) in milliseconds.items()},
    }
    common.keep("losses", STUDENT, f"M{scale}", where=where, content=content)


def loss_and_backward(
    objective: Objective, student: list[Output], teacher: list[Output], target: Tensor, context: BatchContext
) -> None:
    """From the networks' outputs to the gradient of what the classifier and the last map gave."""
    torch.stack(list(objective(student, teacher, target, context).losses.values())).sum().backward()


def leaves(output: Output) -> Output:
    """The outputs that a loss of logits reads, as leaves of a new graph."""

    def leaf(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    return output._replace(logits=leaf(output.logits), final_map=leaf(output.final_map))


if __name__ == "__main__":
    main(*sys.argv[1:])
