"""Small data sets of one's own, for tests."""

import pyarrow as pa
import pyarrow.parquet

from kdcore.data import sources
from kdcore.matrix import params
from tests.pictures import encoded


def fetch_own(source, **changes):
    """Read a data set as stage data does, from what params.yaml would say."""
    return sources.fetch(params.data_section(**{"name": "mine", "source": str(source), "image_size": 16, **changes}))


def write_parquet(file, labels=(0, 1), *, start=0, columns=None, names=None):
    """A file of pictures of these labels; `start` tells those of other files apart."""
    pictures = [{"bytes": encoded(sum(map(ord, str(label))), start + i), "path": "x"} for i, label in enumerate(labels)]
    table = pa.table(columns or {"image": pictures, "label": list(labels)})
    if names is not None:
        listed = ", ".join(f'"{name}"' for name in names)
        features = f'{{"info": {{"features": {{"label": {{"names": [{listed}]}}}}}}}}'
        table = table.replace_schema_metadata({"huggingface": features})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)
