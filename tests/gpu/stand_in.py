"""Stands in for a GPU that is not there: tells what mixes devices, and what makes the host wait for the device.

Tensors of the host are real ones. Those of the device "cuda" are torch's FakeTensors: they have shape, type, layout and
device, and no values. So the trainer runs as it is, and an operation that mixes devices raises what a GPU would raise,
or stricter. Autocast is CUDA's. `Accelerator` puts stand-ins in the place of what only a GPU knows.

Seen as waiting: values read back, copies to the host, copies to the device that block or are too large to be hidden,
operations whose shape depends on values, and factorisations, which read their error flags back. Not seen: what a kernel
does inside, how long it takes, and numbers.
"""

import ctypes
import platform
import re
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcore import scales
from kdcore.training import loop

GPU = torch.device("cuda", 0)
TORCH = Path(torch.__file__).parent
SMALL_COPY = 1 << 16
"""Bytes that CUDA takes from pageable memory without waiting for the stream."""

VALUES = {"aten._local_scalar_dense", "aten.is_nonzero", "aten.equal"}
SIZED_BY_VALUES = {"aten.nonzero", "aten.masked_select", "aten._unique2", "aten.unique_dim", "aten.bincount"}
FACTORISATIONS = {"aten._linalg_svd", "aten._linalg_eigh", "aten.linalg_lu_factor_ex", "aten._linalg_check_errors"}

SEEN_WITH = ("2.15.",)
"""Beginnings of the versions of torch with which `_context` was seen to work, on Linux on x86-64."""
HAS_BACKWARD = torch.__version__.startswith(SEEN_WITH) and (sys.platform, platform.machine()) == ("linux", "x86_64")
"""Whether gradients can be computed here on the stand-in; if not, `Accelerator` leaves steps of optimisers out."""


NEEDS = pytest.mark.skipif(
    torch.version.cuda is None or torch.cuda.is_available(),
    reason="needs a torch that was built with CUDA, and no GPU",
)
"""For tests with an `Accelerator`."""
MODE = FakeTensorMode(allow_non_fake_inputs=True)
"""One for all, so that networks can be shared by several `Accelerator`s."""


class Generator(torch.Generator):
    """One of the host, that says it is of the device which it was asked for."""

    of_device = {}  # noqa: RUF012
    """Those asked for the device, by their address: torch hands on other objects for the same generator."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        if torch.device(device).type == GPU.type:
            cls.of_device[made._cdata] = made
        return made

    @property
    def device(self):
        return GPU if self._cdata in self.of_device else torch.device("cpu")


class Accelerator(TorchDispatchMode):
    """While it is entered, "cuda" is a device. Counts what waits for it, by kind and line of kdcore.

    Args:
        classes: how many values operations find that are sized by values.
        whole: every whole number that is read back; other numbers are 1, and truths true.
    """

    def __init__(self, classes=0, whole=0):
        super().__init__()
        self.classes, self.whole = classes, whole
        self.waits = Counter()
        self.computed_in = Counter()
        """Types of convolutions."""

    def __enter__(self):
        self.stack = ExitStack()
        replace = mock.patch.object
        for patch in (
            replace(torch, "Generator", Generator),
            replace(torch.cuda, "get_rng_state", lambda _device: torch.zeros(16, dtype=torch.uint8)),
            replace(torch.cuda, "set_rng_state", lambda _state, _device: None),
            replace(torch.cuda, "get_device_name", lambda _device: "stand-in"),
            replace(torch.cuda, "get_device_capability", lambda _device=None: (9, 0)),
            replace(torch.cuda, "is_bf16_supported", lambda *_: True),
            replace(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            replace(torch.nn.Module, "_apply", _apply),
            _context() if HAS_BACKWARD else replace(loop.Run, "_minimise", lambda *_: None),
            torch.autograd.set_multithreading_enabled(False),  # the engine has no thread for the device
            MODE,
        ):
            self.stack.enter_context(patch)
        scales._averages.cache_clear()  # holds tensors of the device
        self.stack.callback(scales._averages.cache_clear)
        self.stack.callback(Generator.of_device.clear)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        wanted = kwargs.get("device")
        on_device = any(isinstance(leaf, FakeTensor) for leaf in leaves) or (wanted and wanted.type == "cuda")
        for leaf in leaves:
            if isinstance(leaf, torch._C.Generator):
                assert (leaf._cdata in Generator.of_device) == bool(on_device), (
                    f"{function}: another device's generator"
                )
        if not on_device:
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        name = f"aten.{function._opname}"
        stand_in = getattr(self, f"_{function._opname.strip('_')}", None)
        self._note(name, args, kwargs)
        return function(*args, **kwargs) if stand_in is None else stand_in(function, *args, **kwargs)

    def _note(self, name, args, kwargs):
        if name in VALUES:
            self._wait(f"read: {name}")
        elif name in SIZED_BY_VALUES | FACTORISATIONS:
            self._wait(f"inside: {name}")
        elif name.startswith("aten.index") and isinstance(args[1], list | tuple):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._wait(f"inside: {name} by a mask")
            if any(index.device.type == "cpu" for index in indices):
                self._wait(f"inside: {name} by an index of the host")
        elif name == "aten.convolution":
            self.computed_in[args[0].dtype] += 1

    def _wait(self, kind):
        self.waits[f"{kind} at {_line()}"] += 1

    def _index(self, function, source, indices):
        return function(source, _every(indices))

    def _index_put(self, function, target, indices, *args):
        return function(target, _every(indices), *args)

    def _local_scalar_dense(self, _function, value):
        return True if value.dtype == torch.bool else 1.0 if value.is_floating_point() else self.whole

    def _is_nonzero(self, _function, _value):
        return True

    def _equal(self, _function, *_):
        return True

    def _to_copy(self, function, source, **kwargs):
        target = kwargs.get("device") or source.device
        if (source.device.type, target.type) == ("cuda", "cpu"):
            self._wait("to the host: aten._to_copy")
            with unset_fake_temporarily():
                return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if (source.device.type, target.type) == ("cpu", "cuda"):
            self._to_device(source, kwargs.get("non_blocking", False))
        return function(source, **kwargs)

    def _copy(self, function, target, source, non_blocking=False):
        if (source.device.type, target.device.type) == ("cuda", "cpu"):
            self._wait("to the host: aten.copy_")
            return target
        if (source.device.type, target.device.type) == ("cpu", "cuda"):
            self._to_device(source, non_blocking)
        return function(target, source)

    def _to_device(self, source, non_blocking):
        size = source.numel() * source.element_size()
        if not non_blocking:
            self._wait("to the device, blocking")
        elif size > SMALL_COPY and not source.is_pinned():
            self._wait(f"to the device, {size} pageable bytes")

    def _bincount(self, _function, values, _weights=None, minlength=0):
        return values.new_empty((max(minlength, self.classes),), dtype=torch.int64)

    def _unique2(self, _function, values, *_, **__):
        return values.new_empty((self.classes,)), values.new_empty((0,)), values.new_empty((0,))

    def _fused_sgd(self, _function, parameters, gradients, buffers, **_):
        """It has no fake. CUDA's kernel demands equal types and strides, where the CPU's takes anything."""
        for tensors in zip(parameters, gradients, *([buffers] if buffers else []), strict=True):
            looks = {(tensor.device, tensor.dtype, tensor.shape, _strides(tensor)) for tensor in tensors}
            assert len(looks) == 1, looks


def _every(indices):
    """Indices in which masks, whose values are not there, are taken to be true everywhere."""
    found = []
    for index in indices:
        is_mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        found += [torch.zeros(index.numel(), dtype=torch.int64, device=GPU)] * index.ndim if is_mask else [index]
    return found


def _strides(tensor):
    return tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1)


def _line():
    """The innermost of kdcore that runs."""
    frame = sys._getframe(1)
    while frame is not None and "/kdcore/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "?" if frame is None else f"kdcore/{frame.f_code.co_filename.rpartition('/kdcore/')[2]}:{frame.f_lineno}"


def _apply(self, change, recurse=True):
    """nn.Module's with new parameters: it would swap fake ones in place, and cannot where copies of them were made."""
    for module in self.children() if recurse else ():
        module._apply(change)
    for key, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                self._parameters[key] = torch.nn.Parameter(change(parameter), parameter.requires_grad)
    for key, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[key] = change(buffer)
    return self


@cache
def _places():
    """How many virtual functions torch's header declares for the object that answers, and the place of one of them."""
    header = (TORCH / "include/ATen/detail/AcceleratorHooksInterface.h").read_text()
    body = header[header.index("struct TORCH_API AcceleratorHooksInterface") :]
    declared = re.findall(r"virtual\s+[^;{]*?(~?\w+)\s*\(", body)
    place = declared.index("hasPrimaryContext") + 1  # the destructor, which comes first, takes two places
    assert declared[0] == "~AcceleratorHooksInterface"
    return len(declared), place


@contextmanager
def _context():
    """Let torch's autograd engine take it that there is a CUDA context: it asks `CUDAHooks::hasPrimaryContext`.

    The object that answers gets a copy of its table of virtual functions with another function in that place, and its
    own table back in the end.
    """
    count, place = _places()
    hooks = ctypes.CDLL(str(TORCH / "lib/libtorch_cpu.so"))._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.POINTER(ctypes.c_void_p)
    table = hooks()[0]
    copy = (ctypes.c_void_p * (2 + count + 40))()  # an offset and the type come before it
    ctypes.memmove(copy, table - 16, ctypes.sizeof(copy))
    answer = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda _hooks, _index: True)
    copy[2 + place] = ctypes.cast(answer, ctypes.c_void_p).value
    hooks()[0] = ctypes.addressof(copy) + 16
    try:
        yield
    finally:
        hooks()[0] = table
