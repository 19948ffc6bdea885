"""Sources of data sets: one file per data set, chosen by the name in section `data` of params.yaml."""

import hashlib
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcore.data import storage
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.matrix import data_section
from kdcore.matrix.fingerprint import fingerprint
from kdcore.system.files import alone, whole

SCRATCH = Path("scratch/data")
KEY = "identity"


def fetch(section: dict[str, Any]) -> Dataset:
    """Read the data set that section `data` of params.yaml names from the source that it names.

    Raises:
        UserError: the source does not hold it; the message says what was expected.
    """
    kind = data_section.module(section["name"])
    left_out = ("mean",) if kind == data_section.OWN else ("name", "mean", "std")
    options = {key: value for key, value in section.items() if key not in left_out}
    options["source"] = data_section.located(section["source"])
    dataset: Dataset = importlib.import_module(f"kdcore.data.sources.{kind}").fetch(**options)
    if "mean" in section:
        dataset = replace(dataset, mean=_three(section["mean"]), std=_three(section["std"]))
    if options["source"] == section["source"]:
        return dataset
    root = data_section.path(section["source"])
    return replace(dataset, train=_named(dataset.train, root), test=_named(dataset.test, root))


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _named(split: Split | Encoded, root: Path | None) -> Split | Encoded:
    """Name the folder of a split as the section does, wherever it was found, so that what is stored is the same."""
    return replace(split, root=root) if isinstance(split, Encoded) and split.root else split


def fetch_once(section: dict[str, Any]) -> Dataset:
    """Read a data set like `fetch`, and keep it below scratch/ until the source's files change.

    Raises:
        UserError: the source does not hold it; the message says what was expected.
    """
    code = fingerprint(f"kdcore.data.sources.{data_section.module(section['name'])}")
    identity = json.dumps(
        [section, code, _files(data_section.path(data_section.located(section["source"])))], sort_keys=True
    )
    folder, key = SCRATCH / section["name"], hashlib.sha256(identity.encode()).hexdigest()

    def is_kept() -> bool:
        return (folder / KEY).is_file() and (folder / KEY).read_text() == key

    fetched = None if is_kept() else fetch(section)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # From writing to opening: another process may keep another source there, under the same name.
    with alone(folder, "keeps", lock_file=folder.with_name(f".{folder.name}.lock")):
        if not is_kept():
            fetched = fetched or fetch(section)
            with whole(folder) as unfinished:
                storage.save(fetched, unfinished)
                (unfinished / KEY).write_text(key)
        return storage.load(folder)


def _files(source: Path | None) -> list[tuple[str, int, int]]:
    """List name, size in bytes and time of change of all files of a source, also below links to folders."""
    if source is None:
        return []
    walked = os.walk(source, followlinks=True)
    paths = [source, *(Path(parent, name) for parent, _, names in walked for name in names)]
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file())
