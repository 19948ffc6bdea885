"""Signals that ask a process to end: a command ends with a message, and training after its current step."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

received: list[int] = []
"""Signals that asked this process to end; a library in C may make another error of the exception that says so."""


class Interrupted(KeyboardInterrupt):
    """A signal has ended training between two steps, and the state is saved.

    Args:
        number: of the signal.
        message: says what was saved, and how to continue.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message


class Interruption:
    """Holds SIGTERM or SIGINT, once one has arrived; the trainer looks between steps."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def noted(self, *, unless: bool = False) -> Iterator[None]:
        """Note signals inside the block instead of ending at once; a second Ctrl-C ends at once.

        Args:
            unless: signals are not noted, and end the process as they do elsewhere.

        Raises:
            KeyboardInterrupt: at the end of the block, for a signal that nobody looked at.
        """
        if unless:
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt(number)
            self.signal = signal.Signals(number)

        heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)


def leave_at_once() -> None:
    """End on Ctrl-C with one line until `raise_interrupts` is called; Python would show a traceback of pages.

    It is called while a command still imports. Python then has "-m" as the program's name; other programs that import
    a stage keep their own handler.
    """
    if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt, with the signal's number, on SIGTERM, and on Ctrl-C unless the parent has it ignored."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) in (_leave, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    received.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    received.append(number)
    raise KeyboardInterrupt(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted; run it again\n")
    os._exit(128 + number)
