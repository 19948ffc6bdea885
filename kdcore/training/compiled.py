"""Compile the passes of a training step with `torch.compile`, where the settings ask for it and it pays.

Two graphs are made: the teacher's pass, and the student's passes with all losses, whose backward pass comes with it.
What draws random numbers or changes with the epoch stays outside of them (`Objective.lesson`, `Objective.weighed`), so
that no graph is made anew while a network trains. A compiler rounds sums otherwise than torch alone does, but alike in
every run: it chooses no kernels by measuring them.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from kdcore.networks.contract import Network
from kdcore.objective import Objective
from kdcore.parts import Lesson
from kdcore.system.errors import RunError

FEWEST_STEPS = 10_000
"""Fewer steps than these do not repay a first compilation, which takes one or two minutes."""
Losses = tuple[Tensor, Tensor, dict[str, Tensor]]


def passes(student: Network, objective: Objective, views: Sequence[Tensor], lesson: Lesson) -> Losses:
    """Run the student on the views (B, 3, S, S) of a batch, and compute its losses.

    Returns:
        The logits (B, C) of the first view, without gradients, and what `Objective.losses` returns.
    """
    outputs = [student(view) for view in views]
    ce, losses = objective.losses(outputs, lesson)
    return outputs[0].logits.detach(), ce, losses


class CompiledPasses:
    """`passes`, compiled for batches of one size. Others, the last ones of epochs, are computed without a compiler.

    Args:
        batch_size: the size.
        device: where the student trains.
        name: of the run, for messages.
        backend: of `torch.compile`.
    """

    def __init__(self, batch_size: int, device: torch.device, name: str, *, backend: str = "inductor") -> None:
        self.batch_size, self.device = batch_size, device
        self.graph = _Graph(passes, device, name, backend=backend)

    def __call__(self, student: Network, objective: Objective, views: Sequence[Tensor], lesson: Lesson) -> Losses:
        """Compute what `passes` does."""
        if len(lesson.target) != self.batch_size:
            return passes(student, objective, views, lesson)
        # A number would be a constant of the graph; a tensor is an input.
        prepared = {
            name: torch.tensor(float(value), device=self.device) if isinstance(value, int | float) else value
            for name, value in lesson.prepared.items()
        }
        logits, ce, losses = self.graph(student, objective, views, lesson._replace(prepared=prepared))
        # CUDA graphs write the next step's values to the same places, and losses are kept until the epoch's end.
        return logits, ce.clone(), {name: value.clone() for name, value in losses.items()}


class CompiledTeacher:
    """A function of a frozen teacher and of images (B, 3, S, S), compiled for batches of one size with the teacher's
    weights as constants. Smaller batches are filled up with their last image, so that the same kernels compute each.

    Args:
        function: returns tensors, or tuples of them, whose first axis is that of the images.
        teacher: in evaluation mode.
        batch_size: the size.
        device: where the teacher is.
    """

    def __init__(self, function: Callable[..., Any], teacher: Network, batch_size: int, device: torch.device) -> None:
        self.teacher, self.batch_size = teacher, batch_size
        self.graph = _Graph(function, device, "the teacher", frozen=device.type == "cpu")

    def __call__(self, images: Tensor) -> Any:
        """Compute the function for n images."""
        from torch.utils._pytree import tree_map

        def joined(*values: Tensor | None) -> Tensor | None:
            """Copies too, for CUDA graphs write the next batch's values to the same places."""
            return None if values[0] is None else torch.cat([value for value in values if value is not None])[:count]

        count = len(images)
        parts = [self.graph(self.teacher, self._filled(part)) for part in images.split(self.batch_size)]
        if len(parts) == 1 and count == self.batch_size and images.device.type == "cpu":
            return parts[0]
        return tree_map(joined, *parts)

    def _filled(self, images: Tensor) -> Tensor:
        """The images (n, 3, S, S) and as many copies of the last one as make them a whole batch, in one layout."""
        lacking = self.batch_size - len(images)
        whole = torch.cat([images, images[-1:].expand(lacking, -1, -1, -1)]) if lacking else images
        return whole.contiguous(memory_format=torch.channels_last)


class _Graph:
    """A function that is compiled when it is first called, as one graph, and never again.

    Args:
        function: see `torch.compile`.
        device: where it computes.
        name: of the run, for messages.
        backend: of `torch.compile`.
        frozen: whether weights become constants of the graph.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        name: str,
        *,
        backend: str = "inductor",
        frozen: bool = False,
    ) -> None:
        self.device, self.name, self.frozen, self.is_made = device, name, frozen, False
        mode = "reduce-overhead" if device.type == "cuda" and backend == "inductor" else None
        self.graph = torch.compile(_copied(function), fullgraph=True, dynamic=False, backend=backend, mode=mode)

    def __call__(self, *given: Any) -> Any:
        """Call the function.

        Raises:
            RunError: it cannot be compiled, or would have to be compiled again.
        """
        from torch._dynamo.exc import TorchDynamoException

        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with torch.compiler.set_stance("fail_on_recompile") if self.is_made else self._making():
                result = self.graph(*given)
        except (TorchDynamoException, RuntimeError) as error:
            if self.is_made and "recompile" not in str(error):
                raise
            lines = str(error).strip().splitlines()
            raise RunError(
                f"{self.name}: train.compile: auto: cannot be compiled {'once for all steps ' if self.is_made else ''}"
                f"({lines[0] if lines else type(error).__name__}); set compile: off, or off for it in train.exceptions"
            ) from error
        self.is_made = True
        return result

    @contextmanager
    def _making(self) -> Iterator[None]:
        from torch._inductor import config

        options = {"freezing": self.frozen, "cpp_wrapper": self.device.type == "cpu"}  # else Python calls each kernel
        with warnings.catch_warnings(), config.patch(options):
            # What is cached here depends on its arguments alone.
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`-wrapped function")
            yield


def _copied(function: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a function. Torch counts and limits how often a function's code is compiled, and a process may train many
    runs, each of which has a graph of its own.
    """
    found: Any = function
    return FunctionType(found.__code__.replace(), found.__globals__, found.__name__, found.__defaults__)
