"""The ready params files: what they hold against what was published, what they cost, and how they are installed."""

import importlib
import re
import sys
from dataclasses import replace
from itertools import product
from math import ceil

import pytest
import torch

from kdcore import catalog, networks, objective
from kdcore.catalog import levels
from kdcore.matrix import params, presets, selection
from kdcore.matrix.cards import make_cards, resolve_recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.train_section import Train
from kdcore.objective import BatchContext
from kdcore.results.published import Published
from kdcore.system import yamlfile
from tests.conftest import ROOT
from tests.project import Project, copy_of_project
from tests.reference import FOLDER, needs_reference

RECIPES = yamlfile.read(ROOT / "data/recipes.yaml")
FIGURES = yamlfile.read(ROOT / "data/published.yaml")
TEACHERS = yamlfile.read(ROOT / "data/teachers.yaml")
NAMES = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
OF_NO_PAPER = [name for name in NAMES if name.endswith(("quick", "all", "40-epochs", "parity"))]
OF_PAPERS = [name for name in NAMES if name not in OF_NO_PAPER]
ENLARGED = ["cifar100-heterogeneous-families", "cifar100-transformers"]
"""Those whose networks see CIFAR-100 at 224 x 224, with recipes of their own."""
SEEDS = 3
R34_R18 = "imagenet_resnet34-imagenet_resnet18"
STREAMLINED_SDD = ("cifar100-streamlined", 4)
"""The preset and scale whose rate is one of its own."""
CELLS = {
    # Pairs x (methods x scales x stand + baselines) x seeds, with variants, as the publications' tables have them.
    "cifar100-40-epochs": (1 * 2 * 2 + 2 + 1) * SEEDS,
    "cifar100-all": (19 + 7 + 22 + 1) * SEEDS,
    "cifar100-crd": 13 * (1 + 10) * SEEDS,
    "cifar100-dot": 3 * (1 + 1) * SEEDS,
    "cifar100-dskd": (7 + (7 + 4)) * (3 * 2 * 2 + 1) * SEEDS,
    "cifar100-fusion": (2 * (2 * 6 + 1) + (1 + 3) * (2 * 3 + 1)) * SEEDS,
    "cifar100-heterogeneous-families": 12 * (4 + 5) * SEEDS,
    "cifar100-lskd": (7 + 7) * (4 * 2 + 9) * SEEDS,
    "cifar100-lskd-ablation": (2 + 7 + 6 + 1) * SEEDS,
    "cifar100-lskd-teachers": 6 * (2 * 2 + 1) * SEEDS,
    "cifar100-parity": (2 + 1) * 5,
    "cifar100-quick": 1 * (1 * 3 * 2 + 2),
    "cifar100-rld": 6 * (6 + 1) * SEEDS,
    "cifar100-rld-ablation": (3 + 1) * SEEDS,
    "cifar100-sdd": (4 + 6) * (3 * 2 + 1 + 8) * SEEDS,
    "cifar100-sdd-ablations": (2 * 4 + 2 * 2 + 4 + 2) * SEEDS,
    "cifar100-streamlined": (7 * (5 + 1 + 6) + 1 * (5 + 6)) * SEEDS,
    "cifar100-transformers": (8 + 8) * SEEDS,
    "cub200": 5 * (3 * 2 + 1 + 5) * SEEDS,
    "cub200-fusion": 4 * (3 + 1) * SEEDS,
    "imagenet": 2 * (6 * 2 * 2 + 2 + 7) * SEEDS,
    "imagenet-streamlined": 2 * (5 + 5) * SEEDS,
    "imagenet-streamlined-transformers": 1 * (2 + 1) * SEEDS,
    "quick": 2 * 2 * 2 + 1,
    "tiny-imagenet": 2 * (1 + 1) * SEEDS,
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def matrix(name):
    return params.load(ROOT / f"presets/{name}.yaml")


def experiments(name):
    """What a preset trains, as publications tell it: teacher, student, method, levels and stand."""
    for cell in matrix(name).cells():
        shown = None if cell.scale is None else levels(cell.scale)
        yield None if cell.method == catalog.VANILLA else cell.teacher, cell.student, cell.method, shown, cell.stand


def header(name):
    text = (ROOT / f"presets/{name}.yaml").read_text()
    return [line for line in text.partition("\npairs:")[0].splitlines() if line.startswith("#")]


class TestContent:
    def test_every_preset_is_counted_here(self):
        assert set(CELLS) == set(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_valid_and_holds_as_many_cells_as_its_publication(self, name):
        of = matrix(name)
        resolved = resolve_recipes(of, RECIPES, name)
        selection.check(of, resolved, name)
        assert len(resolved) == CELLS[name]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_planned(self, name, tmp_path):
        """As far as a machine goes that has its data."""
        of = matrix(name)
        if of.data.name == "imagenet":
            of = of.model_copy(update={"data": of.data.model_copy(update={"source": str(tmp_path)})})
        cards = make_cards(of, published_recipes=RECIPES, known_teachers=TEACHERS)
        assert {f"{cell.stage}/{cell.name}" for cell in of.cells()} <= cards.keys()
        assert {card for card in cards if card.startswith("teacher/")} == {
            f"teacher/{teacher}" for teacher in of.teachers
        }

    @pytest.mark.parametrize("name", NAMES)
    def test_teachers_are_published_ones_or_trained_here(self, name):
        allowed = [{"source": "published"}, {"source": "published", "otherwise": "train"}, {"source": "train"}]
        teachers = yamlfile.read(ROOT / f"presets/{name}.yaml")["teachers"]
        other = ("train", "rename")
        sources = [{key: value for key, value in teacher.items() if key not in other} for teacher in teachers.values()]
        assert all(source in allowed for source in sources)
        assert list(teachers) == list(dict.fromkeys(pair.split("-")[0] for pair in matrix(name).pairs))

    @pytest.mark.parametrize("name", OF_PAPERS)
    def test_its_header_says_what_it_follows_and_what_differs(self, name):
        lines = header(name)
        assert sum(line.startswith(presets.SOURCE) for line in lines) == 1
        assert lines[1].startswith(presets.SOURCE) or lines[2].startswith(presets.SOURCE)
        assert any(line.startswith("# Differs") for line in lines)
        source = next(line for line in lines if line.startswith(presets.SOURCE))
        assert re.search(r"arXiv:\d{4}\.\d{5}|DSKD, its documentation|StreamLined|SDD-LSKD-Fusion", source)

    @pytest.mark.parametrize("name", OF_PAPERS)
    def test_three_seeds_and_the_last_epoch(self, name):
        assert matrix(name).seeds == [0, 1, 2]
        assert matrix(name).tables.accuracy == "top1"

    @pytest.mark.parametrize("name", NAMES)
    def test_commands_in_its_header_give_a_valid_matrix(self, name, tmp_path):
        hydra = importlib.import_module("dvc.utils.hydra")
        for line in header(name):
            if "dvc exp run" in line:
                (tmp_path / "params.yaml").write_bytes((ROOT / f"presets/{name}.yaml").read_bytes())
                overrides = re.findall(r"-S (?:'([^']+)'|(\S+))", line)
                hydra.apply_overrides(tmp_path / "params.yaml", [quoted or plain for quoted, plain in overrides])
                changed = params.load(tmp_path / "params.yaml")
                assert changed != matrix(name)
                selection.check(changed, resolve_recipes(changed, RECIPES))


BLOCKS = {
    # Which pairs, by their places, have which scales: one block for each of the tables that a file holds.
    "cifar100-dskd": [(slice(0, 7), [1, 2]), (slice(7, 18), [1, 4])],
    "cifar100-fusion": [
        (slice(0, 2), [1, 2, 4, "L2", "L4", "L1_4"]),
        (slice(1, 3), [1, 2, 4]),
        (slice(3, 6), [1, 2, 4]),
    ],
    "imagenet": [(slice(0, 1), [1, 2]), (slice(1, 2), [1, 4])],
}


def trainings(of):
    """All that a matrix trains: each cell with its recipe and settings."""
    return {(cell, repr(recipe), repr(of.settings(cell))) for cell, recipe in resolve_recipes(of, RECIPES).items()}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_file_of_several_tables_trains_what_they_hold_and_no_more(name):
    """The union of whole matrices, which had a file each before cells could be excluded; but for methods that are plain
    alone.
    """
    of = matrix(name)
    plain_alone = [selector for selector in of.exclude if selector.methods]
    tables = [
        of.model_copy(update={"pairs": of.pairs[which], "scales": scales, "exclude": plain_alone})
        for which, scales in BLOCKS[name]
    ]
    assert trainings(of) == set().union(*map(trainings, tables))


class TestAblations:
    """Rows of studies, which variants, exclusions and scales make together."""

    def rows(self, name, student):
        of = matrix(name)
        return {(c.method, c.scale, c.stand, c.variant) for c in of.cells() if (c.student, c.seed) == (student, 0)}

    def test_of_sdd(self):
        name = "cifar100-sdd-ablations"
        scales = {("kd", scale, False, "base") for scale in (1, 2, "L1_4", 4)}
        parts = ("consistent_only", "complementary_only")
        assert self.rows(name, "resnet8x4") == (
            scales | {("kd", 2, False, part) for part in parts} | {(m, None, None, "base") for m in ("crd", "reviewkd")}
        )
        assert self.rows(name, "shufflenetv1") == (
            scales | {("kd", 4, False, part) for part in (*parts, "beta_1", "beta_4", "beta_6", "beta_8")}
        )
        weights = {
            cell.variant: [recipe[key].value for key in ("complementary_weight", "consistent_weight") if key in recipe]
            for cell, recipe in resolve_recipes(matrix(name), RECIPES).items()
            if (cell.student, cell.scale) == ("shufflenetv1", 4)
        }
        assert weights == {
            "base": [2], "consistent_only": [0], "complementary_only": [2, 0],
            "beta_1": [1], "beta_4": [4], "beta_6": [6], "beta_8": [8],
        }  # fmt: skip

    def test_of_lskd(self):
        """Each weight of its table once, plain and standardised, all at temperature 2."""
        found = {
            (cell.stand, recipe["kd_weight"].value)
            for cell, recipe in resolve_recipes(matrix("cifar100-lskd-ablation"), RECIPES).items()
            if cell.method == "kd" and recipe["temperature"].value == 2 and recipe["ce_weight"].value == 0.1
        }
        assert found == set(product((False, True), (0.9, 3, 6, 9, 12, 15, 18)))

    def test_of_rld(self):
        weights = {
            cell.variant: (recipe["alpha"].value, recipe["beta"].value)
            for cell, recipe in resolve_recipes(matrix("cifar100-rld-ablation"), RECIPES).items()
            if cell.method == "rld"
        }
        assert weights == {"base": (1, 8), "confidence_only": (1, 0), "correlation_only": (0, 8)}
        assert self.rows("cifar100-rld-ablation", "resnet8x4") >= {("vanilla", None, None, "base")}


def known_experiment(record):
    """A record of the reference, or None where we support its method or networks not."""
    prefix = "imagenet_" if record["dataset"] == "imagenet" else ""
    teacher, student = (name and prefix + name for name in (record["teacher"], record["student"]))
    method = {"kd+sp": "sp+kd", "dot": "kd", "semckd": "semckd+kd"}.get(record["method"], record["method"])
    if method == "mlkd" and record["source"].startswith("streamlined"):
        method = "mlkd_one_view"  # Its code has no strong view.
    if not is_supported(method) or student not in catalog.networks():
        return None
    if method == "semckd+kd":  # Of whose rows no publication says that they have KD, or regions.
        return teacher, student, method, (1,), False
    if catalog.kind(method) == "feature":
        return teacher, student, method, None, None
    return teacher, student, method, tuple(record["M"] or [1]), record["stand"]


def is_supported(method):
    return {*method.split(catalog.PLUS)} <= {catalog.VANILLA, *catalog.methods()}


def in_no_table(record):
    """Of SDD's paper: studies on the pair of its ablations."""
    return record["student"] == "resnet8x4" or re.search("ablation|appendix", record.get("note", ""))


OF_NO_TABLE = ("regnety_160", "deit_ti")
"""A pair whose figure the reference has in its notes on transformers alone."""
RENAMED = {"la": "swap", "lr": "revision"}
"""Methods of the second reference under the names that they have here."""
AT_224 = {
    # Its networks that see CIFAR-100 enlarged, under the names of the presets.
    "ofa_paper_notes": {
        "swin_tiny": "swin_tiny", "vit_small": "vit_small", "convnext_tiny": "convnext_tiny", "deit_tiny": "deit_tiny",
        "imagenet_resnet18": "resnet18_224", "imagenet_mobilenetv2": "mobilenetv2_224", "swin_pico": "swin_pico",
        "resmlp_s12": "resmlp_s12",
    },
    "lg_readme": {
        "deit_tiny": "deit_ti", "t2t_vit_7": "t2t_vit_7_224", "pit_tiny": "pit_ti", "pvt_tiny": "pvt_ti_224",
        "pvtv2_b0": "pvtv2_b0", "convit_tiny": "convit_ti",
    },
    "lskd_vit_readme": {
        "deit_tiny": "deit_ti_distilled", "t2t_vit_7": "t2t_vit_7_224", "pit_tiny": "pit_ti", "pvt_tiny": "pvt_ti_224",
    },
}  # fmt: skip
OF_OTHER_NOTES = {(None, "deit_tiny", "vanilla")}
"""A figure that the table in the facts of OFA has, and the second reference mentions beside another."""


def by_our_names(record):
    """A record of the second reference. SemCKD, and SRRL in SimKD's repository, are trained with KD beside them, whose
    own rows there have both losses with the weight 1; DIST's KD has the temperature 4.
    """
    names, source, values = record["method"].split("+"), record["source"], {}
    if names == ["semckd"] or (names, source) == (["srrl"], "simkd_readme"):
        names.append("kd")
    if names == ["kd"]:
        both = {"ce_weight": 1.0, "kd_weight": 1.0}
        of = {"semckd_readme": both, "simkd_readme": both, "dist_readme": {"temperature": 4.0}}
        values = of.get(source, {})
    known = {name: entry.kind for name, entry in catalog.methods().items()} | {catalog.VANILLA: "feature"}
    if names == ["ofa"] and source in AT_224:
        names = ["ofa_stages", "ofa"]
    names = [RENAMED.get(name, name) for name in names]
    enlarged = AT_224.get(source, {})
    teacher, student = (enlarged.get(record[role], record[role]) for role in ("teacher", "student"))
    if not {*names} <= known.keys() or not {teacher, student} - {None} <= {*catalog.networks(), *enlarged.values()}:
        return None
    is_logit = any(known[name] == "logit" for name in names)
    axes = ((1,), record.get("stand", False)) if is_logit else ((), None)
    method = "+".join(sorted(names, key=lambda name: (known[name] == "logit", name)))
    key = (teacher, student, method, *axes, "sgd")
    return (*key, frozenset(values.items())) if values else key


TABLES = [
    # Data set and source; the presets that together hold its tables; which of its records are not of them.
    ("cifar100", "dskd_doc", ["cifar100-dskd"], None),
    ("cifar100", "streamlined_2026_05", ["cifar100-streamlined"], None),
    ("cifar100", "lskd_paper", ["cifar100-lskd", "cifar100-lskd-teachers"], None),
    ("cifar100", "repdistiller_readme", ["cifar100-crd"], None),
    ("cifar100", "sdd_paper", ["cifar100-sdd"], in_no_table),
    ("cifar100", "mdistiller_readme", ["cifar100-dot"], lambda record: record["method"] != "dot"),
    ("imagenet", "lskd_paper", ["imagenet"], None),
    ("imagenet", "sdd_paper", ["imagenet"], None),
    # SDD's rule gives vgg13-vgg8 M=[1,2]; its script, and the preset, M=[1,2,4].
    ("cub200", "sdd_paper", ["cub200"], lambda record: record["M"] == [1, 2]),
    ("cub200", "sdd_scripts", ["cub200"], None),
    ("tiny_imagenet", "mdistiller_readme", ["tiny-imagenet"], None),
]


@pytest.fixture(scope="module")
def records():
    return yamlfile.read(FOLDER / "published.yaml")["records"]


@pytest.fixture(scope="module")
def transcribed():
    return yamlfile.read(FOLDER / "recipes.yaml")


@needs_reference
class TestTables:
    @pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table[1]} on {table[0]}")
    def test_every_row_that_we_support_is_there(self, records, table):
        """Rows of logit methods without a word on standardisation are of studies that add or leave out its parts."""
        dataset, source, names, elsewhere = table
        of_source = [record for record in records if (record["dataset"], record["source"]) == (dataset, source)]
        wanted = {known_experiment(record) for record in of_source if not (elsewhere and elsewhere(record))} - {None}
        rows = {row for row in wanted if row[0] is not None and (row[3] is None or row[4] is not None)}
        assert rows
        assert rows <= {row for name in names for row in experiments(name)}

    def test_figures_are_those_of_the_first_source_that_prints_them(self, records):
        """The one exception: SDD's paper has two figures of an experiment, and its appendix says which is whose."""
        order = {source: place for place, source in enumerate(FIGURES["sources"])}
        second = yamlfile.read(FOLDER / "published2.yaml")
        for dataset in FIGURES.keys() - {"sources"}:
            expected = {}
            later = {by_our_names(record) for record in second.get(dataset, [])}
            for record in sorted((r for r in records if r["source"] in order), key=lambda r: order[r["source"]]):
                experiment = known_experiment(record) if record["dataset"] == dataset else None
                is_feature = catalog.kind(experiment[2]) == "feature" if experiment else False
                if experiment and is_feature == (record["stand"] is None) and not (is_feature and record["M"]):
                    key = (*experiment, "dot" if record["method"] == "dot" else "sgd")
                    expected.setdefault(key, []).append((record["top1"], record["source"]))
            found = Published.of(FIGURES, dataset).figures
            of_ours = {
                (t, s, m, shown or None, stand, by): value
                for (t, s, m, shown, stand, by, *values), value in found.items()
                if not values
                and is_supported(m)
                and (t, s, m, shown, stand, by) not in later
                and (t, s, m) not in OF_OTHER_NOTES
                and (t, s) != OF_NO_TABLE
            }
            expected = {
                key: value for key, value in expected.items() if (*key[:3], key[3] or (), *key[4:]) not in later
            }
            assert set(of_ours) == set(expected)
            differ = {key for key, first in expected.items() if (of_ours[key].top1, of_ours[key].source) != first[0]}
            assert differ <= {("resnet32x4", "resnet8x4", "kd", (1, 2), False, "sgd")}

    def test_figures_of_the_second_reference_are_here_with_their_doubts(self):
        """All whose networks and methods we have."""
        second = yamlfile.read(FOLDER / "published2.yaml")
        checked = 0
        found = {name: Published.of(FIGURES, name).figures for name in second if name != "sources"}
        for dataset, record in ((name, record) for name in found for record in second[name]):
            key = by_our_names(record)
            if key is not None:
                doubt = record.get("doubt") or second["sources"][record["source"]].get("doubt")
                value = found[dataset][key]
                assert (value.top1, value.source, value.doubt) == (record["top1"], record["source"], doubt), key
                checked += 1
        assert checked

    def test_sources_of_the_second_reference_are_as_there(self):
        second = yamlfile.read(FOLDER / "published2.yaml")["sources"]
        shared = second.keys() & FIGURES["sources"].keys()
        assert len(shared) > 10
        assert {name: FIGURES["sources"][name] for name in shared} == {name: second[name] for name in shared}


def test_every_source_of_a_figure_is_used():
    used = {record["source"] for dataset, of in FIGURES.items() if dataset != "sources" for record in of}
    assert used == set(FIGURES["sources"])


README_OF_A_METHOD = {source for source in FIGURES["sources"] if source.endswith("_readme")} - {
    source for _, source, *_ in TABLES
}
"""Sources of figures for which no preset has the cells: they print one method for many pairs."""


@pytest.mark.parametrize("dataset", ["imagenet", "cub200", "tiny_imagenet"])
def test_every_figure_of_a_data_set_stands_beside_a_cell(dataset):
    rows = {row for name in NAMES if matrix(name).data.name == dataset for row in experiments(name)}
    figures = {
        (t, s, m, shown or None, stand)
        for (t, s, m, shown, stand, *_), of in Published.of(FIGURES, dataset).figures.items()
        if t and is_supported(m) and of.source not in README_OF_A_METHOD
    }
    assert {row for row in figures - rows if row[3] != (1, 2)} == set()
    assert {row[:2] for row in figures - rows} <= {("vgg13", "vgg8")}


def test_every_figure_of_an_ablation_stands_beside_a_row():
    """It names the values by which a variant's recipe differs from that of the row without it."""
    figures = Published.of(FIGURES, "cifar100").figures
    wanted = {key for key, of in figures.items() if len(key) == 7 and of.source not in README_OF_A_METHOD}
    found = set()
    for name in ("cifar100-sdd-ablations", "cifar100-lskd-ablation", "cifar100-rld-ablation"):
        of = matrix(name)
        resolved = {cell.name: dict(recipe) for cell, recipe in resolve_recipes(of, RECIPES).items()}
        for cell in of.cells():
            base = resolved.get(replace(cell, variant="base").name)
            if cell.variant != "base" and base is not None:
                new = {key: value.value for key, value in resolved[cell.name].items()}
                changed = {key: value for key, value in new.items() if key not in base or base[key].value != value}
                sides = (cell.teacher, cell.student, cell.method, levels(cell.scale), cell.stand, "sgd")
                found.add((*sides, frozenset(changed.items())))
    assert wanted
    assert wanted - found == set()


def test_corrections_of_labels_stand_beside_their_figures():
    """LA, LR and RC in the preset of RLD's table: each pair with a figure, and no other."""
    of_source = {
        key[:3]
        for key, of in Published.of(FIGURES, "cifar100").figures.items()
        if of.source == "rld_paper_notes" and key[2] != "rld"
    }
    assert {method for *_, method in of_source} == {"swap", "revision", "rc"}
    assert of_source == {row[:3] for row in experiments("cifar100-rld") if row[2] in {m for *_, m in of_source}}


@pytest.mark.parametrize(("name", "sources", "count"), [
    ("cifar100-transformers", ["lg_readme", "lskd_vit_readme"], 6 + 4),
    ("cifar100-heterogeneous-families", ["ofa_paper_notes"], 4 + 22),
])  # fmt: skip
def test_every_figure_of_enlarged_images_stands_beside_a_cell(name, sources, count):
    figures = Published.of(FIGURES, "cifar100").figures
    of_sources = {key[:5] for key, of in figures.items() if of.source in sources}
    found = {(teacher, student, method, shown or (), stand) for teacher, student, method, shown, stand in
             experiments(name)}  # fmt: skip
    assert len(of_sources) == count
    assert of_sources <= found


class TestEnlarged:
    """The two presets of transformers' recipes."""

    @pytest.mark.parametrize("name", ENLARGED)
    def test_networks_see_224_pixels(self, name):
        of = matrix(name)
        assert {network.image_size for network in of.networks.values()} == {224}
        assert {cell.student for cell in of.cells()} <= of.networks.keys()

    def test_recipe_of_the_transformers(self):
        of = matrix("cifar100-transformers")
        assert {network.drop_path for network in of.networks.values()} == {0.1}
        settings = of.train.model_dump(exclude_none=True)
        wanted = {
            "optimizer": "adamw", "betas": [0.9, 0.999], "lr": 5e-4, "weight_decay": 0.05, "epochs": 300,
            "batch_size": 128, "schedule": "cosine", "warmup_epochs": 20, "warmup_lr": 5e-7, "min_lr": 5e-6,
        }  # fmt: skip
        assert {key: settings[key] for key in wanted} == wanted
        assert not {"mixup", "cutmix", "label_smoothing", "ema", "grad_clip_norm"} & settings.keys()
        teacher = of.teachers["resnet56"].train.model_dump(exclude_none=True)
        wanted = {"optimizer": "sgd", "lr": 0.1, "nesterov": True, "weight_decay": 5e-4, "epochs": 300,
                  "schedule": "cosine", "augmentation": settings["augmentation"]}  # fmt: skip
        assert {key: teacher[key] for key in wanted} == wanted
        weights = {
            cell.student: (recipe["ce_weight"].value, recipe["kd_weight"].value, recipe["temperature"].value)
            for cell, recipe in resolve_recipes(of, RECIPES).items()
            if cell.method == "kd"
        }
        assert weights.pop("deit_ti_distilled") == (0.5, 10, 2)
        assert set(weights.values()) == {(0.5, 9, 2)}
        assert (len(weights), "deit_ti" in weights) == (7, False)

    def test_recipes_of_ofa(self):
        of = matrix("cifar100-heterogeneous-families")
        convolutional = {"resnet18_224", "mobilenetv2_224"}
        for cell in of.cells():
            settings = of.settings(cell).model_dump(exclude_none=True)
            if cell.student in convolutional:
                wanted = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 2e-3, "warmup_epochs": 3, "min_lr": 1e-3}
                assert not {"mixup", "cutmix", "grad_clip_norm"} & settings.keys()
            else:
                wanted = {
                    "optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup_epochs": 20, "warmup_lr": 5e-7,
                    "min_lr": 1e-5, "mixup": 0.8, "cutmix": 1.0, "grad_clip_norm": 5.0,
                }  # fmt: skip
            wanted |= {"epochs": 300, "batch_size": 128, "label_smoothing": 0.1, "schedule": "cosine"}
            assert {key: settings[key] for key in wanted} == wanted
        assert {pair.split("-")[1] for pair in of.pairs if pair.startswith("mixer_b16")} == {
            *convolutional, "deit_tiny", "swin_pico"
        }  # fmt: skip


def test_one_preset_holds_every_method_and_every_sum_of_published_values():
    sums = [name for name in RECIPES["cifar100"]["methods"] if catalog.PLUS in name]
    of = matrix("cifar100-all")
    assert sorted([*of.methods, *of.baselines]) == sorted([*catalog.methods(), *sums, catalog.VANILLA])
    figures = Published.of(FIGURES, "cifar100").figures
    beside = [row for row in set(experiments("cifar100-all")) if (*row[:3], row[3] or (), row[4], "sgd") in figures]
    assert len(beside) == 40


NOT_PUBLISHED: list[set] = [
    {"imagenet", "ofd", R34_R18},
    {"imagenet", "ctkd", True},
    {"cub200", "sp"},
    {"cub200", "crd"},
    {"cub200", "reviewkd"},
    {"cub200", "semckd+kd"},
    {"cub200", "mgd"},
    {"cifar100", "mgd"},
]
"""Cells with published figures whose hyper-parameters nobody published for their data set."""


@pytest.mark.parametrize("name", OF_PAPERS)
def test_values_of_published_cells_are_published(name):
    of = matrix(name)
    figures = Published.of(FIGURES, of.data.name)
    inherited = set()
    for cell, recipe in resolve_recipes(of, RECIPES).items():
        shown = None if cell.scale is None else list(levels(cell.scale))
        teacher = None if cell.method == catalog.VANILLA else cell.teacher
        found = [
            figures.find(teacher, cell.student, cell.method, shown, cell.stand, optimizer=by) for by in ("sgd", "dot")
        ]
        if any(found) and any("inherited" in value.source for value in recipe.values()):
            inherited.add((of.data.name, cell.pair, cell.method, cell.stand))
    assert {cell for cell in inherited if not any(of_nobody <= set(cell) for of_nobody in NOT_PUBLISHED)} == set()


def trained(of, pair, method):
    settings = of.train.of(Cell(pair, method, 0), {})
    return {key: getattr(settings, key) for key in ("epochs", "batch_size", "lr")}


def pairs_of(records, dataset):
    """Pair -> how each of these records of the reference says that it is trained, with its source."""
    found = {}
    for record in records:
        if record["dataset"] == dataset:
            prefix = "imagenet_" if dataset == "imagenet" else ""
            settings = {key: record[key] for key in ("epochs", "batch_size", "lr")}
            found.setdefault(f"{prefix}{record['teacher']}-{prefix}{record['student']}", []).append(
                (settings, record["source"])
            )
    return found


@needs_reference
class TestTraining:
    @pytest.mark.parametrize("name", [
        name for name in OF_PAPERS if "streamlined" not in name and name not in ENLARGED
    ])  # fmt: skip
    def test_as_in_one_of_the_files_that_train_this_pair_by_this_method(self, transcribed, name):
        """In SDD's files for ImageNet the batch is that of one of its two processes, and once a leftover."""
        of = matrix(name)
        checked = 0
        for pair, method in product(of.pairs, [*of.methods, *of.baselines]):
            section = transcribed["methods"].get("dot" if of.train.optimizer == "dot" else method, {})
            if "fusion" in name:
                section = section.get("fusion", {})
            records = [*section.get("pairs", []), *section.get("sdd_pairs", [])]
            known = pairs_of(records, of.data.name).get(pair, [])
            if of.data.name == "imagenet":
                known = [(settings, source) for settings, source in known if not source.startswith("SDD")]
            if known and method != catalog.VANILLA:
                assert trained(of, pair, method) in [settings for settings, _ in known], (pair, method)
                checked += 1
        assert checked

    def test_mlkd_of_lskd_in_every_pair(self, transcribed):
        of = matrix("cifar100-lskd")
        known = pairs_of(transcribed["methods"]["mlkd"]["pairs"], "cifar100")
        for pair in of.pairs:
            [settings] = [found for found, source in known[pair] if source.startswith("logit-standardization-KD")]
            assert trained(of, pair, "mlkd") == settings

    def test_exceptions_of_imagenet(self, transcribed):
        of, solvers = matrix("imagenet"), transcribed["solvers"]["imagenet"]
        exceptions = {key: value for key, value in solvers["method_exceptions"].items() if key != "source"}
        exceptions["ctkd"] = {key: solvers["ctkd"][key] for key in ("epochs", "batch_size", "lr")}
        standard = {key: solvers["standard"][key] for key in ("epochs", "batch_size", "lr")}
        for pair, method in product(of.pairs, (*of.methods, *of.baselines)):
            exceptions["simkd"] = {"epochs": 120, "batch_size": 256, "lr": 0.1}
            exceptions["mlkd"] = {"lr": solvers["mlkd_r34_r18"]["lr"]} if pair == R34_R18 else {}
            assert trained(of, pair, method) == standard | exceptions.get(method, {}), (pair, method)

    def test_sdd_of_streamlined_learns_slower_than_its_other_rows(self, transcribed):
        of, solvers = matrix("cifar100-streamlined"), transcribed["solvers"]["cifar100"]
        rates = {(cell.method, cell.scale): of.settings(cell).lr for cell in of.cells()}
        assert rates.pop(("dkd", 4)) == solvers["streamlined_sdd_students"]["lr"] == 0.01
        assert set(rates.values()) == {solvers["streamlined_students"]["lr"]}
        assert {scale for _, scale in rates} == {None, 1}

    @pytest.mark.parametrize(("name", "solver"), [
        ("cifar100-dskd", ("cifar100", "standard")),
        ("cifar100-streamlined", ("cifar100", "streamlined_students")),
        ("cifar100-fusion", ("cifar100", "fusion")),
        ("cifar100-lskd", ("cifar100", "standard")),
        ("cifar100-lskd-ablation", ("cifar100", "standard")),
        ("cifar100-rld", ("cifar100", "standard")),
        ("cifar100-rld-ablation", ("cifar100", "standard")),
        ("cifar100-sdd", ("cifar100", "standard")),
        ("cifar100-sdd-ablations", ("cifar100", "standard")),
        ("cifar100-crd", ("cifar100", "repdistiller")),
        ("imagenet", ("imagenet", "standard")),
        ("imagenet-streamlined", ("imagenet", "streamlined_students")),
        ("cub200", ("cub200", "standard")),
        ("tiny-imagenet", ("tiny_imagenet", "dot")),
    ])  # fmt: skip
    def test_solver(self, transcribed, name, solver):
        dataset, section = solver
        known = dict(transcribed["solvers"][dataset][section])
        milestones = known.get("lr_decay_stages", known.get("lr_decay_epochs_zero_based"))
        known["milestones"] = [epoch for epoch in milestones if epoch < known["epochs"]]
        known["lr_decay"] = known["lr_decay_rate"]
        settings = matrix(name).train.model_dump()
        same = settings.keys() & known.keys()
        assert same >= {"epochs", "batch_size", "lr", "momentum", "weight_decay", "milestones", "lr_decay"}
        assert {key: settings[key] for key in same - {"optimizer"}} == {key: known[key] for key in same - {"optimizer"}}


@pytest.mark.parametrize("name", [name for name in OF_PAPERS if name not in ENLARGED])
def test_small_students_learn_slowly(name):
    """0.01 for MobileNetV2 and the ShuffleNets of 32 x 32 images; the fusion, DOT on Tiny-ImageNet and StreamLined
    train all students alike.
    """
    of = matrix(name)
    small = {"mobilenetv2", "shufflenetv1", "shufflenetv2"}
    for cell in of.cells():
        lr = of.settings(cell).lr
        if cell.student in small and "fusion" not in name and name not in ("tiny-imagenet", "cifar100-streamlined"):
            assert lr == (0.005 if (cell.method, cell.pair) == ("mlkd", "wrn_40_2-mobilenetv2") else 0.01)
        elif (
            cell.method not in ("mlkd", "crd", "reviewkd", "ofd", "ctkd", "simkd")
            and (name, cell.scale) != STREAMLINED_SDD
        ):
            assert lr == of.train.lr


class TestSteps:
    @pytest.mark.parametrize("name", NAMES)
    def test_two_steps_of_the_first_cell(self, name):
        """On noise of the right shape; four classes will do."""
        from kdcore.matrix import networks_section

        of = matrix(name)
        described = networks_section.described(of)
        cell = next(of.cells())
        recipe = resolve_recipes(of, RECIPES)[cell]
        pixels = presets.IMAGES[of.data.name][2]
        stem = "small" if pixels <= presets.SMALL else "large"
        torch.manual_seed(0)
        student, teacher = (
            networks.create(network, 4, stem=stem, described=described) for network in (cell.student, cell.teacher)
        )
        goal, student = objective.build(
            cell.method,
            {key: value.value for key, value in recipe.items()},
            student=student.train(),
            teacher=teacher.eval().requires_grad_(False),
            labels=torch.arange(4),
            image_size=pixels,
            batch_size=4,
            epochs=2,
            levels=levels(cell.scale),
            stand=bool(cell.stand),
            teacher_outputs=lambda: iter([teacher(torch.randn(4, 3, pixels, pixels))]),
        )
        optimizer = torch.optim.SGD([*student.parameters(), *goal.parameters()], lr=0.01)
        # DeiT with a distillation token has two heads, of which none is its classifier; its second one comes last.
        head = list((student.classifier or student).parameters())[-2:]
        before = [parameter.clone() for parameter in head]
        for epoch in (1, 2):
            images, index = torch.randn(4, 3, pixels, pixels), torch.arange(4)
            context = BatchContext(index, epoch, torch.Generator())
            parts = goal([student(images)], [teacher(images)], index, context)
            assert torch.isfinite(parts.loss)
            assert parts.distillation > 0
            optimizer.zero_grad()
            parts.loss.backward()
            optimizer.step()
        assert all(parameter.grad is not None for parameter in student.parameters())
        assert not any(torch.equal(*weights) for weights in zip(before, head, strict=True))


@pytest.fixture
def settings():
    """Of a training: by default two epochs in batches of ten."""

    def make(**changes):
        values = {"optimizer": "sgd", "epochs": 2, "batch_size": 10, "lr": 0.1, "momentum": 0.9, "nesterov": False}
        return Train.model_validate(
            {**values, "weight_decay": 0.0, "schedule": "cosine", "precision": "auto", **changes}
        )

    return make


class TestCost:
    @pytest.fixture(autouse=True)
    def model(self, monkeypatch):
        """A teacher of 100 multiply-adds, a student of 10; 1,000 images; a step takes a tenth of its multiply-adds, and
        2 seconds at least.
        """
        monkeypatch.setattr(presets, "multiply_adds", lambda network, *_: {"teacher": 100, "student": 10}[network])
        monkeypatch.setitem(presets.IMAGES, "cifar100", (1000, 100, 32))
        monkeypatch.setattr(presets, "OPERATIONS_PER_SECOND", 20)
        monkeypatch.setattr(presets, "STEP_SECONDS", 2.0)

    @pytest.fixture
    def data(self):
        return params.load("presets/quick.yaml").data

    def seconds(self, data, *trainings):
        return 3600 * presets.hours([presets.Training(*training) for training in trainings], data)

    def test_of_a_distilled_student(self, data, settings):
        """Two epochs of 100 steps; ten images, of which each costs 3 x 10 + 100."""
        assert self.seconds(data, (settings(), "student", "teacher", 1)) == pytest.approx(2 * 100 * 10 * 130 / 10)

    def test_of_two_views(self, data, settings):
        assert self.seconds(data, (settings(), "student", "teacher", 2)) == pytest.approx(2 * 2 * 100 * 10 * 130 / 10)

    def test_of_a_network_trained_alone(self, data, settings):
        assert self.seconds(data, (settings(), "student", None, 1)) == pytest.approx(2 * 100 * 10 * 30 / 10)

    def test_of_steps_too_small_for_the_device(self, data, settings):
        of_one = settings(batch_size=3)
        assert self.seconds(data, (of_one, "student", None, 1)) == pytest.approx(2 * 334 * 3 * 30 / 10)
        presets.STEP_SECONDS = 10.0  # Put back by the fixture.
        assert self.seconds(data, (of_one, "student", None, 1)) == pytest.approx(2 * 334 * 10)

    def test_of_several(self, data, settings):
        trainings = [(settings(epochs=epochs), "student", None, 1) for epochs in (1, 3)]
        assert self.seconds(data, *trainings) == pytest.approx(sum(self.seconds(data, of) for of in trainings))

    def test_of_part_of_a_data_set(self, data, settings):
        part = data.model_copy(update={"train_per_class": 5})
        assert self.seconds(part, (settings(), "student", None, 1)) == pytest.approx(2 * 50 * 10 * 30 / 10)

    def test_of_part_of_the_images_of_one_training(self, data, settings):
        assert self.seconds(data, (settings(per_class=5), "student", None, 1)) == pytest.approx(2 * 50 * 10 * 30 / 10)

    def test_of_regimes_of_training_data(self, data, settings):
        """Ten images of each of 100 classes; class k of a long tail of r^-99 has 10 r^k, a geometric series."""
        assert self.seconds(data, (settings(share=0.5), "student", None, 1)) == pytest.approx(2 * 50 * 10 * 30 / 10)
        tail = self.seconds(data, (settings(long_tail=0.97**-99), "student", None, 1))
        assert tail == pytest.approx(2 * ceil((1 - 0.97**100) / (1 - 0.97)) * 10 * 30 / 10)

    def test_of_plain_and_augmented_copies(self, data, settings):
        joined = settings(augmentation={"randaugment": {}, "joined": True})
        assert self.seconds(data, (joined, "student", None, 1)) == pytest.approx(2 * 2 * 100 * 10 * 30 / 10)

    def test_of_a_data_set_of_unknown_size(self, settings):
        own = params.load("params.yaml").data
        assert presets.hours([presets.Training(settings(), "student", None, 1)], own) is None


class TestTrainings:
    def test_of_cells_have_their_exceptions_teachers_and_views(self):
        of = matrix("cifar100-lskd")
        found = dict(zip(of.cells(), presets.of_cells(of), strict=True))
        by_method = {cell.method: training for cell, training in found.items() if cell.pair == "vgg13-vgg8"}
        assert (by_method["mlkd"].settings.epochs, by_method["mlkd"].views) == (480, 2)
        assert (by_method["kd"].settings.epochs, by_method["kd"].views) == (240, 1)
        assert (by_method["kd"].student, by_method["kd"].teacher) == ("vgg8", "vgg13")
        assert by_method["at"].teacher == "vgg13"
        assert by_method["vanilla"].teacher is None

    @pytest.mark.parametrize(("name", "trained"), [
        ("cifar100-dskd", []),
        ("cub200-fusion", ["resnet32x4", "wrn_40_2"]),
        ("cifar100-lskd-teachers", ["wrn_28_2", "wrn_16_4", "wrn_28_4"]),
        ("cub200", ["resnet32x4", "vgg13", "resnet50"]),
    ])  # fmt: skip
    def test_of_teachers(self, name, trained):
        found = list(presets.of_teachers(matrix(name)))
        assert [training.student for training in found] == trained
        assert all(training.settings.epochs == 240 and training.teacher is None for training in found)

    def test_of_teachers_with_epochs_of_their_own(self):
        of = params.load("params.yaml")
        assert {training.settings.epochs for training in presets.of_teachers(of)} == {36}


def test_multiply_adds_are_those_of_the_networks():
    """As torchvision and the published tables have them, on images of the data set's size."""
    assert presets.multiply_adds("imagenet_resnet18", 1000, 224) == pytest.approx(1.81e9, rel=0.01)
    assert presets.multiply_adds("resnet56", 100, 32) == pytest.approx(125.5e6, rel=0.01)
    assert presets.multiply_adds("resnet32x4", 200, 224) < 49 * presets.multiply_adds("resnet32x4", 200, 32) / 3


@pytest.mark.parametrize("dataset", presets.IMAGES)
def test_sizes_are_those_that_the_data_sets_check(dataset):
    module = importlib.import_module(f"kdcore.data.sources.{dataset}")
    images, classes, _ = presets.IMAGES[dataset]
    assert (module.COUNTS["train"], module.CLASSES) == (images, classes)


@pytest.fixture
def project(tmp_path):
    """A committed copy of the project, whose environment is the one of the tests."""
    copy_of_project(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.installed").touch()
    copy = Project(tmp_path)
    copy.run("git", "init", "-q")
    copy.commit()
    return copy


def content(project, name):
    return (project.folder / f"presets/{name}.yaml").read_bytes()


def installed(project):
    return (project.folder / "params.yaml").read_bytes()


class TestMake:
    @pytest.mark.slow
    def test_presets_lists_all(self, project):
        shown = project.run("make", "presets")
        assert [name for name in NAMES if re.search(rf"^│ {name} +│", shown, re.MULTILINE)] == NAMES
        assert re.search(r"│ cifar100-dskd +│ +18 │ +702 │ +0 │ +240 │ +\d+ │ DSKD", shown)
        assert re.search(r"│ cifar100-lskd +│ +14 │ +714 │ +0 │ +240 to 960 │", shown)
        assert "GPU hours are estimated" in shown

    @pytest.mark.slow
    def test_presets_finds_broken_ones(self, project):
        project.edit("presets/cub200.yaml", "vgg13-vgg8, resnet50", "vgg13-vgg7, resnet50")
        project.edit("presets/quick.yaml", "# Source: ", "# ")
        project.edit("presets/tiny-imagenet.yaml", "methods_config: {}", "methods_config: {kd: {temprature: 1}}")
        project.edit("presets/cifar100-dot.yaml", "vgg13: {source: published}", "vgg13: {source: elsewhere}")
        project.edit("presets/cifar100-crd.yaml", "pairs: [\n", "pairs: [vgg19-vgg8, ")
        project.edit("presets/cifar100-crd.yaml", "teachers:\n", "teachers:\n  vgg19: {source: published}\n")
        said = project.run("make", "presets", code=2)
        assert "presets/cub200.yaml: pairs[3]: unknown network 'vgg7'. Did you mean vgg8?" in said
        assert "presets/quick.yaml: needs one line '# Source: '" in said
        assert "presets/tiny-imagenet.yaml: methods_config.kd.temprature: unknown parameter" in said
        assert "presets/cifar100-crd.yaml: teachers.vgg19" in said
        assert "│ imagenet " in said
        assert "│ cifar100-crd" not in said

    def test_preset_shows_the_difference_and_installs(self, project):
        said = project.run("make", "preset", "NAME=cifar100-dskd")
        assert "--- params.yaml" in said
        assert "+++ presets/cifar100-dskd.yaml" in said
        assert "-scales: [1, 2]  " in said
        assert "+seeds: [0, 1, 2]" in said
        assert "\x1b" not in said
        assert installed(project) == content(project, "cifar100-dskd")
        assert "702 cells" in project.run(sys.executable, "-m", "stages.plan", "--check", "params.yaml")

    def test_preset_keeps_changes_that_are_not_committed(self, project):
        project.edit("params.yaml", "seeds: [0]", "seeds: [0, 7]")
        edited = installed(project)
        said = project.run("make", "preset", "NAME=quick", code=2)
        assert "error: params.yaml: has changes that are not committed" in said
        assert "FORCE=1" in said
        assert "-seeds: [0, 7]" in said
        assert installed(project) == edited
        assert "changes" in project.run("make", "preset", "NAME=quick", "FORCE=0", code=2)
        project.run("make", "preset", "NAME=quick", "FORCE=1")
        assert installed(project) == content(project, "quick")
        assert [path.name for path in project.folder.glob(".params*")] == []

    def test_preset_after_a_commit(self, project):
        project.run("make", "preset", "NAME=quick")
        project.run("make", "preset", "NAME=cub200", code=2)
        project.commit()
        project.run("make", "preset", "NAME=cub200")
        assert installed(project) == content(project, "cub200")

    @pytest.mark.parametrize("hidden", [".git", "an ignored file"])
    def test_preset_where_git_knows_nothing(self, project, hidden):
        if hidden == ".git":
            (project.folder / ".git").rename(project.folder / "elsewhere")
        else:
            project.run("git", "rm", "-q", "--cached", "params.yaml")
            (project.folder / ".git/info/exclude").write_text("params.yaml\n")
        before = installed(project)
        said = project.run(
            "env", f"GIT_CEILING_DIRECTORIES={project.folder.parent}", "make", "preset", "NAME=quick", code=2
        )
        assert "FORCE=1" in said
        assert installed(project) == before
        (project.folder / "params.yaml").unlink()
        project.run("make", "preset", "NAME=quick")
        assert installed(project) == content(project, "quick")

    @pytest.mark.parametrize(("arguments", "message"), [
        (["NAME=cifar100-dskdd"], "there is no preset 'cifar100-dskdd'. Did you mean cifar100-dskd"),
        (["NAME=IMAGENET"], "Did you mean imagenet"),
        (["NAME=nothing_like_it"], "there is no preset 'nothing_like_it'. Say make preset NAME=<preset>, one of c"),
        ([], "there is no preset ''. Say make preset NAME=<preset>"),
        (["NAME=../params"], "there is no preset '../params'"),
        (["NAME=quick", "FORCE=yes"], "FORCE: 'yes' must be 0 or 1"),
    ])  # fmt: skip
    def test_bad_calls(self, project, arguments, message):
        before = installed(project)
        assert message in project.run("make", "preset", *arguments, code=2)
        assert installed(project) == before

    def test_a_broken_preset_is_not_installed(self, project):
        project.edit("presets/quick.yaml", "methods: [kd, dkd]", "methods: [kd, dkdd]")
        before = installed(project)
        assert "presets/quick.yaml: methods[1]: unknown method 'dkdd'" in project.run(
            "make", "preset", "NAME=quick", code=2
        )
        assert installed(project) == before

    def test_difference_in_colours_on_a_terminal(self, project):
        said = project.run("env", "FORCE_COLOR=1", "TERM=xterm", sys.executable, "-m", "stages.preset", "quick", "1")
        assert "\x1b[32m+stand_recipe" not in said
        assert re.search(r"\x1b\[31m-pairs: .*\x1b\[0m", said)
        assert re.search(r"\x1b\[32m\+pairs: .*\x1b\[0m", said)

    def test_nothing_to_change(self, project):
        project.run("make", "preset", "NAME=quick")
        project.commit()
        said = project.run("make", "preset", "NAME=quick")
        assert "@@" not in said
        assert "params.yaml is presets/quick.yaml" in said


def test_installing_does_not_import_torch(python):
    python("import sys; from stages import preset; assert 'torch' not in sys.modules")
