"""Describe where a result was computed, and with which software."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from kdcore.matrix.fingerprint import ROOT
from kdcore.system.git import code_version
from kdcore.training.device import tf32

LIBRARIES = ("numpy", "torch")
COMMIT = code_version(ROOT)
"""The commit of the code that this process has loaded, or that it was forked from."""


def describe(device: torch.device) -> dict[str, Any]:
    """Say what computes here.

    Returns:
        The git commit of the code (with "+changes" if the code differed from it), versions of libraries, the device and
        CPU threads; of a GPU also what it computes in TF32 where the run is in float32.
    """
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    return {
        "commit": COMMIT,
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        **({"tf32": tf32()} if on_gpu else {}),
    }
