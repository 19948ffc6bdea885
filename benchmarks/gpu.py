"""What a person with a GPU runs once: how fast a cell is there, what its steps launch, and what it learns.

In this order, within `SECONDS` in all:

- images per second of a bare loop (see `benchmarks.trainer`), of the same with its passes compiled, and of the trainer,
  with the teacher computed and with a filled table of its logits, on a GPU also with compiled steps; and the most
  memory that each takes;
- operators and kernel launches per step, by torch's profiler;
- images per second of several processes at a time that train one cell each with a filled table, as slots of a GPU do;
- as many epochs of the pair on real images as fit into the rest of the time, and the accuracy that they reach. Data set
  and teacher are those that the pipeline has stored: data/cifar100/ and pairs/<pair>.safetensors.

It writes a JSON file and a page beside it. On the CPU it runs in miniature, for tests.

Run: python -m benchmarks.gpu [PAIR [LEVELS [IMAGES [SLOTS [SECONDS]]]]]
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import cache, partial
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import common, compiled, trainer
from benchmarks.common import BATCH, Case
from benchmarks.trainer import Loop
from kdcore import checkpoints
from kdcore.data import storage
from kdcore.system.workspace import MANIFEST
from kdcore.training import device, loop

SECONDS = 450
"""The time that all takes, if nothing else is asked for."""
DATA = "cifar100"
"""The name of the data set of real images."""
SHARE = 0.8
"""The share of the remaining time that the epochs on real images are planned for: evaluation needs the rest."""
REPETITIONS = 5
STEPS = 10
"""How many steps are profiled."""
MOST_EPOCHS = 240
LAUNCHES = ("LaunchKernel", "GraphLaunch")
"""Parts of the names of the calls of a driver that start kernels."""


def compiled_bare(case: Case, images: int, where: torch.device) -> Loop:
    """A bare loop with its passes compiled; on the CPU without a compiler of C++, which tests do without."""
    backend = "inductor" if where.type == "cuda" else "aot_eager"
    return trainer.bare(case, images, where, compiler=partial(torch.compile, backend=backend))


BARE: dict[str, Callable[[Case, int, torch.device], Loop]] = {"bare": trainer.bare, "compiled bare": compiled_bare}
COMPARED = (
    ("trainer", "bare"),
    ("table", "bare"),
    ("compiled", "trainer"),
    ("compiled", "compiled bare"),
    ("compiled table", "compiled bare"),
)


def loops() -> list[str]:
    """Name what is measured: the bare loops, and ours as in `benchmarks.trainer`, compiled ones on a GPU alone."""
    on_gpu = device.choose().type == "cuda"
    return [*BARE, *(name for name, way in trainer.OURS.items() if on_gpu or not way.startswith("compiled"))]


@cache
def _bare(name: str, case: Case, images: int) -> Loop:
    """The bare loop of this process, made once."""
    return BARE[name](case, images, device.choose())


def seconds(name: str, case: Case, images: int, tables: Path) -> float:
    """Return what a loop takes for an image."""
    if name not in BARE:
        return compiled.epoch(trainer.OURS[name], case, images, tables)[1] / BATCH
    with common.tables(None):
        return common.seconds(_bare(name, case, images), device.choose()) / images


def memory() -> int:
    """Return the most bytes that this process has taken so far: of the GPU, or else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def profiled(name: str, case: Case, tables: Path) -> dict[str, float]:
    """Count what one step does, as the mean of `STEPS`.

    Returns:
        operators, nested ones too; launches of kernels; and the milliseconds for which the GPU computes.
    """
    with ExitStack() as stack:
        if name in BARE:
            take = _bare(name, case, STEPS * BATCH)
            take()  # compiles
        else:
            images = (compiled.WARM + STEPS) * BATCH
            _, steps = stack.enter_context(compiled.begun(trainer.OURS[name], case, images, tables))
            take = partial(list, islice(steps, STEPS))
        profiler = stack.enter_context(torch.profiler.profile())
        take()
    found = profiler.key_averages()
    counts = {
        "operators": sum(one.count for one in found if one.key.startswith("aten::")),
        "launches": sum(one.count for one in found if any(part in one.key for part in LAUNCHES)),
        "busy milliseconds": sum(one.self_device_time_total for one in found) / 1000,
    }
    return {what: round(count / STEPS, 2) for what, count in counts.items()}


def at_a_time(slots: int, case: Case, images: int, tables: Path) -> float:
    """Return the images per second of so many processes together, each of which trains one cell."""
    with ExitStack() as stack:
        processes = [stack.enter_context(common.apart()) for _ in range(slots)]

        def turn() -> float:
            begun = [one.submit(seconds, "table", case, images, tables) for one in processes]
            return max(one.result() for one in begun)

        turn()
        return round(slots / median(turn() for _ in range(3)), 1)


def learnt(case: Case, data: str, rate: float, seconds: float) -> dict[str, Any]:
    """Train the pair on real images for as many epochs as fit, and say what it reaches.

    Args:
        case: of the pair.
        data: the name of the stored data set.
        rate: the images per second that are expected.
        seconds: how long it may take.
    """
    folder, weights = Path("data") / data, Path("pairs") / f"{case.pair}.safetensors"
    lacking = [str(path) for path in (folder / MANIFEST, weights) if not path.is_file()]
    if lacking:
        return {"not measured": f"{' and '.join(lacking)}: not here; 'dvc repro pairs' makes them"}
    dataset, where = storage.load(folder), device.choose()
    images = len(dataset.train.labels)
    epochs = min(MOST_EPOCHS, int(SHARE * seconds * rate / images))
    if epochs < 1:
        return {"not measured": f"an epoch takes about {images / rate:.0f} s, and {seconds:.0f} s are left"}
    teacher = checkpoints.restore(case.pair.partition("-")[0], len(dataset.classes), weights, where, stem=dataset.stem)
    card = case.card
    card = {**card, "train": {**card["train"], "epochs": epochs}}
    run = loop.prepare(card, dataset, teacher, device=where, compiled=where.type == "cuda")
    with common.tables(None):
        took = common.seconds(lambda: loop.train(run, teacher, dataset), where)
    top1 = [round(row["test_top1"], 2) for row in run.history]
    return {
        "data": data,
        "epochs": epochs,
        "seconds": round(took, 1),
        "images per second, with evaluation": round(images * epochs / took, 1),
        "top1": top1[-1],
        "top1 of every epoch": top1,
    }


def main(
    pair: str = "resnet32x4-resnet8x4",
    levels: str = "1,2,4",
    count: str = "12800",
    slots: str = "1,2,4",
    limit: str = str(SECONDS),
) -> None:
    """Measure, print, and keep a JSON file and a page."""
    end = time.monotonic() + float(limit)
    where, images, names = device.choose(), int(count), loops()
    case = Case(pair, common.levels(levels))
    with ExitStack() as stack:
        tables = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with ExitStack() as apart:
            processes = {name: apart.enter_context(common.apart()) for name in names}

            def turn() -> dict[str, float]:
                return {n: one.submit(seconds, n, case, images, tables).result() for n, one in processes.items()}

            turn()  # warms caches, compiles, and fills the table
            times = [turn() for _ in range(REPETITIONS)]
            taken = {name: one.submit(memory).result() for name, one in processes.items()}
            steps = {name: one.submit(profiled, name, case, tables).result() for name, one in processes.items()}
        together = {number: at_a_time(number, case, images, tables) for number in common.levels(slots)}
    rates = {name: [round(1 / run[name], 1) for run in times] for name in names}
    content = {
        **case.describe(where),
        "images": images,
        "images_per_second": {name: median(values) for name, values in rates.items()},
        "rates": {name: sorted(values) for name, values in rates.items()},
        "ratios": {f"{a} / {b}": round(median(rates[a]) / median(rates[b]), 3) for a, b in COMPARED if a in rates},
        "bytes": taken,
        "steps": steps,
        "slots": {str(number): rate for number, rate in together.items()},
        "learnt": learnt(case, DATA, median(rates.get("compiled", rates["trainer"])), end - time.monotonic()),
    }
    text = page(content, rates, where)
    print(text)
    file = common.keep("gpu", pair, case.scale, case.dtype(where), where=where, content=content)
    file.with_suffix(".md").write_text(text, encoding="utf-8")


def page(content: dict[str, Any], rates: dict[str, list[float]], where: torch.device) -> str:
    """Write what was measured for people, in Markdown."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "the CPU"
    head = ["", "images/s, median (lowest to highest)", "GB at most", "operators", "launches", "GPU ms"]
    rows = [
        [
            loop_name,
            common.spread(values, 0),
            f"{content['bytes'][loop_name] / 1e9:.2f}",
            *(f"{count:g}" for count in content["steps"][loop_name].values()),
        ]
        for loop_name, values in rates.items()
    ]
    parts = [
        f"# {content['pair']} on {name}",
        f"KD, M={list(content['levels'])}, batch {content['batch']}, {content['dtype']}; {content['images']} images an "
        "epoch. Operators, launches and the time for which the GPU computes are those of one step.",
        _table(head, rows),
        f"Ratios: {_listed(content['ratios'])}.",
        f"Images per second of several cells at a time: {_listed(content['slots'])}.",
        f"Learnt: {_listed({key: value for key, value in content['learnt'].items() if 'every' not in key})}.",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    with redirect_stdout(StringIO()) as text:
        common.show(head, rows)
    return text.getvalue().rstrip()


if __name__ == "__main__":
    main(*sys.argv[1:])
