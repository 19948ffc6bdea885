"""Cards and fingerprints: what makes a cell stale, and what does not."""

import ast
import shutil
from functools import cache

import pytest

from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.matrix.fingerprint import closure, fingerprint
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT, SHORT, TRAINED

RECIPES = yamlfile.read(ROOT / "data/recipes.yaml")
TEACHERS = yamlfile.read(ROOT / "data/teachers.yaml")


@pytest.fixture
def sources(tmp_path):
    """A copy of kdcore to edit."""
    shutil.copytree(ROOT / "kdcore", tmp_path / "kdcore", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def cards(root=ROOT, recipes=RECIPES, **changes):
    content = yamlfile.read(PARAMS)
    matrix = params.Params.model_validate({**content, **changes})
    return make_cards(matrix, published_recipes=recipes, known_teachers=TEACHERS, root=root)


@cache
def shipped():
    """Those of the project as it is."""
    return cards()


def changed(before, after):
    """Cards that differ; no stage depends on sources."""
    names = {name for name in before.keys() | after.keys() if not name.startswith("sources/")}
    return {name for name in names if before.get(name) != after.get(name)}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cells_of(method):
    return {name for name in shipped() if name.startswith("train/") and f"-{method}-" in name}


def all_runs():
    return {name for name in shipped() if name.split("/")[0] in ("train", "baseline", "teacher")}


def test_one_card_per_cell_and_stage():
    matrix = params.load(PARAMS)
    expected = {f"{folder}/{cell.name}" for cell in matrix.cells() for folder in (cell.stage, "sources")}
    expected |= {"data", "pairs", "tables"} | {f"teacher/{name}" for name in matrix.teachers}
    expected |= {f"evaluate/{pair}" for pair in matrix.pairs}
    assert set(shipped()) == expected


def test_sources_of_a_cells_values():
    after = cards(methods_config={"kd": {"temperature": 3}})
    name = "resnet20-resnet8-kd-1-False-base-0"
    sources = after[f"sources/{name}"]
    assert {key: found["value"] for key, found in sources.items()} == after[f"train/{name}"]["recipe"]
    assert sources["temperature"] == {"value": 3, "source": "params.yaml"}
    assert sources["kd_weight"]["source"] == "inherited from cifar100: mdistiller:mdistiller/engine/cfg.py"


def test_plan_does_not_import_torch(python):
    """With the project's own params.yaml it may: it then looks at the networks, once the data set is stored."""
    python(
        "import sys; from stages import plan; plan.main('--check', 'presets/quick.yaml'); "
        "assert 'torch' not in sys.modules"
    )


DISTILLED = {name for name in all_runs() if "vanilla" not in name and not name.startswith("teacher/")}
EVALUATED = {name for name in shipped() if name.startswith("evaluate/")}
EDITS = {
    # file, text, what takes its place -> the cells and teachers that become stale
    "a message in errors": ("system/errors.py", "Did you mean", "Perhaps you mean", set()),
    "the storage of data sets": ("data/storage.py", "FORMAT = 2", "FORMAT = 3", set()),
    "a reader of checkpoints": ("checkpoints.py", "import torch\n", "import torch\n\nX = 1\n", set()),
    "a warning that nothing can be compiled": ("training/compiler.py", "; trains without", "; goes on", set()),
    "the progress bar": ("training/live.py", "bar_width=20", "bar_width=30", set()),
    "a download": ("fetch/download.py", "from pathlib import Path\n", "from pathlib import Path\nX = 1\n", set()),
    "the state to resume from": ("training/state.py", 'b"2 "', 'b"3 "', set()),
    "the cache of teachers' logits": ("training/teacher_cache.py", "FORMAT = 2", "FORMAT = 3", set()),
    "what carries a card out": ("training/experiment.py", "progress.forget()", "progress.forget()\n    print()", set()),
    "a field more in a contract": (
        "methods/contract.py", "    epoch: int\n", "    epoch: int\n    classifier: int | None = None\n", set()
    ),
    "a comment": ("methods/dkd.py", "return alpha * tckd", "# A comment.\n    return (alpha) * tckd", set()),
    "a docstring": ("methods/dkd.py", "in nats, per sample.", "in nats, for each sample.", set()),
    "an annotation": ("methods/dkd.py", "student: Tensor, teacher: Tensor", "student, teacher", set()),
    "the text of a raise": ("networks/__init__.py", "unknown network {name!r}", "there is no {name!r}", set()),
    "what other trainers import": ("__init__.py", 'not name.startswith("_")', 'name[0] != "_"', set()),
    "saving and restoring": ("training/state.py", 'state["predicted"]', 'state["predicted"] + 0', set()),
    "a check more": (
        "training/loop.py", "    if teacher is not None:\n",
        "    if device is None:\n        raise ValueError(device)\n    if teacher is not None:\n", set(),
    ),
    "a new member of a family": (
        "networks/resnet.py", '"resnet14": {"depth": 14},', '"resnet14": {"depth": 14}, "resnet26": {"depth": 26},',
        set(),
    ),
    "a statement of dkd": (
        "methods/dkd.py", "return alpha * tckd + beta * nckd", "return beta * nckd + alpha * tckd", cells_of("dkd")
    ),
    "what dkd imports": ("methods/_binary.py", "dim=-1)\n", "dim=-1) * 1\n", cells_of("dkd")),
    "the objective": ("objective.py", "self.ce_weight * ce,", "1 * self.ce_weight * ce,", all_runs()),
    "the augmentation": ("data/augment.py", "draws[:, 2] < 0.5", "draws[:, 2] < 0.4", all_runs()),
    "the order of images": ("data/augment.py", ".permutation(count)", ".permutation(count)[::-1]", all_runs()),
    "the order of a dataclass's fields": (
        "data/augment.py", "    top: Tensor\n", "    left: Tensor\n    top: Tensor\n", all_runs()
    ),
    "what cells side by side share": (
        "training/lockstep.py", "batch.position != self.position", "self.position is None", all_runs()
    ),
    "a check that acts": (
        "training/loop.py", "    if teacher is not None:\n",
        "    if [0].pop():\n        raise ValueError(device)\n    if teacher is not None:\n", all_runs(),
    ),
    "a check whose error is caught": (
        "training/folding.py", "import torch\n",
        "import torch\n\ntry:\n    if torch.__name__:\n        raise ValueError\nexcept ValueError:\n    X = 1\n",
        all_runs(),
    ),
    "sgd": ("training/optimizers.py", "dampening=0.0", "dampening=0.1", all_runs()),
    "the schedule": ("training/optimizers.py", "epoch > milestone", "epoch >= milestone", all_runs()),
    "a network": (
        "networks/wide_resnet.py", "nn.init.zeros_(self.fc.bias)", "nn.init.ones_(self.fc.bias)",
        {name for name in all_runs() if "wrn" in name},
    ),
    "a changed member of a family": (
        "networks/resnet.py", '"resnet8": {"depth": 8}', '"resnet8": {"depth": 14}',
        {name for name in all_runs() if "resnet8" in name},
    ),
}  # fmt: skip


class TestEdits:
    @pytest.mark.parametrize("edited", EDITS)
    def test_only_code_that_can_change_a_number_makes_cells_stale(self, sources, edited):
        file, old, new, stale = EDITS[edited]
        edit(sources / "kdcore" / file, old, new)
        assert changed(shipped(), cards(sources)) & all_runs() == stale

    def test_teacher_of_the_student_trained_alone(self, sources):
        edit(sources / "kdcore/networks/resnet.py", '"resnet20": {"depth": 20}', '"resnet20": {"depth": 26}')
        assert "baseline/resnet20-resnet8-vanilla-base-0" not in changed(shipped(), cards(sources))

    def test_new_method(self, sources):
        (sources / "kdcore/methods/new.py").write_text('KIND = "logit"\nPARAMETERS = {}\n')
        assert changed(shipped(), cards(sources)) == set()

    @pytest.mark.parametrize("file", ["results/tables", "results/published", "system/files"])
    def test_tables(self, sources, file):
        with (sources / f"kdcore/{file}.py").open("a") as stream:
            stream.write("\nX = 1\n")
        assert changed(shipped(), cards(sources)) == {"tables"}

    def test_evaluation(self, sources):
        edit(sources / "kdcore/results/evaluation.py", "CALIBRATION_BINS = 15", "CALIBRATION_BINS = 10")
        assert changed(shipped(), cards(sources)) == EVALUATED

    @pytest.mark.parametrize("package", ["matrix", "fetch", "sweep", "library"])
    def test_packages_that_determine_no_result(self, sources, package):
        for file in (sources / "kdcore" / package).glob("*.py"):
            with file.open("a") as stream:
                stream.write("\nX = 1\n")
        assert changed(shipped(), cards(sources)) - {"tables"} == set()


class TestParams:
    def test_temperature_of_kd(self):
        after = cards(methods_config={"kd": {"temperature": 3}})
        assert changed(shipped(), after) == cells_of("kd") | {"tables"}

    def test_temperature_of_kd_for_one_pair(self):
        pair = "resnet20-resnet8"
        after = cards(methods_config={"kd": {"pairs": {pair: {"temperature": 3}}}})
        assert changed(shipped(), after) == {name for name in cells_of("kd") if pair in name} | {"tables"}

    def test_value_that_is_the_published_one_changes_nothing(self):
        assert changed(shipped(), cards(methods_config={"kd": {"ce_weight": 0.1}})) == set()

    @pytest.mark.parametrize("axis", [{"scales": [1, 2, 4]}, {"seeds": [0, 1]}, {"methods": ["kd", "dkd", "rld"]},
                                      {"baselines": ["vanilla"]}, {"stand": [True]}])  # fmt: skip
    def test_axes_only_add_and_remove(self, axis):
        before, after = shipped(), cards(**axis)
        assert changed(before, after) & before.keys() & after.keys() & all_runs() == set()
        assert before.keys() != after.keys()

    def test_new_pair(self):
        pairs = ["resnet20-resnet8", "wrn_16_2-wrn_16_1", "resnet20-wrn_16_1"]
        before, after = shipped(), cards(pairs=pairs)
        new = {name for name in after if "resnet20-wrn_16_1" in name and not name.startswith("sources/")}
        assert changed(before, after) - {"pairs", "tables"} == new

    def test_settings_of_one_teacher(self):
        listed = yamlfile.read(PARAMS)["teachers"]
        longer = {**listed["resnet20"], "train": {**listed["resnet20"]["train"], "epochs": 40}}
        assert changed(shipped(), cards(teachers={**listed, "resnet20": longer})) == {"teacher/resnet20", "tables"}

    @pytest.mark.parametrize("settings", [{"lr": 0.05}, {"epochs": 20}, {"batch_size": 32}, {"weight_decay": 0.001},
                                          {"precision": "bfloat16"}])  # fmt: skip
    def test_settings_of_students_change_no_teacher(self, settings):
        train = yamlfile.read(PARAMS)["train"]
        after = changed(shipped(), cards(train={**train, **settings}))
        assert after & all_runs() == {name for name in all_runs() if not name.startswith("teacher/")}

    @pytest.mark.slow
    def test_equal_numbers_are_one_card(self):
        """Whether a value is written 4 or 4.0."""
        train = yamlfile.read(PARAMS)["train"]
        whole = cards(methods_config={"kd": {"temperature": 3}}, train={**train, "momentum": 0, "lr": 1})
        point = cards(methods_config={"kd": {"temperature": 3.0}}, train={**train, "momentum": 0.0, "lr": 1.0})
        assert {name: yamlfile.text(card) for name, card in whole.items()} == {
            name: yamlfile.text(card) for name, card in point.items()
        }

    @pytest.mark.parametrize("overrides", [{"stand": {}}, {"pairs": {"resnet20-resnet8": {"stand": {}}}}])
    def test_matched_stand_takes_no_values(self, overrides):
        with pytest.raises(UserError, match=r"stand: stand_recipe matched changes the z-score alone"):
            cards(methods_config={"kd": overrides}, stand_recipe="matched")

    def test_threads(self):
        """They are in the cards of all that trains or measures, except where torch decides."""
        train = {**yamlfile.read(PARAMS)["train"], "threads": 3}
        teachers = {"resnet20": {"source": "published", "otherwise": "train", "train": SHORT}, "wrn_16_2": TRAINED}
        options = {"teachers": teachers, "data": CIFAR}
        made, auto = cards(train=train, **options), cards(train={**train, "threads": "auto"}, **options)
        del train["threads"]
        assert auto == cards(train=train, **options)
        for name, card in made.items():
            kind = name.split("/")[0]
            if kind in ("train", "baseline"):
                assert card["train"].pop("threads") == 3
            if kind == "evaluate" or name == "teacher/resnet20":
                assert card.pop("threads") == 3
        assert made == auto
        assert made["teacher/wrn_16_2"]["train"]["threads"] == SHORT["threads"]

    def test_what_the_schedule_does_not_use(self):
        train = {**yamlfile.read(PARAMS)["train"], "schedule": "cosine"}
        assert changed(cards(train=train), cards(train={**train, "milestones": [1]})) == set()

    def test_milestones_as_shares_of_the_epochs(self):
        """The same epochs, so nothing is trained again; with other epochs they move along, halves upwards."""
        train = yamlfile.read(PARAMS)["train"]
        teachers = {name: {"source": "train", "train": {**SHORT, "schedule": "step", "lr_decay": 0.1, "epochs": 240}}
                    for name in ("resnet20", "wrn_16_2")}  # fmt: skip

        def made(milestones, *, of_teachers, epochs=18, exceptions=()):
            settings = {**train, "epochs": epochs, "milestones": milestones, "exceptions": list(exceptions)}
            for teacher in teachers.values():
                teacher["train"]["milestones"] = of_teachers
            return cards(train=settings, teachers=teachers)

        whole = made([11, 14, 16], of_teachers=[150, 180, 210])
        assert changed(whole, made([11 / 18, 0.77, 0.89], of_teachers=[0.625, 0.75, 0.875])) == set()
        long = [{"methods": ["dkd"], "epochs": 60}, {"methods": ["kd"], "milestones": [0.5]}]
        other = made([0.625, 0.75, 0.875], of_teachers=[0.7], epochs=40, exceptions=long)
        of = {name: other[f"baseline/resnet20-resnet8-{name}-base-0"]["train"] for name in ("vanilla",)}
        of |= {name: other[f"train/resnet20-resnet8-{name}-1-False-base-0"]["train"] for name in ("kd", "dkd")}
        of["teacher"] = other["teacher/resnet20"]["train"]
        assert {name: settings["milestones"] for name, settings in of.items()} == {
            "vanilla": [25, 30, 35],
            "kd": [20],
            "dkd": [38, 45, 53],
            "teacher": [168],
        }

    def test_corrected_source_of_a_recipe_retrains_nothing(self):
        recipes = yamlfile.read(ROOT / "data/recipes.yaml")
        recipes["cifar100"]["methods"]["kd"]["default"]["source"] = "elsewhere"
        assert changed(shipped(), cards(recipes=recipes)) == {"tables"}


CIFAR = {"name": "cifar100", "source": "download"}


PUBLISHED = {
    "resnet56": {"source": "published"},
    "resnet20": {"source": "published", "otherwise": "train", "train": SHORT},
    "wrn_16_2": TRAINED,
}


class TestPublishedTeachers:
    """What makes a teacher stale that is listed in data/teachers.yaml."""

    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def made(root=ROOT):
            found = cards(root, teachers=PUBLISHED, data=CIFAR)
            return {name: card for name, card in found.items() if name.startswith("teacher/")}

        return made

    @pytest.mark.parametrize(("file", "stale"), [
        ("fetch/download", set()), ("fetch/archives", set()), ("training/adopt", set()), ("checkpoints", set()),
        ("matrix/listed_teachers", set()), ("objective", {"teacher/resnet20", "teacher/wrn_16_2"}),
    ])  # fmt: skip
    def test_code(self, sources, made, file, stale):
        with (sources / f"kdcore/{file}.py").open("a") as stream:
            stream.write("\nX = 1\n")
        assert changed(made(), made(sources)) == stale


class TestCheckpointTeachers:
    def test_checksum_is_recorded(self, tmp_path):
        (tmp_path / "resnet20.pth").write_bytes(b"weights")
        teachers = {"resnet20": {"source": str(tmp_path / "resnet20.pth")}, "wrn_16_2": TRAINED}
        before = cards(teachers=teachers, data=CIFAR)["teacher/resnet20"]
        (tmp_path / "resnet20.pth").write_bytes(b"others")
        after = cards(teachers=teachers, data=CIFAR)["teacher/resnet20"]
        assert (before["published_top1"], before["tolerance"]) == (69.06, 5.0)
        assert before["sha256"] != after["sha256"]

    def test_file_must_exist(self):
        teachers = {"resnet20": {"source": "nowhere.pth", "sha256": "0" * 64}, "wrn_16_2": TRAINED}
        with pytest.raises(UserError, match=r"teachers\.resnet20\.source: 'nowhere\.pth' cannot be read"):
            cards(teachers=teachers, data=CIFAR)

    def test_home(self, tmp_path, monkeypatch):
        """The card keeps what the user wrote, for on another machine home is elsewhere."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "resnet20.pth").write_bytes(b"weights")
        teachers = {"resnet20": {"source": "~/resnet20.pth"}, "wrn_16_2": TRAINED}
        card = cards(teachers=teachers)["teacher/resnet20"]
        assert card["source"] == "~/resnet20.pth"
        assert card["sha256"].startswith("9a129038")

    def test_checksum_must_be_of_the_file(self, tmp_path):
        (tmp_path / "resnet20.pth").write_bytes(b"weights")
        source = {"source": str(tmp_path / "resnet20.pth"), "sha256": "0" * 64}
        with pytest.raises(UserError, match=r"teachers\.resnet20\.sha256: .* has sha256 9a129038"):
            cards(teachers={"resnet20": source, "wrn_16_2": TRAINED}, data=CIFAR)

    def test_accuracy_may_be_unknown(self, tmp_path):
        (tmp_path / "resnet20.pth").write_bytes(b"weights")
        source = str(tmp_path / "resnet20.pth")
        card = cards(teachers={"resnet20": {"source": source}, "wrn_16_2": TRAINED})["teacher/resnet20"]
        assert "published_top1" not in card
        assert card["tolerance"] == TEACHERS["tolerance"]

    def test_what_says_how_a_checkpoint_is_read(self, tmp_path):
        (tmp_path / "resnet20.pth").write_bytes(b"weights")
        plain = {"source": str(tmp_path / "resnet20.pth"), "published_top1": 90.0}
        reading = {"weights_key": "ema", "rename": {"linear": "fc"}, "mean": [0.5] * 3, "std": [0.25] * 3}
        before, after = (
            cards(teachers={"resnet20": teacher, "wrn_16_2": TRAINED})["teacher/resnet20"]
            for teacher in (plain, plain | reading)
        )
        assert after == {**before, **reading}


class TestNamedTeachers:
    """Several teachers of one network in one matrix."""

    SMOOTH = {**TRAINED, "network": "resnet20"}  # noqa: RUF012
    TEACHERS = {"resnet20": TRAINED, "resnet20_smooth": SMOOTH}  # noqa: RUF012
    PAIRS = ["resnet20-resnet8", "resnet20_smooth-resnet8"]  # noqa: RUF012

    @pytest.fixture
    def made(self):
        return cards(teachers=self.TEACHERS, pairs=self.PAIRS, data=CIFAR)

    def test_the_teacher_is_trained_as_its_network(self, made):
        plain, smooth = made["teacher/resnet20"], made["teacher/resnet20_smooth"]
        assert smooth == {**plain, "name": "resnet20_smooth"}

    def test_a_cell_differs_in_its_pair_alone(self, made):
        plain, smooth = (made[f"train/{pair}-kd-1-False-base-0"] for pair in self.PAIRS)
        assert smooth["teacher"] == plain["teacher"] == "resnet20"
        assert smooth == {**plain, "pair": self.PAIRS[1], "name": f"{self.PAIRS[1]}-kd-1-False-base-0"}

    def test_recipes_are_those_of_the_pair_of_networks(self):
        pairs, teachers = ["resnet56-resnet20", "mine-resnet20"], {"resnet56": TRAINED}
        teachers["mine"] = {**TRAINED, "network": "resnet56"}
        made = cards(teachers=teachers, pairs=pairs, methods=["dkd"], data=CIFAR)
        plain, mine = (made[f"train/{pair}-dkd-1-True-base-0"]["recipe"] for pair in pairs)
        assert plain == mine
        other = cards(teachers={"resnet110": TRAINED}, pairs=["resnet110-resnet20"], methods=["dkd"], data=CIFAR)
        assert other["train/resnet110-resnet20-dkd-1-True-base-0"]["recipe"] != mine

    def test_overrides_and_exceptions_name_the_pair_itself(self):
        overrides = {"kd": {"pairs": {"resnet20_smooth-resnet8": {"temperature": 7}}}}
        train = {**yamlfile.read("params.yaml")["train"], "exceptions": [{"pairs": self.PAIRS[1:], "lr": 0.5}]}
        made = cards(teachers=self.TEACHERS, pairs=self.PAIRS, data=CIFAR, methods_config=overrides, train=train)
        plain, smooth = (made[f"train/{pair}-kd-1-False-base-0"] for pair in self.PAIRS)
        assert (smooth["recipe"]["temperature"], smooth["train"]["lr"]) == (7, 0.5)
        assert plain["recipe"]["temperature"] != 7
        assert plain["train"]["lr"] != 0.5

    def test_evaluation_and_tables_know_the_network(self, made):
        assert made[f"evaluate/{self.PAIRS[1]}"]["teacher"] == "resnet20"
        assert "teacher" not in made[f"evaluate/{self.PAIRS[0]}"]
        assert made["tables"]["networks"] == {"resnet20_smooth": "resnet20"}
        assert "networks" not in cards(teachers={"resnet20": TRAINED}, pairs=self.PAIRS[:1])["tables"]


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "trained here, 36 epochs"),
    ({"per_class": 5}, "trained here, 36 epochs, 5 images of each class"),
    ({"share": 0.1, "label_noise": {"kind": "pairflip", "rate": 0.4, "seed": 3}},
     "trained here, 36 epochs, a share of 0.1 of the training images of each class, "
     "label noise (pairflip 0.4, seed 3)"),
    ({"augmentation": "none"}, "trained here, 36 epochs, without augmentation"),
])  # fmt: skip
def test_tables_say_how_a_teacher_was_trained(changes, said):
    teacher = {**TRAINED, "train": {**TRAINED["train"], "epochs": 36, **changes}}
    assert cards(teachers={"resnet20": teacher}, pairs=["resnet20-resnet8"])["tables"]["teachers"]["resnet20"] == said


def test_source_of_data_must_exist():
    with pytest.raises(UserError, match=r"data\.source: there is no /nowhere\. Allowed: download"):
        cards(data={"name": "cifar100", "source": "/nowhere"})


def test_the_code_that_determines_a_plain_kd_cell():
    """All of it: a reviewer sees here when more begins to count."""
    modules = closure("kdcore.training.lockstep") | closure("kdcore.methods.kd") | closure("kdcore.networks.resnet")
    assert {name.removeprefix("kdcore.") for name in modules} == {
        "kdcore", "methods", "networks", "data", "training",  # packages, which say where things are
        "methods.kd", "networks.resnet", "networks._residual", "networks._stem",
        "objective", "parts", "methods._schedule", "scales", "standardize", "numerics",
        "data.dataset", "data.subsets", "data.feed", "data.augment", "data.randaugment", "data.affine", "data.stream",
        "data.images", "data.mixing", "data.distort", "data.timm_randaugment",
        "data.interpolate", "data.views",
        "training.loop", "training.lockstep", "training.random", "training.optimizers", "training.device",
        "training.distributed", "training.descent", "training.adaptive", "training.ema",
        "training.inference", "training.teacher_outputs", "training.folding", "training.compiled",
    }  # fmt: skip


@pytest.mark.parametrize("package", ["data", "training"])
def test_packages_that_count_hold_nothing(package):
    """A constant in one of them would train every cell anew."""
    statements = ast.parse((ROOT / f"kdcore/{package}/__init__.py").read_text()).body
    assert [type(statement) for statement in statements] == [ast.Expr]  # the docstring


def test_closure_refuses_what_it_cannot_follow(sources):
    edit(sources / "kdcore/methods/kd.py", "import torch", "from . import _binary\nimport torch")
    with pytest.raises(UserError, match=r"kdcore/methods/kd\.py, line \d+: relative imports are not followed"):
        closure("kdcore.methods.kd", sources)
    edit(sources / "kdcore/methods/nkd.py", "import torch", "from importlib import import_module\nimport torch")
    with pytest.raises(UserError, match=r"kdcore/methods/nkd\.py, line \d+: code that is loaded by name is not follow"):
        closure("kdcore.methods.nkd", sources)


def test_own_modules_beside_the_package_count(sources):
    """A file or a package that a method of the user's own imports; its comments do not."""
    edit(sources / "kdcore/methods/kd.py", "def div", "from mylosses import weight\n\nX = weight(1)\n\ndef div")
    (sources / "mine/deep").mkdir(parents=True)
    helper = "import numpy\nimport mine.deep.parts as parts\n\ndef weight(x):\n    return parts.y * numpy.abs(x)\n"
    (sources / "mylosses.py").write_text(helper)
    (sources / "mine/deep/parts.py").write_text("y = 1\n")

    def now():
        return fingerprint("kdcore.methods.kd", root=sources)

    assert {"mylosses", "mine.deep.parts"} < closure("kdcore.methods.kd", sources)
    before = now()
    (sources / "mine/deep/parts.py").write_text("y = 1  # as it was\n")
    assert now() == before
    (sources / "mine/deep/parts.py").write_text("y = 2\n")
    after = now()
    assert after != before
    (sources / "mine/deep/__init__.py").write_text("import os\nos.environ['X'] = '1'\n")
    third = now()
    assert third not in (before, after)
    (sources / "mine/__init__.py").write_text(
        "from importlib import resources\nfrom .deep import parts as p\np.y = 3\n"
    )
    fourth = now()
    assert fourth != third
    (sources / "mine/other.py").write_text("z = 1\n")
    (sources / "mine/deep/parts.py").write_text("from ..other import z\nfrom ... import above\ny = z\n")
    assert "mine.other" in closure("kdcore.methods.kd", sources)
    assert now() != fourth
    (sources / "__init__.py").write_text("from . import nothing\n")
    assert "" not in closure("kdcore.methods.kd", sources)
    assert fingerprint("kdcore.methods.dkd", root=sources) == fingerprint("kdcore.methods.dkd")


def test_fingerprint_does_not_depend_on_the_folder(sources):
    assert fingerprint("kdcore.training.lockstep") == fingerprint("kdcore.training.lockstep", root=sources)


def test_fingerprint_is_the_same_in_every_python(tmp_path):
    (tmp_path / "kdcore").mkdir()
    (tmp_path / "kdcore/__init__.py").write_text("")
    source = 'from kdcore import other\n\ndef f(x: int, *a, y=1, **k) -> str:\n    return f"{x!r:>{y}} and {y}" "z"\n\n'
    (tmp_path / "kdcore/one.py").write_text(source + "class C(object, metaclass=type):\n    a: int = 1\n")
    (tmp_path / "kdcore/other.py").write_text('"""Text."""\nX = [i for i in (None, 1.5, b"c") if i]\n')
    assert fingerprint("kdcore.one", root=tmp_path) == "408cb49858c9fce8"


@pytest.mark.parametrize("source", ["data/pets", "data/pets/raw", "data", ".", "runs/x", "link", "linked"])
def test_sources_that_dvc_would_delete_are_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/pets/raw").mkdir(parents=True)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data/pets")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/train").symlink_to(tmp_path / "data/pets/raw")
    with pytest.raises(UserError, match=r"overlaps with (data/pets|runs|cards), which the pipeline writes"):
        cards(data={"name": "pets", "source": f"folder:{source}", "image_size": 16})


@pytest.mark.parametrize("source", ["teachers/resnet20/mine.pth", "runs/x/weights.safetensors", "data/digits/a.pth"])
def test_teachers_that_dvc_would_delete_are_refused(source):
    listed = yamlfile.read(PARAMS)["teachers"]
    teachers = {**listed, "resnet20": {"source": source, "published_top1": 50.0}}
    with pytest.raises(UserError, match=rf"teachers.resnet20.source: {source} overlaps with .*, which the pipeline"):
        cards(teachers=teachers)


def test_sources_beside_the_outputs_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/petimages").mkdir(parents=True)
    assert cards(data={"name": "pets", "source": "folder:data/petimages", "image_size": 16})["data"]["name"] == "pets"


def train(**changes):
    return {**yamlfile.read(PARAMS)["train"], **changes}


def test_validation_is_in_the_cards_that_it_changes():
    """In those of networks that are trained here and of what is measured, not in that of the stored data set."""
    section = {**yamlfile.read(PARAMS)["data"], "validation": 0.25}
    listed = yamlfile.read(PARAMS)["teachers"]
    teachers = {**listed, "wrn_16_2": {"source": "params.yaml", "published_top1": 50.0}}
    before, made = cards(teachers=teachers), cards(teachers=teachers, data=section)
    with_it = {name for name in made if name.split("/")[0] in ("train", "baseline", "evaluate", "tables")}
    assert {name for name, card in made.items() if card.get("validation") == 0.25} == {*with_it, "teacher/resnet20"}
    for name, card in made.items():
        assert {key: value for key, value in card.items() if key != "validation"} == before[name]
    assert cards(data={**section, "validation": None}) == shipped()


def test_a_published_teacher_that_may_be_trained_here_has_it_too():
    section = {**yamlfile.read(PARAMS)["data"], "validation": 0.25}
    listed = yamlfile.read(PARAMS)["teachers"]
    teachers = {**listed, "wrn_16_2": {"source": "published", "otherwise": "train", "train": SHORT}}
    known = {"tolerance": 1.0, "teachers": {"digits": {"wrn_16_2": {"published_top1": 50.0, "sources": []}}}}
    matrix = params.Params.model_validate({**yamlfile.read(PARAMS), "teachers": teachers, "data": section})
    made = make_cards(matrix, published_recipes=RECIPES, known_teachers=known)
    assert made["teacher/wrn_16_2"]["validation"] == 0.25


NOISE = {"kind": "symmetric", "rate": 0.4, "seed": 0}
REGIMES = [{"share": 0.5}, {"long_tail": 10}, {"label_noise": NOISE}]


@pytest.mark.parametrize(("setting", "default"), [({"per_class": 5}, None), ({"augmentation": "none"}, "standard"),
                                                  *((regime, None) for regime in REGIMES)])  # fmt: skip
def test_settings_of_training_images_are_in_cards_where_they_are_set(setting, default):
    ((key, value),) = setting.items()
    made = cards(train=train(**setting))
    cells = {name for name in made if name.startswith(("train/", "baseline/"))}
    assert {name for name, card in made.items() if card.get("train", {}).get(key) == value} == cells
    assert made["tables"][key] == value
    assert changed(shipped(), made) == cells | {"tables"}
    assert cards(train=train(**{key: default})) == shipped()
    exceptions = [{"students": ["wrn_16_1"], **setting}]
    some = {name for name in cells if shipped()[name]["student"] == "wrn_16_1"}
    assert changed(shipped(), cards(train=train(exceptions=exceptions))) == some | {"tables"}
    teachers = yamlfile.read(PARAMS)["teachers"]
    teachers["resnet20"] = {"source": "train", "train": {**teachers["resnet20"]["train"], **setting}}
    assert "teacher/resnet20" in changed(shipped(), cards(teachers=teachers))


@pytest.mark.parametrize("regime", REGIMES)
def test_the_code_of_a_regime_counts_only_where_there_is_one(regime):
    """Cells without one, and teachers, keep their fingerprints whatever becomes of it."""
    made = cards(train=train(**regime))
    cells = {name for name in made if name.startswith(("train/", "baseline/"))}
    assert {name for name, card in made.items() if "images" in card.get("code", {})} == cells
    for name in cells:
        assert {key: value for key, value in made[name]["code"].items() if key != "images"} == shipped()[name]["code"]
    assert "kdcore.data.regimes" not in closure("kdcore.training.lockstep")
    teachers = yamlfile.read(PARAMS)["teachers"]
    teachers["resnet20"] = {"source": "train", "train": {**teachers["resnet20"]["train"], **regime}}
    of_teacher = cards(teachers=teachers)["teacher/resnet20"]["code"]
    assert of_teacher["images"] == made[next(iter(cells))]["code"]["images"]


@pytest.mark.parametrize("regime", REGIMES)
def test_a_variant_with_a_regime_has_cells_of_its_own_alone(regime):
    made = cards(variants={"base": {}, "other": {"train": regime}})
    new = {name for name in changed(shipped(), made) if name.startswith(("train/", "baseline/"))}
    assert new == {name for name in made if name.endswith("-other-0") and not name.startswith("sources/")}
    ((key, value),) = regime.items()
    assert {made[name]["train"].get(key) == value for name in new} == {True}
    assert made["tables"]["settings"] == {key: None}


def test_noise_with_the_seed_that_it_has_anyway_is_the_same():
    short = {key: value for key, value in NOISE.items() if key != "seed"}
    assert cards(train=train(label_noise=short)) == cards(train=train(label_noise=NOISE))


def test_tables_know_the_exceptions_that_a_cell_has():
    """Of others they would say that cells were trained so."""
    exceptions = [{"methods": ["mlkd"], "lr": 0.5}, {"methods": ["kd"], "lr": 0.7}]
    settings = {"train": train(exceptions=exceptions), "methods": ["kd", "dkd"]}
    assert cards(**settings)["tables"]["exceptions"] == exceptions[1:]
    assert cards(**settings, exclude=[{"methods": ["kd"]}])["tables"]["exceptions"] == []


def test_exceptions_reach_the_cards_of_cells_alone():
    content = yamlfile.read(PARAMS)
    exceptions = [{"students": ["resnet20", "wrn_16_1"], "lr": 0.5}, {"methods": ["kd"], "grad_clip_norm": 40.0}]
    made = cards(train={**content["train"], "exceptions": exceptions})
    for name, card in made.items():
        if name.startswith("teacher/"):
            assert card["train"]["lr"] == content["teachers"]["resnet20"]["train"]["lr"]
        if name.startswith(("train/", "baseline/")):
            assert card["train"]["lr"] == (0.5 if card["student"] == "wrn_16_1" else content["train"]["lr"])
            assert card["train"].get("grad_clip_norm") == (40.0 if card["method"] == "kd" else None)
            assert "exceptions" not in card["train"]
