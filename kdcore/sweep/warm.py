"""A process that has imported what stages need, and forks one child per job: no job waits for torch.

Whoever wants jobs done holds one end of a socket, this process the other; each job is answered by its child's number.
It comes with the end of a socket of its own, which the child keeps: its exit code goes there, its death closes it, and
a child whose socket is closed from the other side knows that nobody waits for it any more.
"""

import importlib
import json
import os
import select
import shlex
import signal
import socket
import sys
import threading
import time
from typing import Any

PRELOADED = ("torch", "stages.train", "stages.teacher", "stages.evaluate")
"""Modules whose imports take seconds."""
GRACE = 30.0
"""Seconds that a child has to save its state when nobody waits for it any more."""
LONGEST = 1 << 16
"""Bytes of a job."""


def serve(control: socket.socket) -> None:
    """Fork a child for each job, until the other side is closed."""
    sys.path.insert(0, "")  # the project, which becomes the working directory of every child
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children report on their sockets; the system buries them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the sweep, which tells the children
    wanted = [*PRELOADED]
    while True:
        if wanted and not select.select([control], [], [], 0)[0]:
            importlib.import_module(wanted.pop(0))  # while nobody waits: the first job may not need it
            continue
        message, descriptors, _, _ = socket.recv_fds(control, LONGEST, 1)
        if not message:
            return
        child = os.fork()
        if child == 0:
            control.close()
            _carry_out(json.loads(message), socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        control.sendall(str(child).encode())


def _carry_out(job: dict[str, Any], report: socket.socket) -> None:
    """Be the child: run a stage's command in this process, and end."""
    code = os.EX_SOFTWARE
    try:
        os.setsid()  # a group of its own, to be ended with all that it starts
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        threading.Thread(target=_end_with, args=(report,), daemon=True).start()
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        code = _run(shlex.split(job["command"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        report.sendall(str(code).encode())
        os._exit(code)


def _run(command: list[str]) -> int:
    """The exit code of a command; that of a stage of this project runs here."""
    import subprocess

    if command[:2] != ["python", "-m"] or not command[2].startswith("stages."):
        return subprocess.run(command, check=False).returncode  # noqa: S603
    from stages import run

    sys.argv = command[2:]
    try:
        run(importlib.import_module(command[2]).main)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _end_with(report: socket.socket) -> None:
    """End this child when the other side of its socket is closed: the sweep was killed."""
    if report.recv(1):
        return
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
