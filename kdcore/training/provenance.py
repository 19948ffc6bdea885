"""Describe where a result was computed, and with which software."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from kdcore.system.git import code_version

LIBRARIES = ("numpy", "torch")


def describe(device: torch.device) -> dict[str, Any]:
    """Return the git commit (with "+changes" if the code differs from it), library versions, device and CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "commit": code_version(),
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
    }
