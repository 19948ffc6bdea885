"""Stage tables: the tables of the matrix, metrics and plots for DVC."""

from pathlib import Path

import pandas as pd

from kdcore import jsonfile, plan, published, tables, yamlfile
from kdcore.folders import whole
from stages import run

TEACHERS, META = Path("teachers"), "meta.json"


def main() -> None:
    """Write tables/."""
    card = yamlfile.read(plan.FOLDER / "tables.yaml")
    card["teachers"] = tables.origins(card, {name: jsonfile.read(TEACHERS / name / META) for name in card["teachers"]})
    folders = {pair: Path("evaluations") / pair for pair in card["pairs"]}
    evaluations = [jsonfile.read(folder / "metrics.json") for folder in folders.values()]
    histories = {pair: pd.read_csv(folder / "curves.csv") for pair, folder in folders.items()}
    figures = published.Published.of(yamlfile.read("data/published.yaml"), card["data"])
    entries = tables.collect(card, evaluations, figures)
    frame, title = tables.table(entries), tables.caption(card, evaluations)
    remarks = tables.notes(card, evaluations, entries, figures)
    lines = tables.numbers(entries)
    with whole(Path("tables")) as out:
        (out / f"{card['data']}.md").write_text(tables.markdown(frame, title, remarks), encoding="utf-8")
        (out / f"{card['data']}.tex").write_text(tables.latex(frame, title, remarks), encoding="utf-8")
        lines.to_csv(out / f"{card['data']}.csv", index=False)
        tables.cells(card, evaluations).to_csv(out / "cells.csv", index=False)
        tables.curves(card, evaluations, histories).to_csv(out / "curves.csv", index=False)
        top1 = pd.DataFrame({"row": lines["pair"] + " " + lines["row"], "top1": lines["top1_mean"].round(2)})
        top1.to_csv(out / "top1.csv", index=False)
        jsonfile.write(out / "metrics.json", tables.metrics(card, entries))


if __name__ == "__main__":
    run(main)
