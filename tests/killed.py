"""Cells that are killed and run again, in forks of a process that has imported torch: python -m tests.killed FOLDER.

That process itself never trains, for torch computes no gradients in a fork of one that has.
"""

import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.dataset import Dataset, Split
from kdcore.data.sources import digits
from kdcore.results import tables
from kdcore.system import workspace, yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, read_json, whole, write_json
from kdcore.training import device, experiment, loop, run_folder, teacher_cache
from kdcore.training.state import ResumeState
from tests import made_up
from tests.train import card

KILLS, TERMINATIONS, WRITES, IN_A_ROW = 50, 12, 8, 3
CALLS = ("open", "os.mkdir", "os.pwritev", "os.remove", "os.rename", "os.rmdir", "os.truncate")
"""Of Python, that change files, as its audit hooks name them."""
TRAIN = {"epochs": 2, "batch_size": 8, "lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
         "schedule": "cosine", "precision": "float32", "threads": 1}  # fmt: skip
STEPS = 3
"""Of an epoch: of 20 images."""
PAIR = "resnet8-resnet8"
CELLS = {
    "tabled": ("kd", TRAIN),
    "remembered": ("crd+kd", TRAIN),
    "recipe": (
        "kd",
        {
            **TRAIN,
            "optimizer": "adamw",
            "betas": [0.9, 0.999],
            "lr": 1e-3,
            "warmup_epochs": 1,
            "label_smoothing": 0.1,
            "mixup": 0.8,
            "cutmix": 1.0,
            "ema": 0.9,
        },
    ),
    "dot": ("kd", {**TRAIN, "optimizer": "dot", "dot_delta": 0.075}),
}
TEACHER, OUT, COUNT = Path("pairs/teacher.safetensors"), Path("runs"), Path("steps")


def prepare():
    """A project in the current folder."""
    made = digits.fetch(source="embedded", image_size=16, train_per_class=2)
    with whole(Path("data/digits")) as folder:
        storage.save(replace(made, test=Split(made.test.images[:20], made.test.labels[:20])), folder)
    torch.manual_seed(1)
    TEACHER.parent.mkdir()
    checkpoints.save(networks.create("resnet8", 10), TEACHER)
    for name, (method, train) in CELLS.items():
        of_cell = card(PAIR, method, train) | {"name": name, "pair": PAIR, "teacher": "resnet8", "data": "digits"}
        yamlfile.write(Path(f"cards/{name}.yaml"), of_cell)


def start(name, sabotage=nullcontext):
    """Carry out a cell in a fork; returns its process. Steps are counted in `COUNT`."""
    COUNT.write_bytes(b"")
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with sabotage(), Path("log").open("w") as log:
            os.dup2(log.fileno(), 2)
            _count_steps()
            _carry_out(name)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _carry_out(name):
    from stages import run

    sys.argv = ["carry out"]
    run(lambda: experiment.run(Path(f"cards/{name}.yaml"), OUT / name, teacher_weights=TEACHER))


def _count_steps():
    step, counted = loop.Run.step, os.open(COUNT, os.O_WRONLY | os.O_APPEND)

    def counting(*arguments):
        step(*arguments)
        os.write(counted, b".")

    loop.Run.step = counting


def end(process):
    """How it ended: exit code, or the negative number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def end_at(process, how, moment, steps=0):
    """The same, with a signal once it has computed for so many seconds after so many steps: seconds of its own,
    whatever else the machine does.
    """
    clock = (~process << 3) | 2  # clock_getcpuclockid of the C library
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if steps:
            if COUNT.stat().st_size >= steps:
                moment, steps = time.clock_gettime(clock) + moment, 0
        elif time.clock_gettime(clock) > moment:
            os.kill(process, how)
            break
        time.sleep(0.0005)
    return end(process)


def duration(process):
    """Seconds that it computes until it ends, which must be a good end."""
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(Path("log").read_text())
    return used.ru_utime + used.ru_stime


def found(name, expected):
    """What there is of a cell: "absent", "whole", or what is wrong with it."""
    if not (OUT / name).exists():
        return "absent"
    try:
        run_folder.check(OUT / name, yamlfile.read(Path(f"cards/{name}.yaml")))
    except UserError as error:
        return str(error)
    return "whole" if contents(name) == expected else "other bits"


def contents(name):
    return {path.name: path.read_bytes() for path in (OUT / name).iterdir()}


def go_on(name, expected):
    """Run a cell to its end: whether it has the expected bits, its steps, and what is left besides it."""
    code = end(start(name))
    same = code == 0 and contents(name) == expected
    left = [str(path) for folder in ("scratch/states", "scratch/live", OUT) for path in Path(folder).iterdir()]
    shutil.rmtree(OUT / name, ignore_errors=True)
    return {"same": same, "steps": COUNT.stat().st_size, "left": [path for path in left if path != str(OUT / name)]}


def at_random(how, count, expected, durations, seed):
    """Kill cells at random moments, so often: each up to three times before it may go on to its end. Half of the
    moments come when an epoch's steps are taken, when there are states.
    """
    moments, rounds, names, kills = random.Random(seed), [], itertools.cycle(CELLS), 0
    while kills < count:
        name, steps = next(names), 0
        shutil.rmtree("scratch/teacher-tables", ignore_errors=True)
        for _ in range(IN_A_ROW):
            after = moments.choice((0, STEPS))
            longest = durations[name] * (0.2 if after else 1.1)
            code = end_at(start(name), how, moments.uniform(0, longest), after)
            steps += COUNT.stat().st_size
            kills += code != 0
            rounds.append({
                "cell": name, "code": code, "found": found(name, expected[name]), "steps": COUNT.stat().st_size,
                "said": Path("log").read_text(),
            })  # fmt: skip
            if rounds[-1]["found"] != "absent":
                break
        rounds[-1] |= {"next": go_on(name, expected[name]), "steps_before": steps}
    return rounds


def kill(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def instead(owner, name, when, act):
    """Of a call for which `when` is true, another function is called, with the original first."""

    def sabotage():
        original = getattr(owner, name)

        def called(*arguments, **options):
            if when(*arguments):
                return act(original, *arguments, **options)
            return original(*arguments, **options)

        return mock.patch.object(owner, name, called)

    return sabotage


def nth(number):
    before = iter(range(number - 1))
    return lambda *_: next(before, None) is None


def makes_room(_file, target):
    return target.suffix == ".before"


def cut_off(_fsync, handle):
    """Half of the file is on the disk."""
    os.ftruncate(handle, os.fstat(handle).st_size // 2)
    kill()


def then_kill(original, *arguments, **options):
    original(*arguments, **options)
    kill()


POINTS = {
    "before the first state": (instead(loop.Run, "step", nth(2), then_kill), 2 * STEPS),
    "between two steps": (instead(loop.Run, "step", nth(STEPS + 2), then_kill), STEPS),
    "the first state is being written": (instead(os, "fsync", nth(1), cut_off), 2 * STEPS),
    "the second state is being written": (instead(os, "fsync", nth(3), cut_off), STEPS),  # after the first's folder
    "the first state has made room for the second": (instead(Path, "replace", makes_room, then_kill), STEPS),
    "after the last epoch": (instead(run_folder, "write", nth(1), kill), 0),
    "results are being written": (instead(checkpoints, "save", nth(1), then_kill), 0),
    "results are complete, but not in their place": (instead(run_folder, "sync", nth(1), kill), 0),
    "results are in their place": (instead(ResumeState, "remove", nth(1), kill), 0),
}
"""Where a cell is killed -> how, and the steps that are then left."""


def at_points(expected):
    rounds = []
    for point, (sabotage, _) in POINTS.items():
        name = list(CELLS)[len(rounds) % len(CELLS)]
        code = end(start(name, sabotage))
        before = {"point": point, "code": code, "found": found(name, expected[name])}
        rounds.append({**before, "next": go_on(name, expected[name])})
    return rounds


class Arrays:
    """A data set whose pixels all have one value."""

    folder = Path("data/written")

    def write(self, number):
        images = np.full((4000, 16, 16, 3), number % 251, np.uint8)
        split = Split(images, np.arange(4000) % 10)
        made = Dataset("written", list("0123456789"), split, split, (0.5,) * 3, (0.5,) * 3, 16, False)
        with whole(self.folder) as folder:
            storage.save(made, folder)

    def check(self):
        images = storage.load(self.folder).train.images
        assert (images == images[0, 0, 0, 0]).all()
        manifest = read_json(self.folder / workspace.MANIFEST)
        assert all(file_sha256(self.folder / name) == digest for name, digest in manifest["sha256"].items())


class Evaluation:
    """Files that hold one number."""

    folder = Path("evaluations/written")

    def write(self, number):
        with whole(self.folder) as folder:
            write_json(folder / "metrics.json", {"cells": [number] * 5000})
            (folder / "curves.csv").write_text(f"{number}\n" * 5000)

    def check(self):
        cells = read_json(self.folder / "metrics.json")["cells"]
        assert cells == [cells[0]] * 5000
        assert (self.folder / "curves.csv").read_text() == f"{cells[0]}\n" * 5000


class Tables:
    """Those of a matrix that is made up from a number."""

    folder = Path("tables")

    def __init__(self):
        self.results = [made_up.matrix(pairs=made_up.PAIRS[:1], seeds=(0,), seed=number) for number in range(2)]
        self.expected = []
        for number in range(2):
            self.write(number)
            self.expected.append({path.name: path.read_bytes() for path in self.folder.iterdir()})
        shutil.rmtree(self.folder)

    def write(self, number):
        with whole(self.folder) as folder:
            tables.write(self.results[number % 2], folder)

    def check(self):
        assert {path.name: path.read_bytes() for path in self.folder.iterdir()} in self.expected


class Table:
    """A teacher's table, whose rows hold their own numbers."""

    folder = Path("scratch/teacher-tables")
    shape = teacher_cache.Shape(3, 2, 1, 100)

    def write(self, number):
        rows = np.random.default_rng(number).permutation(6)
        self._open().write(rows, torch.from_numpy(rows).float()[:, None, None].expand(-1, 1, 100).contiguous())

    def check(self):
        logits, missing = self._open().read(np.arange(6))
        there = np.setdiff1d(np.arange(6), missing)
        assert (logits.numpy()[there] == there[:, None, None]).all()

    def _open(self):
        return teacher_cache.open_table({"teacher": 1}, self.shape, torch.float32)


def writing(writer, versions, kill_before=None):
    """A fork that writes, killed before one of its calls that change files, if it comes to it."""
    process = os.fork()
    if process:
        return process
    code, calls = 1, itertools.count(1)

    def count(event, _arguments=()):
        if event in CALLS and next(calls) == kill_before:
            kill()

    def pwritev(*arguments, original=os.pwritev):  # of which Python tells no hook
        count("os.pwritev")
        return original(*arguments)

    try:
        os.pwritev = pwritev
        sys.addaudithook(count)
        for version in versions:
            writer.write(version)
        code = 0
    finally:
        os._exit(code)


def is_whole(writer):
    """Or is not there."""
    if not writer.folder.exists():
        return False
    writer.check()
    return True


def writers():
    """Kill processes that write: how often, before each of their calls and at random moments, and how often something
    was there afterwards, which was then whole.
    """
    moments, counts = random.Random(2), {}
    for writer in (Arrays(), Evaluation(), Tables(), Table()):
        codes, there = [], 0
        for is_replaced in (True, False):
            for number in itertools.count(1):  # later and later, until it ends before it is killed
                shutil.rmtree(writer.folder, ignore_errors=True)
                if is_replaced:
                    writer.write(0)
                codes.append(end(writing(writer, [1], number)))
                there += is_whole(writer)
                if codes[-1] == 0:
                    break
        began = time.process_time()
        writer.write(0)
        longest = 3 * (time.process_time() - began)
        for _ in range(WRITES):
            codes.append(end_at(writing(writer, itertools.count()), signal.SIGKILL, moments.uniform(0, longest)))
            there += is_whole(writer)
        killed = codes.count(-signal.SIGKILL)
        counts[type(writer).__name__] = {"killed": killed, "there": there, "codes": sorted(set(codes))}
    return counts


def main(folder):
    os.chdir(folder)
    device.use_threads(1)
    torch.save({}, io.BytesIO())  # imports what it needs, for all forks
    prepare()
    expected, durations = {}, {}
    for name in CELLS:
        durations[name] = duration(start(name))
        expected[name] = contents(name)
        shutil.rmtree(OUT / name)
    found_out = {
        "durations": durations,
        "points": at_points(expected),
        "kills": at_random(signal.SIGKILL, KILLS, expected, durations, seed=0),
        "writers": writers(),
        "terminations": at_random(signal.SIGTERM, TERMINATIONS, expected, durations, seed=1),
    }
    Path("found.json").write_text(json.dumps(found_out, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
