"""The page of the default run: its tables and figures, as tables/ has them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIGURES = "tables/figures"
INTRODUCTION = """# The default run

`make repro` makes these tables. [The report page](report.html) shows the same with charts, curves and provenance;
[what the files hold](../results.md) explains every mark.
"""


def render() -> str:
    """Write the page in Markdown."""
    table = (ROOT / "tables/digits.md").read_text(encoding="utf-8")
    figures = [
        f"### {path.stem.replace('-', ' ').capitalize()}\n\n![{path.stem}](figures/{path.name})\n"
        for path in sorted((ROOT / FIGURES).glob("*.png"))
    ]
    return "\n".join([INTRODUCTION, re.sub(r"^###", "##", table, flags=re.MULTILINE), "## Figures\n", *figures])
