"""A cell as stage train runs it, until its first step has been taken: what `benchmarks.startup` starts and measures.

Imports nothing of its own that torch does not, and prints the time at the end of every stage.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest import mock


def main(folder: str, name: str) -> None:
    """Print stage -> when it ended, in seconds of the machine's monotonic clock.

    Args:
        folder: as `benchmarks.common.lay_out` leaves it.
        name: of the cell.
    """
    ends = {"interpreter": time.perf_counter()}

    def ending(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            returned = function(*args, **kwargs)
            ends.setdefault(stage, time.perf_counter())
            return returned

        return run

    from kdcore.system import collector
    from stages import train

    with collector.uncollected():  # as stage train does
        import torch

        from kdcore import checkpoints
        from kdcore.data import storage
        from kdcore.training import experiment, loop, teacher_outputs  # noqa: F401

    ends["imports"] = time.perf_counter()
    step = loop.Run.step

    def last(*args: Any) -> None:
        step(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends["first step"] = time.perf_counter()
        print(json.dumps(ends))
        raise SystemExit

    watched: list[tuple[Any, str, str]] = [
        (storage, "load", "data set"),
        (checkpoints, "restore", "teacher"),
        (loop, "prepare", "student and loss"),
        (teacher_outputs, "folded", "folding"),
        (teacher_outputs, "prepare", "teacher's table"),
    ]
    os.chdir(folder)
    with ExitStack() as stack:
        for module, function, stage in watched:
            stack.enter_context(mock.patch.object(module, function, ending(stage, getattr(module, function))))
        stack.enter_context(mock.patch.object(loop.Run, "step", last))
        train.main("train", name)


if __name__ == "__main__":
    main(*sys.argv[1:])
