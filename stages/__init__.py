"""One script per DVC stage or command: read a card or options, call kdcore, write outputs."""

from kdcore.system import signals
from kdcore.system.command import open_streams, run

__all__ = ["run"]

open_streams()
signals.leave_at_once()  # while the script imports
