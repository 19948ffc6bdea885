"""Every data set by its name."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from kdcore import data_params
from kdcore.data import store
from kdcore.fingerprint import fingerprint
from kdcore.folders import whole

SCRATCH = Path("scratch/data")
KEY = "identity"


def fetch(section: dict[str, Any]) -> store.Dataset:
    """The data set that section `data` of params.yaml names, from where it says.

    Raises:
        UserError: the source does not hold it; the message says what was expected.
    """
    kind = data_params.module(section["name"])
    options = section if kind == data_params.OWN else {key: value for key, value in section.items() if key != "name"}
    return importlib.import_module(f"kdcore.data.{kind}").fetch(**options)


def fetch_once(section: dict[str, Any]) -> store.Dataset:
    """The same, kept below scratch/ for as long as the source's files stay as they are. Errors as of `fetch`."""
    code = fingerprint(f"kdcore.data.{data_params.module(section['name'])}")
    identity = json.dumps([section, code, _files(data_params.path(section["source"]))], sort_keys=True)
    folder = SCRATCH / section["name"]
    if not (folder / KEY).is_file() or (folder / KEY).read_text() != hashlib.sha256(identity.encode()).hexdigest():
        fetched = fetch(section)
        with whole(folder) as unfinished:
            store.save(fetched, unfinished)
            (unfinished / KEY).write_text(hashlib.sha256(identity.encode()).hexdigest())
    return store.load(folder)


def _files(source: Path | None) -> list[tuple[str, int, int]]:
    """Name, size and time of change of all that a source holds."""
    found = [] if source is None else [source, *source.rglob("*")]
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file())
