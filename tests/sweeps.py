"""Projects whose stages do next to nothing, or what a test tells them: for tests of sweeps."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from kdcore.system import yamlfile
from tests.project import TINY, Project, copy_of_project

PAIR = "resnet14-resnet8"
STAGE = '''"""A stage that does what behaviour.json says of it, and leaves deterministic results."""

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS
from kdcore.system import yamlfile
from kdcore.system.errors import RunError
from kdcore.system.files import whole, write_json
from kdcore.training.pulse import LIVE, Pulse, pulse_file
from stages import run


def behaviour_of(name: str) -> str:
    return json.loads(Path("behaviour.json").read_text()).get(name, "")


def wait(name: str) -> None:
    while behaviour_of(name) == "wait" and not Path("go").exists():
        time.sleep(0.05)


def behave(name: str) -> bool:
    """Whether results are to be written."""
    with Path("ran.log").open("a") as log:
        log.write(f"{name} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
    print(f"{name} begins", flush=True)
    behaviour = behaviour_of(name)
    times = Path("ran.log").read_text().split().count(name)
    if behaviour == "fail":
        raise RunError(f"{name} was told to fail")
    if behaviour == "die once" and times == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "die once, but for a child" and times == 1:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        Path("child").write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "die after each epoch" and times <= 4:
        beat = Pulse(name, times, 4, None, None, 0.0, None, os.getpid(), "here", time.time())
        LIVE.mkdir(parents=True, exist_ok=True)
        write_json(pulse_file(name), asdict(beat))
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "too big once" and times == 1:
        raise MemoryError(name)
    if behaviour == "fill the disk":
        Path("ballast").write_bytes(bytes(1 << 30))
    if behaviour == "leave 16 KB":
        disk = os.statvfs(".")
        Path("ballast").write_bytes(bytes(disk.f_bavail * disk.f_bsize - 16384))
    while behaviour == "hang":
        time.sleep(0.05)
    wait(name)
    return behaviour != "write nothing"


def result(card: dict[str, object], out: Path) -> None:
    epochs = card["train"]["epochs"]
    if behave(card["name"]):
        with whole(out) as folder:
            write_json(folder / "meta.json", card)
            rows = [f"{epoch},50.0" for epoch in range(1, epochs + 1)]
            (folder / "history.csv").write_text("\\n".join(["epoch,test_top1", *rows, ""]))
            differs = epochs if behaviour_of(card["name"]) == "differ" else ""
            (folder / "weights.safetensors").write_text(f"{card['name']}{differs}")


def train(stage: str, name: str) -> None:
    card = yamlfile.read(CARDS / stage / f"{name}.yaml")
    result(card, RUNS / card["pair"] / name)


def teacher(name: str) -> None:
    result(yamlfile.read(CARDS / "teacher" / f"{name}.yaml"), Path("teachers") / name)


def data() -> None:
    with whole(Path("data/digits")) as folder:
        write_json(folder / "manifest.json", yamlfile.read(CARDS / "data.yaml"))


def evaluate(pair: str) -> None:
    wait(pair)
    with whole(Path("evaluations") / pair) as folder:
        write_json(folder / "metrics.json", {"cells": sorted(path.name for path in (RUNS / pair).iterdir())})


def tables() -> None:
    with whole(Path("tables")) as folder:
        write_json(folder / "metrics.json", {"pairs": sorted(path.name for path in Path("evaluations").iterdir())})


main = MAIN


if __name__ == "__main__":
    run(main)
'''


class SweepProject(Project):
    """A project whose stages obey `behave`."""

    def behave(self, **behaviours):
        """What stages do; names of cells may leave the pair out."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviours))

    @property
    def ran(self):
        """Names of what has run, a line each time it began."""
        log = self.folder / "ran.log"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.is_file() else []

    def forget(self):
        (self.folder / "ran.log").unlink(missing_ok=True)

    @contextmanager
    def sweeping(self, *arguments, prefix=()):
        """A sweep that goes on beside the test, killed when the test leaves."""
        command = [*prefix, sys.executable, "-m", "stages.sweep", *arguments]
        with (self.folder / "sweep.log").open("w") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def said(self):
        return (self.folder / "sweep.log").read_text()

    def wait_for(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)


def make(folder, *, seeds=1, epochs=1):
    """Five cells per seed: vanilla, and kd and dkd with M=[1] and [1,2]."""
    folder.mkdir(parents=True)
    copy_of_project(folder)
    for name in ("train", "teacher", "data", "evaluate", "tables"):
        (folder / "stages" / f"{name}.py").write_text(STAGE.replace("MAIN", name))
    project = SweepProject(folder)
    # Stages that do nothing need nothing that takes seconds to import; what one needs, all do.
    project.edit(
        "kdcore/sweep/processes.py",
        '"torch", "stages.train", "stages.teacher", "stages.evaluate"',
        '"stages.train"',
    )
    params = yamlfile.read(folder / "params.yaml")
    train = {**params["train"], "epochs": epochs, "schedule": "cosine"}
    project.set(**TINY)
    project.set(train=train, seeds=list(range(seeds)))
    ignored = (folder / ".gitignore").read_text()
    (folder / ".gitignore").write_text(f"{ignored}\nbehaviour.json\nran.log\ngo\nsweep.log\nballast\nchild\n")
    project.behave()
    project.run("git", "init", "-q")
    project.commit()
    return project


def cell(method, scale, seed=0):
    return f"{PAIR}-{method}-{scale}-False-base-{seed}"


def stop(process, how=signal.SIGTERM):
    process.send_signal(how)
    return process.wait(timeout=60)
