"""Help commands that work beside the pipeline: make the card of one cell, which params.yaml need not list, and load the
data set and the teacher of one measurement.
"""

import os
import re
from pathlib import Path
from typing import Any

from kdcore import catalog, checkpoints
from kdcore.data import regimes, sources, storage, subsets
from kdcore.data.dataset import Dataset
from kdcore.matrix import data_section, listed_teachers, networks_section, params
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import ROOT, Code, cell_card, resolve_recipes
from kdcore.matrix.cell import BASE
from kdcore.matrix.listed_teachers import KnownTeachers
from kdcore.matrix.params import Params
from kdcore.matrix.section import check_channels
from kdcore.matrix.teacher_cards import teacher_card
from kdcore.matrix.train_section import stretched
from kdcore.networks import input_affine
from kdcore.networks.contract import Network
from kdcore.networks.input_affine import Normalisation
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown
from kdcore.system.files import write_json
from kdcore.system.workspace import MANIFEST
from kdcore.training import accept, checked_teacher, device, preflight, run_folder

DATA, TEACHERS, FOLDER = Path("data"), Path("teachers"), Path("scratch/cells")
OPTIONS = {"pairs": "--pair", "seeds": "--seed", "methods": "--method", "baselines": "--method", "scales": "--scale"}
"""Section of params.yaml -> the option that one cell has instead."""


def card(
    file: str,
    *,
    pair: str,
    method: str,
    scale: int | str | None,
    stand: bool,
    seed: int,
    epochs: int | None,
    variant: str = BASE,
) -> dict[str, Any]:
    """Make the card of one cell, with the data set, training settings and overrides of a params file.

    Args:
        file: path of the params file; its matrix need not contain the cell.
        pair: the names of teacher and student, joined by "-".
        method: a logit method, a baseline or a sum.
        scale: SDD's M for a logit method, where None means 1, also as text; None for a baseline.
        stand: whether a logit method standardises logits; False for a baseline.
        seed: seed of the run.
        epochs: how many epochs to train, with milestones moved in proportion; None takes both from the file.
        variant: one of the file's.

    Raises:
        UserError: an option or the file is wrong, the variant changes nothing of the cell, a hyper-parameter is
            missing, or the data set has not been fetched.
    """
    try:
        logit = catalog.kind(method) == "logit"
        with catalog.naming(params.network_names(file)):
            known = catalog.network_names()
            named = {name: teacher for name, teacher in _listed_teachers(file).items() if name not in known}
            catalog.check_pair(pair, named)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not logit and (scale is not None or stand):
        raise UserError(f"{method} is no logit method and takes neither --scale nor --stand")
    scale = 1 if scale is None and logit else {str(known): known for known in catalog.PYRAMIDS}.get(str(scale), scale)
    axes = {"methods": [method], "scales": [scale], "stand": [stand]} if logit else {"baselines": [method]}
    teacher = pair.partition("-")[0]
    teachers = {**named, teacher: named.get(teacher, {"source": "published"})}  # of these only networks are used
    matrix = params.load(file, options=OPTIONS, pairs=[pair], seeds=[seed], teachers=teachers, exclude=[], **axes)
    if variant not in matrix.variants:
        raise UserError(f"--variant {shown(variant)}: {file} has none of this name, but {', '.join(matrix.variants)}")
    of_variant = [cell for cell in matrix.cells() if (cell.method, cell.variant) == (method, variant)]
    if not of_variant:
        raise UserError(f"--variant {variant}: changes nothing of this cell; leave it out")
    (cell,) = of_variant
    recipe = resolve_recipes(matrix, yamlfile.read("data/recipes.yaml"), file)[cell]
    _check_data(matrix)
    train = matrix.settings(cell)
    train = train if epochs is None else stretched(train, epochs, "--epochs")
    return cell_card(cell, recipe, matrix, Code(ROOT, networks_section.described(matrix, file)), train=train)


def _listed_teachers(file: str) -> dict[str, Any]:
    """Return section `teachers` of a params file."""
    listed = yamlfile.read(file, bounded=True).get("teachers")
    return listed if isinstance(listed, dict) else {}


def described(file: str | None, network: str) -> dict[str, Any]:
    """Describe the networks that a params file names, if this one is among them.

    Args:
        file: path of the params file; None if there is none.
        network: the one that is wanted.

    Raises:
        UserError: there is no such network, in the zoo or the file, or one of the file cannot be made.
    """
    if network in catalog.networks():
        return {}
    matrix = None if file is None else params.load(file)
    try:
        catalog.check_known(network, [*catalog.networks(), *(matrix.networks if matrix else ())], "network")
    except ValueError as error:
        raise UserError(f"--network: {error}") from error
    return networks_section.described(matrix, file) if matrix and file else {}


def dataset(name: str | None, file: str | None, *, source: str | None, image_size: int | None) -> Dataset:
    """Load a data set that the pipeline has stored, or read one from its source.

    Args:
        name: name of the data set; not used if a params file is given.
        file: path of a params file, whose section `data` says what to read; None if there is none.
        source: where to read from, like `data.source` of params.yaml; None loads what the pipeline has stored.
        image_size: height and width in pixels, for a data set of one's own that is read from `source`.

    Raises:
        UserError: the arguments contradict each other, or the data set cannot be read.
    """
    given = {"--source": source, "--image-size": image_size}
    unused = [option for option, value in given.items() if value is not None]
    if file is not None and unused:
        them = "it" if len(unused) == 1 else "them"
        raise UserError(f"{' and '.join(unused)}: --params {file} has its own; leave {them} out")
    if source is None and unused:
        raise UserError(
            "--image-size: is for a data set that is read anew, from --source, which is missing; add it, or leave "
            "--image-size out"
        )
    size = {} if image_size is None else {"image_size": image_size}
    if file is not None:
        section, where = params.load(file).data.model_dump(), file
    elif source is not None:
        section, where = params.data_section(name=name, source=source, **size), "--dataset, --source"
    else:
        folder = DATA / str(name)
        if not os.path.isfile(folder / MANIFEST):  # Path.is_file() raises errors for names that are too long
            raise UserError(f"{folder}: no data set is stored here; run 'dvc repro data', or add --source or --params")
        return storage.load(folder)
    data_section.check_there(section, where)
    try:
        return sources.fetch_once(section)
    except UserError as error:
        if file is None and re.search(r"\bdata\.(?!source\b)", str(error)):
            raise UserError(f"{error}; here, in a params file that --params names") from error
        raise


def check_options(checkpoint: Path, path: Path | None, mean_std: list[float] | None) -> None:
    """Refuse files that cannot be read or written, and a normalisation that params.yaml would refuse, before a
    measurement begins. No new file is left behind.

    Args:
        checkpoint: the file to read.
        path: the file to write; None writes none.
        mean_std: three means and three deviations of images from 0 to 1; None where they are not given.

    Raises:
        UserError: the message says which file or value, and why.
    """
    for values, is_std in ((mean_std[:3], False), (mean_std[3:], True)) if mean_std else ():
        try:
            check_channels(values, positive=is_std)
        except ValueError as error:
            raise UserError(f"--mean-std: {'std' if is_std else 'mean'}: {error}") from error
    checkpoints.check_there(checkpoint)
    if path is None:
        return
    if not os.path.isdir(path.parent):  # Path.is_dir() raises errors for names that are too long
        raise UserError(f"--json {path}: there is no folder {path.parent}; make it, or name another file")
    is_new = not os.path.lexists(path)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666))
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written ({error.strerror}); name another file") from error
    if is_new:
        path.unlink()


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures to a JSON file; None writes none."""
    if path is not None:
        write_json(path, figures)


def teacher_weights(made: dict[str, Any], given: str | None) -> Path | None:
    """Find the teacher's checkpoint: the given one, else the pipeline's. Returns None if the student is trained alone.

    Args:
        made: the card of the cell.
        given: path of a checkpoint; None takes the pipeline's.

    Raises:
        UserError: there is no such file, or one is given and the student is trained alone.
    """
    if "teacher" not in made:
        if given is not None:
            raise UserError(f"--teacher {given}: {made['method']} trains the student alone and takes no teacher")
        return None
    name = made["pair"].partition("-")[0]
    path = Path(given) if given is not None else TEACHERS / name / run_folder.WEIGHTS
    if not os.path.isfile(path):
        raise UserError(
            f"teacher {name}: there is no {path}; name a checkpoint with --teacher, or list the teacher in params.yaml "
            f"and run 'dvc repro teacher@{name}'"
        )
    return path


def check_inputs(
    made: dict[str, Any], weights: Path | None, file: str, *, weights_key: str | None = None
) -> Path | None:
    """Check the data set and the teacher's checkpoint as the run and stage teacher would, before anything is written.

    Args:
        made: the card of the cell.
        weights: path of the teacher's checkpoint; None if the student is trained alone.
        file: path of the params file.
        weights_key: see `kdcore.checkpoints.load`.

    Returns:
        The file with the weights that the run should read, which is another one where a state dict was chosen.

    Raises:
        UserError: one of them is missing or damaged, they do not fit each other, a class has too few images, the
            teacher is the pipeline's and not as the params file has it, it saw images of another normalisation than the
            run would give it, or it is not as accurate as it should be.
    """
    found = storage.load(DATA / made["data"])
    subsets.check(subsets.counts(found), **subsets.part_of(made))
    regimes.check(subsets.counts(found), made)
    if weights is None:
        return None
    name = made["pair"].partition("-")[0]
    listed = _listed_teachers(file).get(name) or {}
    if listed and _is_pipelines(weights, name):
        _check_planned(name, file)
    own = (
        Normalisation(listed["mean"], listed["std"])
        if {"mean", "std"} <= {key for key, value in listed.items() if value is not None}
        else None
    )
    images = Normalisation(found.mean, found.std)
    teacher = checkpoints.restore(
        made["teacher"],
        len(found.classes),
        weights,
        device.choose(),
        stem=found.stem,
        described=made.get("networks"),
        weights_key=weights_key,
        images=images if own is None else None,
        classes=found.classes,
    )
    if own and not input_affine.is_attached(
        teacher, mean=images.mean, std=images.std, own_mean=own.mean, own_std=own.std
    ):
        raise UserError(
            f"--teacher {weights}: would see images of another normalisation than teachers.{name}.mean and std of "
            f"{file} say; run 'dvc repro teacher@{name}', which writes them into its weights, and leave --teacher out"
        )
    _check_accuracy(made, weights, teacher, found, listed)
    if weights_key is None:
        return weights
    chosen = FOLDER / f"{made['name']}.teacher.safetensors"
    chosen.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(teacher, chosen)
    return chosen


def _check_accuracy(
    made: dict[str, Any], weights: Path, teacher: Network, found: Dataset, listed: dict[str, Any]
) -> None:
    """Refuse a teacher that is not as accurate as its folder records, and one that is not the pipeline's as stage
    teacher would.
    """
    name, images = made["pair"].partition("-")[0], Normalisation(found.mean, found.std)
    meta, own = run_folder.recorded(weights)
    top1 = checked_teacher.measure(teacher, found)
    again = f"the data set has changed since; run 'dvc repro teacher@{name}'"
    if own is not None and listed.get("mean") is None and own != images:
        raise UserError(
            f"teacher {name}: {weights}: was trained on images normalised by {own}, and those of {DATA / made['data']} "
            f"have {images}: {again}"
        )
    is_recorded = meta.get("data") == made["data"] and "student" in meta
    if is_recorded:
        wanted = meta["top1"] if "top1" in meta else _last_top1(weights.parent, meta)
        if abs(top1 - wanted) > checked_teacher.SHORT:
            raise UserError(
                f"teacher {name}: {weights}: reaches {top1:.2f}% here, and its folder records {wanted:.2f}%: {again}"
            )
        if _is_pipelines(weights, name) or listed.get("source", "train") == "train":
            return
    known = KnownTeachers.of(yamlfile.read(listed_teachers.FILE))
    published = listed.get("published_top1")
    is_listed = name == made["teacher"] or listed.get("source") == "published"
    if published is None and is_listed and (entry := known.find(made["data"], made["teacher"])) is not None:
        published = entry.published_top1
    if published is None and is_recorded:
        return
    card = {"name": name, "tolerance": known.tolerance}
    card |= {} if published is None else {"published_top1": float(published)}
    checked_teacher.check(card, str(weights), top1, teacher, found)


def _is_pipelines(weights: Path, name: str) -> bool:
    """Return whether these are the weights that stage teacher has written."""
    return os.path.realpath(weights) == os.path.realpath(TEACHERS / name / run_folder.WEIGHTS)


def _check_planned(name: str, file: str) -> None:
    """Refuse a teacher of the pipeline that was made with other values than a params file has now.

    What changes no weights does not count: the code, as `stages.accept` may keep results of earlier code, and threads.
    """
    matrix, meta = params.load(file), run_folder.read_meta(TEACHERS / name)
    known = KnownTeachers.of(yamlfile.read(listed_teachers.FILE, bounded=True))
    code = Code(ROOT, networks_section.described(matrix, file))
    card = teacher_card(name, matrix.teachers[name], matrix, known, code)
    card.pop("threads", None)
    if others := list(accept.differences(card, meta)):
        raise UserError(
            f"{TEACHERS / name}: is not as teachers.{name} of {file} has it ({'; '.join(others)}); run 'dvc repro "
            f"teacher@{name}'"
        )


def _last_top1(folder: Path, meta: dict[str, Any]) -> float:
    return float(run_folder.read_history(folder / run_folder.HISTORY, meta)["test_top1"].iloc[-1])


def _check_data(matrix: Params) -> None:
    """Refuse a data set that has not been fetched, or that was fetched with other settings than the params file has."""
    wanted = matrix.data.model_dump()
    folder = DATA / matrix.data.name
    if not (folder / MANIFEST).is_file():
        raise UserError(f"data set {matrix.data.name} is not here yet; run 'dvc repro data'")
    found = storage.load(folder)
    per_class = wanted.get("train_per_class")
    other_pixels = any(list(getattr(found, key)) != wanted[key] for key in ("mean", "std") if key in wanted)
    other_count = per_class is not None and per_class * len(found.classes) != len(found.train.labels)
    if other_pixels or other_count or wanted.get("image_size") not in (None, found.image_size) or _is_other(wanted):
        raise UserError(f"{folder}: is not as section data of the params file has it; run 'dvc repro data'")
    if preflight.is_of_earlier_plan(folder):
        raise UserError(f"{folder}: was made before {CARDS / 'data.yaml'} became what it is; run 'dvc repro data'")


def _is_other(wanted: dict[str, Any]) -> bool:
    """Whether the pipeline's card describes a data set of the same name that has other images, or other looks.

    A known data set is the same from every source, unless a part of it is taken.
    """
    file = CARDS / "data.yaml"
    if not file.is_file():
        return False
    card = yamlfile.read(file)
    is_whole = data_section.module(wanted["name"]) != data_section.OWN and not wanted.get("subset")
    ignored = {"code", "source"} if is_whole else {"code"}
    made, asked = ({key: value for key, value in one.items() if key not in ignored} for one in (card, wanted))
    return card["name"] == wanted["name"] and made != asked
