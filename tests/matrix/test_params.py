"""params.yaml: what is accepted, and what a person is told otherwise."""

import pytest

from kdcore.catalog import levels
from kdcore.matrix import params
from kdcore.matrix.cards import resolve_recipes
from kdcore.matrix.cell import Cell
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT, SHORT, TRAINED


@pytest.fixture
def load(tmp_path):
    """Load the default params with some values replaced; keys are dotted."""

    def load(changes=None, remove=()):
        content = yamlfile.read(PARAMS)
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        for key in remove:
            del content[key]
        yamlfile.write(tmp_path / "params.yaml", content)
        return params.load(tmp_path / "params.yaml")

    return load


def test_default_is_valid_and_expands_to_the_product(load):
    matrix = load()
    cells = list(matrix.cells())
    logit = len(matrix.pairs) * len(matrix.methods) * len(matrix.scales) * len(matrix.stand) * len(matrix.seeds)
    assert len(cells) == logit + len(matrix.pairs) * len(matrix.baselines) * len(matrix.seeds)
    assert len({cell.name for cell in cells}) == len(cells)
    assert cells[0].name == "resnet20-resnet8-kd-1-False-base-0"
    assert cells[-1].name == "wrn_16_2-wrn_16_1-at-base-0"


@pytest.mark.parametrize("scale", [1, 2, 4, "L2", "L4", "L1_4", "L2_4"])
def test_scales(load, scale):
    assert load({"scales": [scale]}).scales == [scale]


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), ("L2", (2,)), ("L1_4", (1, 4))]
)
def test_levels(scale, expected):
    assert levels(scale) == expected


@pytest.mark.parametrize("scale", [0, 3, 8, -1, True, 1.0, None, "2", "L", "L3", "L4_1", "L1_1", "L1,2", "l2", "L01"])
def test_no_levels(scale):
    with pytest.raises(ValueError, match="is no scale"):
        levels(scale)


@pytest.mark.parametrize("teacher", [
    {**TRAINED, "train": {**SHORT, "epochs": 3}}, {"source": "published"}, {"source": "a.pth"},
    {"source": "published", "otherwise": "train", "train": SHORT}, {"source": "a.tar", "member": "b/c.pth"},
    {"source": "published", "sha256": "0" * 64, "published_top1": 70.0},
    {"source": "https://a.org/b.tar", "member": "c.pth", "sha256": "0" * 64},
])  # fmt: skip
def test_teachers(load, teacher):
    assert load({"teachers.resnet20": teacher}).teachers["resnet20"].model_dump(exclude_unset=True) == teacher


@pytest.mark.parametrize("threads", [1, 2, 1024, "auto"])
def test_threads(load, threads):
    assert load({"train.threads": threads}).train.threads == threads


BAD = [
    ({"pairs": ["resnet20"]}, "pairs[0]: 'resnet20' must be teacher-student with exactly one '-'"),
    ({"pairs": ["a-b-c"]}, "pairs[0]: 'a-b-c' must be teacher-student"),
    ({"pairs": ["resnet20-resnet9"]}, "pairs[0]: unknown network 'resnet9'. Did you mean resnet8?"),
    ({"pairs": ["a;rm x-resnet8"]}, "unknown network or teacher 'a;rm x'"),
    ({"pairs": ["resnet56-resnet8"]}, "needs the teacher resnet56, which teachers does not list"),
    ({"pairs": []}, "pairs: is empty"),
    (
        {"methods": ["kd", "ddk"]},
        "methods[1]: unknown method 'ddk'. Did you mean dkd? Allowed: clkd, crld, ctkd, dist, dkd",
    ),
    ({"methods": ["at"]}, "methods[0]: 'at' is no logit method and takes no scales and no stand; name it in baselines"),
    ({"methods": ["at+sp"]}, "methods[0]: 'at+sp' is no logit method"),
    ({"methods": ["vanilla"]}, "methods[0]: 'vanilla' is no logit method"),
    ({"methods": ["kd+crd"]}, "methods[0]: 'kd+crd' must be written crd+kd"),
    ({"methods": ["kd+dkd"]}, "methods[0]: 'kd+dkd' must be written dkd+kd"),
    ({"methods": ["kd+kd"]}, "methods[0]: 'kd+kd' must be written kd: feature methods first, each method once"),
    ({"methods": ["crd+kdd"]}, "methods[0]: unknown method in 'crd+kdd': 'kdd'. Did you mean kd?"),
    ({"methods": ["crd+"]}, "methods[0]: unknown method in 'crd+': ''"),
    ({"methods": ["DKD"]}, "methods[0]: unknown method 'DKD'. Did you mean dkd?"),
    ({"methods": ["vanilla+kd"]}, "methods[0]: unknown method in 'vanilla+kd': 'vanilla'"),
    ({"methods": ["kd;rm"]}, "methods[0]: unknown method 'kd;rm'"),
    ({"methods": ["kd", "kd"]}, "methods: names kd more than once"),
    ({"methods": "kd"}, "methods: 'kd': must be a list; write methods: [kd] (-S 'methods=[kd]')"),
    ({"baselines": ["kd"]}, "baselines[0]: 'kd' is a logit method; name it in methods"),
    ({"baselines": ["crd+kd"]}, "baselines[0]: 'crd+kd' is a logit method; name it in methods"),
    ({"baselines": ["vanila"]}, "baselines[0]: unknown method 'vanila'. Did you mean vanilla?"),
    ({"baselines": []}, "baselines: is empty"),
    ({"scales": [1, 3]}, "scales[1]: 3 is no scale. Allowed: 1 for M=[1]"),
    ({"scales": ["L8"]}, "scales[0]: 'L8' is no scale"),
    ({"scales": [2, "L1_2"]}, "scales: 2 and 'L1_2' are the same set of levels"),
    ({"scales": [1, 1]}, "scales: names 1 more than once"),
    ({"scales": []}, "scales: is empty"),
    ({"scales": [True]}, "scales[0]"),
    ({"stand": [0]}, "stand[0]: 0: Input should be a valid boolean"),
    ({"stand": [True, True]}, "stand: names True more than once"),
    ({"seeds": [-1]}, "seeds[0]: -1: Input should be greater than or equal to 0"),
    ({"seeds": [0.5]}, "seeds[0]: 0.5"),
    ({"seeds": []}, "seeds: is empty"),
    ({"extra": 1}, "extra: unknown key"),
    ({"train.lrr": 1}, "train.lrr: unknown key"),
    ({"train.lr": float("nan")}, "train.lr: nan: Input should be a finite number"),
    ({"train.lr": float("inf")}, "train.lr: inf: Input should be a finite number"),
    ({"train.lr": 0}, "train.lr: 0: Input should be greater than 0"),
    ({"train.lr": "0.1"}, "train.lr: '0.1': Input should be a valid number"),
    ({"train.epochs": 0}, "train.epochs: 0"),
    ({"train.epochs": 2.5}, "train.epochs: 2.5"),
    ({"train.epochs": 5}, "train: milestones [11, 14, 16] must rise and stay below epochs (5)"),
    ({"train.milestones": []}, "train: schedule step needs milestones and lr_decay"),
    ({"train.schedule": "linear"}, "train.schedule: 'linear'"),
    ({"train.momentum": 1.0}, "train.momentum: 1.0"),
    (
        {"data.name": "cifar"},
        "data: 'cifar' is none of cifar100, cub200, digits, imagenet, stl10, tiny_imagenet; a data set of",
    ),
    ({"data": {"source": "folder:x"}}, "data.name: is missing"),
    (
        {"data": {"name": "cifar100", "source": "parquet:x"}},
        "data.source: 'parquet:x': a data set of this name takes the path alone, without parquet:",
    ),
    ({"data": {"name": "mine", "source": "folder:"}}, "needs source folder:<path> or parquet:<path>, not 'folder:'"),
    ({"data": {"name": "Mine-1", "source": "folder:x", "image_size": 32}}, "data.name: 'Mine-1'"),
    ({"data": {"name": "mine", "source": "folder:x"}}, "data.image_size: is missing"),
    ({"data": {"name": "imagenet", "source": "x", "image_size": 64}}, "data.image_size: unknown key"),
    ({"train.exceptions": [{"lr": 0.01}]}, "train.exceptions[0]: needs a selector, one or more of pairs"),
    (
        {"train.exceptions": [{"methods": ["kd"], "set": 1}]},
        "[0].set: unknown key; remove it or correct its name. It may be",
    ),
    (
        {"train.exceptions": [{"methods": ["kd"], "lrr": 1}]},
        "[0].lrr: unknown key; remove it or correct its name. Did you mean lr?",
    ),
    (
        {"train.augmentation": {"crp": "none"}},
        "augmentation.crp: unknown key; remove it or correct its name. Did you mean crop?",
    ),
    ({"data.agument": 1}, "data.agument: unknown key; remove it or correct its name. Did you mean augmentation?"),
    ({"train.exceptions": [{"methods": ["kd"]}]}, "train.exceptions[0]: needs a setting (epochs, "),
    ({"train.exceptions": [{"methods": ["kdd"], "lr": 1.0}]}, "train.exceptions[0].methods[0]: unknown method 'kdd'"),
    (
        {"train.exceptions": [{"students": ["resnet9"], "lr": 1.0}]},
        "exceptions[0].students[0]: unknown network 'resnet9'",
    ),
    (
        {"train.exceptions": [{"pairs": ["resnet8"], "lr": 1.0}]},
        "train.exceptions[0].pairs[0]: 'resnet8' must be teacher-student",
    ),
    (
        {"train.exceptions": [{"methods": ["kd"], "epochs": 9}]},
        "train.exceptions: of kd for resnet20-resnet8: milestones [11, 14, 16] must rise and stay below epochs (9)",
    ),
    ({"scales": [1.5]}, "scales[0]: 1.5 is no scale. Allowed: 1 for M=[1]"),
    ({"scales": [[1, 2]]}, "scales[0]: [1, 2] is no scale"),
    ({"scales": [None]}, "scales[0]: None is no scale"),
    ({"data.image_size": 17}, "data.image_size: 17: Input should be 16 or 32"),
    ({"data.train_per_class": 81}, "data.train_per_class: 81"),
    ({"train.batch_size": 1}, "train.batch_size: 1: Input should be greater than or equal to 2"),
    ({"train.batch_size": 10**30}, "train.batch_size: 1000000000000000000000000000000"),
    ({"train.optimizer": "adam"}, "train.optimizer: 'adam': Input should be 'sgd', 'dot', 'adamw' or 'lamb'"),
    ({"train.optimizer": "dot"}, "train: optimizer dot needs dot_delta; its paper has 0.075"),
    ({"train.dot_delta": 0.1}, "train: dot_delta is for optimizer dot"),
    ({"train.optimizer": "dot", "train.dot_delta": 0.2}, "dot needs momentum ± dot_delta (0.9 ± 0.2) within 0 and 1"),
    (
        {"train.optimizer": "dot", "train.dot_delta": 0.05, "train.nesterov": True},
        "train: optimizer dot has no nesterov; set nesterov: false",
    ),
    ({"train.momentum": 0, "train.nesterov": True}, "train: nesterov needs a momentum above 0"),
    ({"teachers": {"resnet21": TRAINED}}, "teachers.resnet21: unknown network 'resnet21'"),
    ({"teachers.resnet20": {"source": "https://a.org/b.pth"}}, "is an address and needs the file's sha256"),
    ({"teachers.resnet20": {"source": "ftp://a.org/b.pth"}}, "only http and https addresses"),
    ({"teachers.resnet20": {"source": "http://[bad/x.pth", "sha256": "0" * 64}}, "names no host, or an impossible one"),
    (
        {"teachers.resnet20": {"source": "train", "sha256": "0" * 64}},
        "source train takes no sha256: that is for checkpoints",
    ),
    ({"teachers.resnet20": {"source": "train", "member": "a"}}, "source train takes no member"),
    ({"teachers.resnet20": {**TRAINED, "mean": [0.5] * 3, "std": [0.5] * 3}}, "source train takes no mean, std"),
    ({"teachers.resnet20": {"source": "a.pth", "mean": [0.5] * 3}}, "mean and std belong together"),
    (
        {"teachers.resnet20": {"source": "a.pth", "mean": [0.5], "std": [0.5] * 3}},
        "teachers.resnet20.mean: [0.5]: must be three numbers from",
    ),
    (
        {"teachers.resnet20": {"source": "a.pth", "mean": [0] * 3, "std": [0] * 3}},
        "teachers.resnet20.std: [0, 0, 0]: must be three numbers",
    ),
    ({"teachers.resnet20": {"source": "a.pth", "rename": {"a": 1}}}, "teachers.resnet20.rename.a: 1"),
    ({"teachers.resnet20": {"source": "a.pth", "weights_key": ""}}, "teachers.resnet20.weights_key: ''"),
    ({"teachers": {"resnet20": {**TRAINED, "network": "resnet56"}}}, "resnet20 is a network itself; give the teacher"),
    ({"teachers": {"mine": {**TRAINED, "network": "resnet21"}}}, "teachers.mine.network: unknown network 'resnet21'"),
    ({"teachers": {"my-own": {**TRAINED, "network": "resnet20"}}}, "'my-own' must be a network, or a name of your own"),
    ({"teachers": {"m" * 65: {**TRAINED, "network": "resnet20"}}}, "at most 64 characters"),
    (
        {"train.exceptions": [{"methods": ["kd"], "schedule": "step", "milestones": [20]}]},
        "train.exceptions: of kd for resnet20-resnet8: milestones [20] must rise and stay below epochs (18)",
    ),
    ({"train.exceptions": [{"pairs": ["mine-resnet8"], "lr": 1.0}]}, "train.exceptions[0].pairs: unknown network or"),
    ({"teachers.resnet20": {"source": "published", "member": "a"}}, "source published knows its own"),
    (
        {"teachers.resnet20": {"source": "published", "train": SHORT}},
        "train is for source train and for otherwise: train",
    ),
    ({"teachers.resnet20": {"source": "a.pth", "train": SHORT}}, "train is for source train and for otherwise: train"),
    ({"teachers.resnet20": {"source": "train"}}, "is trained here and needs settings of its own"),
    ({"teachers.resnet20": {"source": "published", "otherwise": "train"}}, "needs settings of its own"),
    (
        {"teachers.resnet20": {"source": "train", "train": {**SHORT, "optimizer": "dot", "dot_delta": 0.05}}},
        "train.optimizer: a teacher is trained alone",
    ),
    ({"teachers.resnet20": {"source": "train", "train": {**SHORT, "lr": -1}}}, "teachers.resnet20.train.lr: -1"),
    (
        {"teachers.resnet20": {"source": "a.pth", "otherwise": "train"}},
        "otherwise is for source published, not for a.pth",
    ),
    (
        {"teachers.resnet20": {**TRAINED, "otherwise": "train"}},
        "otherwise is for source published, not for train",
    ),
    ({"teachers.resnet20": {"source": "published", "otherwise": "stop"}}, "teachers.resnet20.otherwise: 'stop'"),
    ({"teachers.resnet20": {"source": "https://a.org/b.tar", "member": "a"}}, "needs the file's sha256"),
    ({"data.validation": 0}, "data.validation: 0: Input should be greater than 0"),
    ({"data.validation": 1.0}, "data.validation: 1.0: Input should be less than 1"),
    ({"data.validation": "10%"}, "data.validation: '10%'"),
    ({"train.per_class": 0}, "train.per_class: 0: Input should be greater than or equal to 1"),
    ({"train.per_class": 2.5}, "train.per_class: 2.5"),
    ({"train.share": 0}, "train.share: 0: Input should be greater than 0"),
    ({"train.share": 1.0}, "train.share: 1.0: Input should be less than 1"),
    ({"train.share": 0.5, "train.per_class": 5}, "train: per_class: 5, share: 0.5: each says how many training images"),
    ({"train.long_tail": 100, "train.per_class": 5}, "train: per_class: 5, long_tail: 100: each says how many"),
    ({"train.long_tail": 100, "train.share": 0.5}, "train: share: 0.5, long_tail: 100: each says how many"),
    ({"train.long_tail": 0.01}, "train.long_tail: 0.01: Input should be greater than 1"),
    ({"train.long_tail": 1}, "train.long_tail: 1: Input should be greater than 1"),
    ({"train.label_noise": 0.4}, "train.label_noise: 0.4: must be keys and values (key: value)"),
    ({"train.label_noise": {"rate": 0.4}}, "train.label_noise.kind: is missing; give it a value"),
    ({"train.label_noise": {"kind": "symmetric"}}, "train.label_noise.rate: is missing; give it a value"),
    (
        {"train.label_noise": {"kind": "uniform", "rate": 0.4}},
        "train.label_noise.kind: 'uniform': Input should be 'symmetric' or 'pairflip'",
    ),
    ({"train.label_noise": {"kind": "symmetric", "rate": 0}}, "train.label_noise.rate: 0: Input should be greater"),
    ({"train.label_noise": {"kind": "symmetric", "rate": 1.0}}, "train.label_noise.rate: 1.0: Input should be less"),
    ({"train.label_noise": {"kind": "symmetric", "rate": 0.4, "seed": -1}}, "train.label_noise.seed: -1: Input should"),
    ({"train.label_noise": {"kind": "symmetric", "ratio": 0.4}}, "train.label_noise.ratio: unknown key; remove it or"),
    (
        {"train.label_noise": {"kind": "pairflip", "rate": 0.5}},
        "train.label_noise: rate 0.5: kind pairflip must stay below 0.5, or no more images of a class have its label",
    ),
    (
        {"variants": {"base": {}, "few": {"train": {"share": 1.5}}}},
        "variants.few.train.share: 1.5: Input should be less than 1",
    ),
    (
        {"variants": {"base": {}, "few": {"train": {"share": 0.5}}}, "train.per_class": 5},
        "variants.few.train.per_class: 5, share: 0.5: each says how many training images of a class are used; keep one",
    ),
    (
        {"train.exceptions": [{"methods": ["kd"], "label_noise": {"kind": "pairflip", "rate": 0.6}}]},
        "train.exceptions[0].label_noise: rate 0.6: kind pairflip must stay below 0.5",
    ),
    ({"train.augmentation": "strong"}, "train.augmentation: 'strong': Input should be 'standard' or 'none'"),
    (
        {"train.augmentation": "none", "methods": ["kd", "mlkd"]},
        "train.augmentation: none: method mlkd sees weak and strong views of each image, and the strong view is an",
    ),
    (
        {"train.exceptions": [{"methods": ["crd+mlkd"], "augmentation": "none"}], "methods": ["crd+mlkd"]},
        "train.augmentation: none: method mlkd sees",
    ),
    ({"train.threads": 0}, "train.threads: 0 must be auto, or a number of CPU threads from 1 to 1024"),
    ({"train.threads": 1025}, "train.threads: 1025 must be auto"),
    ({"train.threads": 2.0}, "train.threads: 2.0 must be auto"),
    ({"train.threads": True}, "train.threads: True must be auto"),
    ({"train.threads": "all"}, "train.threads: 'all' must be auto"),
    ({"train.threads": [1]}, "train.threads: [1] must be auto"),
    ({"stand_recipe": "none"}, "stand_recipe: 'none': Input should be 'paper' or 'matched'"),
    ({"tables.accuracy": "top5"}, "tables.accuracy: 'top5'"),
    ({"methods_config": {"kd": 4}}, "methods_config.kd: 4"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:50] for _, message in BAD])
def test_bad_values_are_explained(load, changes, message):
    with pytest.raises(UserError) as caught:
        load(changes)
    assert message in str(caught.value)


def test_a_method_with_a_strong_view_beside_others_without_augmentation(load):
    exceptions = [{"methods": ["mlkd"], "augmentation": "standard"}]
    matrix = load({"train.augmentation": "none", "methods": ["kd", "mlkd"], "train.exceptions": exceptions})
    settings = {cell.method: matrix.settings(cell) for cell in matrix.cells()}
    assert settings["kd"].augmentation == "none"
    assert settings["mlkd"].augmentation == "standard"


@pytest.mark.parametrize("key", ["pairs", "scales", "train", "data", "teachers", "stand_recipe", "tables"])
def test_no_key_has_a_silent_default(load, key):
    with pytest.raises(UserError, match=f"{key}: is missing"):
        load(remove=[key])


def test_every_problem_is_listed_at_once(load):
    with pytest.raises(UserError) as caught:
        load({"scales": [3], "methods": ["x"], "train.lr": -1})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(("content", "message"), [
    (b"a: 1\na: 2\n", 'line 2: is not valid YAML: found duplicate key "a"'),
    (b"a: [1\n", "is not valid YAML"),
    (b"\xff\xfe", "is not UTF-8"),
    (b"- 1\n", "must hold keys and values"),
    (b"", "must hold keys and values"),
    (b"[" * 5000, "is not valid YAML"),
    (b"!!python/object/apply:os.system [ls]", "is not valid YAML"),
])  # fmt: skip
def test_what_is_no_params_file(tmp_path, content, message):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "params.yaml")
    assert message in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        params.load(tmp_path / "params.yaml")


def test_numbers_as_dvc_reads_them(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 5e-4\nb: off\n")
    assert yamlfile.read(tmp_path / "x.yaml") == {"a": 5e-4, "b": "off"}


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    matrix = params.load(preset)
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    assert len(resolve_recipes(matrix, published)) == len(list(matrix.cells()))


def test_exceptions_of_training(load):
    exceptions = [
        {"methods": ["dkd"], "lr": 0.5, "epochs": 30},
        {"students": ["wrn_16_1"], "lr": 0.25},
        {"pairs": ["resnet20-resnet8"], "methods": ["at", "vanilla"], "batch_size": 8},
        {"students": ["wrn_16_1"], "methods": ["at"], "optimizer": "adamw", "schedule": "cosine"},
    ]
    train = load({"train.exceptions": exceptions}).train

    def settings(student, method, pair=None):
        of = train.of(Cell(pair or f"resnet56-{student}", method, 0), {})
        return of.lr, of.epochs, of.batch_size

    assert settings("resnet8", "kd", "resnet20-resnet8") == (0.02, 18, 16)
    assert settings("resnet8", "dkd", "resnet20-resnet8") == (0.5, 30, 16)
    assert settings("wrn_16_1", "dkd", "wrn_16_2-wrn_16_1") == (0.25, 30, 16)
    assert settings("resnet8", "at", "resnet20-resnet8") == (0.02, 18, 8)
    assert settings("resnet8", "vanilla") == (0.02, 18, 16)
    of_transformer = train.of(Cell("resnet56-wrn_16_1", "at", 0), {})
    assert (of_transformer.optimizer, of_transformer.schedule, of_transformer.lr) == ("adamw", "cosine", 0.25)
