"""Describe where a result was computed, and with which software."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from kdcore.system.git import code_version
from kdcore.training.device import tf32

LIBRARIES = ("numpy", "torch")


def describe(device: torch.device) -> dict[str, Any]:
    """Return the git commit (with "+changes" if the code differs from it), library versions, device and CPU threads; of
    a GPU also what it computes in TF32 where the run is in float32.
    """
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    return {
        "commit": code_version(),
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        **({"tf32": tf32()} if on_gpu else {}),
    }
