"""One script per DVC stage or command: read a card or options, call kdcore, write outputs."""

import sys
from importlib.util import find_spec

from kdcore.system import signals
from kdcore.system.command import open_streams, run

__all__ = ["run"]

open_streams()
signals.leave_at_once()  # while the script imports
if find_spec("dvc") is None:
    print("error: kdcore is here as a library alone; run pip install -e '.[pipeline]', or make setup", file=sys.stderr)
    sys.exit(2)
