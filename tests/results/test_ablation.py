"""Ablations over numbers that variants vary."""

from kdcore.results import captions, figures, tables
from kdcore.results.ablation import ablations
from kdcore.results.rows import Results
from tests import made_up

PAIR = made_up.PAIRS[0]
GRID = made_up.grid(temperature=(1, 4, 16), complementary_weight=(1, 2, 4))


def study(**options):
    return made_up.matrix(**{"pairs": [PAIR], **options})


def test_one_number_with_base_as_a_point():
    (found,) = ablations(study(variants={"t2": {"kd": {"temperature": 2}}, "t8": {"kd": {"temperature": 8}}}))
    assert (found.key, found.ticks) == ("kd.temperature", [2, 4, 8])
    assert [line.label for line in found.lines] == [
        f"KD{sdd}{stand}" for stand in ("", " + stand") for sdd in ("", " + SDD [1,2]", " + SDD [1,2,4]")
    ]
    assert [entry.row.variant for entry in found.lines[0].entries.values()] == ["t2", "base", "t8"]


def test_a_grid_is_one_ablation_with_a_line_per_other_value():
    (found,) = ablations(study(variants=GRID))
    assert found.key == "kd.temperature"
    labels = [line.label for line in found.lines]
    assert labels[:4] == ["KD", *(f"KD + SDD [1,2], complementary_weight={w}" for w in (1, 2, 4))]
    assert len(labels) == 2 * (1 + 2 * 3)
    assert all(list(line.entries) == [1, 4, 16] for line in found.lines)
    names = [table.name for table in tables.tables(study(variants=GRID))]
    assert names[-1] == "ablation over kd.temperature"


def test_two_studies_are_two_ablations():
    variants = {"t2": {"kd": {"temperature": 2}}, "w4": {"kd": {"complementary_weight": 4}}}
    assert [found.key for found in ablations(study(variants=variants))] == ["kd.temperature", "kd.complementary_weight"]


def test_rows_that_differ_in_more_are_no_ablation():
    variants = {"both": {"kd": {"complementary_weight": 4, "temperature": 2}, "only": {"scales": [2]}}}
    assert ablations(study(variants=variants)) == []


def test_settings_of_training():
    """The value of base is known where section train says it for all cells."""
    variants = {"fast": {"train": {"lr": 0.1}}, "large": {"train": {"lr": 0.1, "batch_size": 128}}}
    lr, batch_size = ablations(study(variants=variants, settings={"lr": 0.05, "batch_size": 64}))
    assert (lr.key, lr.ticks) == ("train.lr", [0.05, 0.1])
    assert (batch_size.key, batch_size.ticks) == ("train.batch_size", [64, 128])
    assert batch_size.lines[0].label == "Student, lr=0.1"
    assert ablations(study(variants={"fast": {"train": {"lr": 0.1}}})) == []


def test_every_line_takes_its_own_value_of_base_where_exceptions_change_it():
    made = study(variants={"fast": {"train": {"lr": 0.1}}}, settings={"lr": 0.05})
    names = [f"{PAIR}-kd-1-False-base-{seed}" for seed in range(3)]

    def ticks(of_cells):
        card = {**made.card, "settings_of": of_cells}
        (found,) = ablations(Results.of(card, made.evaluations, made.histories, made.published))
        return {line.label: list(line.entries) for line in found.lines}

    found = ticks({name: {"lr": 0.02} for name in names})
    assert (found["KD"], found["DKD"]) == ([0.02, 0.1], [0.05, 0.1])
    assert "KD" not in ticks({names[0]: {"lr": 0.02}})


def test_all_images_of_each_class_are_a_number_of_them():
    """Where it is the same for all classes."""
    made = study(variants={"few": {"train": {"per_class": 50}}}, settings={"per_class": None})
    (found,) = ablations(made)
    assert (found.key, found.ticks) == ("train.per_class", [50, 500])
    assert [entry.row.variant for entry in found.lines[0].entries.values()] == ["few", "base"]
    uneven = [{**one, "train_images": 49_999} for one in made.evaluations]
    assert ablations(Results.of(made.card, uneven, made.histories, made.published)) == []


def test_parentheses_are_over_the_base_point_of_the_line():
    """Those of SDD's rows too; a line of a grid that has no such point has none."""
    made = study(variants=GRID)
    found, (shown,) = tables.tables(made)[-1], ablations(made)
    line = next(line for line in shown.lines if line.label == "KD + SDD [1,2], complementary_weight=2")
    low, base = line.entries[1], line.entries[4]
    change = f"({low.mean - base.mean:+.2f})"
    label = f"{PAIR} KD + SDD [1,2]"
    assert found.text.loc[f"{label}, complementary_weight=2", ("T=1", "")].split(" ", 3)[3].startswith(change)
    assert "(" not in found.text.loc[f"{label}, complementary_weight=2", ("T=4", "")]
    assert not any("(" in text for text in found.text.loc[f"{label}, complementary_weight=4"])
    assert not found.bold.to_numpy().any()
    assert (
        "Ablation over kd.temperature: in parentheses, the gain over the row of the same line that no variant changes, "
        "without a test; a line that has no such row has none."
    ) in captions.notes(made)
    assert not any(note.startswith("Ablation over") for note in captions.notes(study()))


def test_what_is_excluded_is_called_so():
    excluded = [f"{PAIR}-kd-2-False-t2-{seed}" for seed in range(3)]
    variants = {"t2": {"kd": {"temperature": 2}}, "t8": {"kd": {"temperature": 8}}}
    made = study(variants=variants, excluded=excluded)
    assert tables.tables(made)[-1].text.loc[f"{PAIR} KD + SDD [1,2]", ("T=2", "")] == "excluded"
    (found,) = ablations(made)
    assert list(found.lines[1].entries) == [4, 8]
    fast = {"fast": {"train": {"lr": 0.1}}, "slow": {"train": {"lr": 0.01}}}
    excluded = [f"{PAIR}-kd-2-False-fast-{seed}" for seed in range(3)]
    made = study(variants=fast, settings={"lr": 0.05}, excluded=excluded)
    assert tables.tables(made)[-1].text.loc[f"{PAIR} KD + SDD [1,2]", ("lr=0.1", "")] == "excluded"


def test_the_table():
    found = tables.tables(study(variants={"t2": {"kd": {"temperature": 2}}}, missing=[f"{PAIR}-kd-1-True-t2-0"]))[-1]
    assert list(found.text.columns) == [("T=2", ""), ("T=4", "")]
    assert list(found.text.index)[:2] == [f"{PAIR} KD", f"{PAIR} KD + SDD [1,2]"]
    assert found.text.loc[f"{PAIR} KD + stand", ("T=2", "")] == "missing (1 of 3)"


def test_the_figure_has_a_line_per_label_and_a_logarithmic_axis_from_a_decade_on(tmp_path):
    made = study(variants=GRID)
    (found,) = ablations(made)
    figure = figures.ablation(made, found)
    (axes,) = [axes for axes in figure.axes if axes.get_title()]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16"]
    drawn = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(drawn) == [line.label for line in found.lines]
    line = found.lines[1]
    assert list(drawn[line.label].get_ydata()) == [entry.mean for entry in line.entries.values()]
    assert next(text.get_text() for text in figure.legends[0].get_texts()) == "Student"
    made = study(variants={"t2": {"kd": {"temperature": 2}}})
    figures.write(made, tmp_path)
    assert {"ablation-kd.temperature.pdf", "ablation-kd.temperature.png"} <= {
        path.name for path in (tmp_path / "figures").iterdir()
    }
    narrow = figures.ablation(made, ablations(made)[0])
    assert next(axes for axes in narrow.axes if axes.get_title()).get_xscale() == "linear"
