"""Where and with what a result was made."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from kdcore.system.git import code_version

LIBRARIES = ("numpy", "torch")


def describe(device: torch.device) -> dict[str, Any]:
    """Git commit (with "+changes" where the code differs from it), versions and device."""
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
