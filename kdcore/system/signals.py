"""Signals that ask a process to end, noted until a step of training is done: nothing of its epoch is then lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal has ended training between two steps, and the state is saved.

    Args:
        number: of the signal.
        message: what was saved, and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message


class Interruption:
    """SIGTERM or SIGINT, once one has come; the trainer looks between steps."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def noted(self, *, unless: bool = False) -> Iterator[None]:
        """Note signals instead of ending at once; only a second Ctrl-C does. One that nobody saw ends the block.

        Args:
            unless: signals are not noted, and end the process as they do elsewhere.
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
