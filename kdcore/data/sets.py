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


def fetch(section: dict[str, Any]) -> store.Dataset:
    """The data set that section `data` of params.yaml names, from where it says.

    Raises:
        UserError: the source does not hold it; the message says what was expected.
    """
    kind = data_params.module(section["name"])
    options = section if kind == data_params.OWN else {key: value for key, value in section.items() if key != "name"}
    return importlib.import_module(f"kdcore.data.{kind}").fetch(**options)


def fetch_once(section: dict[str, Any]) -> store.Dataset:
    """The same, kept below scratch/ for the next time. Errors as of `fetch`."""
    code = fingerprint(f"kdcore.data.{data_params.module(section['name'])}")
    key = hashlib.sha256(json.dumps([section, code], sort_keys=True).encode()).hexdigest()[:16]
    folder = SCRATCH / f"{section['name']}-{key}"
    if not folder.exists():
        with whole(folder) as unfinished:
            store.save(fetch(section), unfinished)
    return store.load(folder)
