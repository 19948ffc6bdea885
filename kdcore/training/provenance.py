"""Where and with what a result was made."""

import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

LIBRARIES = ("numpy", "torch")


def describe(device: torch.device) -> dict[str, Any]:
    """Git commit (with "+changes" where the code differs from it), versions and device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "kdcore", "stages")
    except (OSError, subprocess.CalledProcessError):
        return "not in a git repository"
    return head + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
