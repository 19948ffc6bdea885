"""The three forms of an exported student: its tensors, a program of torch.export, and an ONNX model."""

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdcore import checkpoints
from kdcore.export.about import REMEDY, About
from kdcore.export.tracing import Logits, traced
from kdcore.networks.contract import Network
from kdcore.networks.other_end import OtherEnd
from kdcore.system import validated
from kdcore.system.errors import UserError

KEY = checkpoints.EXPORTED
"""Under which a file of tensors, and an ONNX model, say what they are."""
MEMBER = "kdcore.json"
"""The file in a program of torch.export that says it."""
SAFETENSORS, TORCH, ONNX = "safetensors", "torch", "onnx"
SUFFIXES = {SAFETENSORS: ".safetensors", TORCH: ".pt2", ONNX: ".onnx"}
"""The forms, and how the names of their files end."""
INPUT, OUTPUT = "images", "logits"
"""The names of an ONNX model's input and output."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""The packages that write and check an ONNX model."""
Classifier = Callable[[Tensor], Tensor]
"""Maps normalised images (B, 3, S, S) float32 to logits (B, C) float32."""


def check_installed(form: str) -> None:
    """Refuse a form whose packages are not installed.

    Raises:
        UserError: names them, and how to install them.
    """
    missing = [] if form != ONNX else [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to {ONNX}: needs {', '.join(missing)}, not installed here; run pip install -e '.[export]', or export "
            f"--to {SAFETENSORS} or {TORCH}"
        )


def write(network: Network, form: str, file: Path, about: About) -> None:
    """Write a network.

    Args:
        network: in evaluation mode, on the CPU.
        form: one of `SUFFIXES`.
        file: to write; its name ends as that of its form.
        about: what the file says of itself.

    Raises:
        UserError: the network has a part that torch.export or ONNX cannot express.
    """
    if form == SAFETENSORS:
        _write_tensors(network, file, about)
        return
    try:
        with _quiet():
            program = traced(network, about.content["image_size"])
            if form == TORCH:
                torch.export.save(program, file, extra_files={MEMBER: about.text})
            else:
                _write_onnx(program, file, about)
    except Exception as error:  # what the two raise depends on the part that they cannot express
        if isinstance(error, OSError | MemoryError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[: validated.LONGEST]
        raise UserError(
            f"--to {form}: {about.content['network']} cannot be expressed in this form ({reason}); "
            f"export --to {SAFETENSORS}"
        ) from error


def _write_tensors(network: Network, file: Path, about: About) -> None:
    """Write the state dict, with the names that `kdcore.networks`, or the package of a foreign network, gives."""
    said = {KEY: about.text}
    if isinstance(network, OtherEnd):
        said[checkpoints.OTHER_END] = network.described()
    tensors = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    file.write_bytes(save(tensors, said))  # safetensors itself makes files that nobody else may read


def _write_onnx(program: Any, file: Path, about: About) -> None:
    import onnx

    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    made = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    model = made.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(model, {KEY: about.text})
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress and the warnings of exporters, which are for their developers, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def read(file: Path) -> tuple[Classifier, About]:
    """Read an exported file.

    Args:
        file: its name says its form. A program of torch.export is run as it is, so it must be one that you trust.

    Returns:
        What maps images to logits, on the CPU, and what the file says of itself.

    Raises:
        UserError: the file is missing, damaged, or none that `write` made, or a package that it needs is missing.
    """
    form = next((form for form, suffix in SUFFIXES.items() if file.suffix == suffix), None)
    if form is None:
        raise UserError(f"{file}: is no exported student; the names of those end in {', '.join(SUFFIXES.values())}")
    if not os.path.isfile(file):  # Path.is_file() raises errors for names that are too long
        raise UserError(f"{file}: there is no such file; write it with 'python -m stages.export CELL --to {form}'")
    return {SAFETENSORS: _read_tensors, TORCH: _read_program, ONNX: _read_onnx}[form](file)


def _read_tensors(file: Path) -> tuple[Classifier, About]:
    try:
        with safe_open(file, framework="pt") as held:
            text = (held.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise validated.damaged(file, error, REMEDY) from error
    about = About.parse(text, file)
    network = checkpoints.restore(
        about.content["network"],
        len(about.classes),
        file,
        torch.device("cpu"),
        stem=about.content["stem"],
        described=about.content["networks"],
    )
    return without_gradients(Logits(network)), about


def _read_program(file: Path) -> tuple[Classifier, About]:
    held = {MEMBER: ""}
    try:
        with _quiet():
            program = torch.export.load(file, extra_files=held)
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        raise validated.damaged(file, error, REMEDY) from error
    text: Any = held[MEMBER]
    return without_gradients(program.module()), About.parse(text.decode() if isinstance(text, bytes) else text, file)


def _read_onnx(file: Path) -> tuple[Classifier, About]:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{file}: needs onnxruntime, not installed here; run pip install -e '.[export]'")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise validated.damaged(file, error, REMEDY) from error
    about = About.parse(session.get_modelmeta().custom_metadata_map.get(KEY), file)

    def classify(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return classify, about


def without_gradients(module: nn.Module) -> Classifier:
    """Return what runs a module that maps images to logits."""

    def classify(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
            return logits

    return classify
