"""Wrong params files, command lines, data and checkpoints: refused with exit code 2 and a message, nothing written."""

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix import cards
from kdcore.matrix.data_section import OWN, module
from kdcore.system import yamlfile
from kdcore.training import device
from stages import run
from tests.matrix.test_params import BAD
from tests.once import code
from tests.pictures import encoded, write_tree
from tests.project import PARAMS, ROOT, SHORT, TRAINED

LIMIT = 5.0
"""Seconds until a message."""
PAIR = "resnet20-resnet8"
CELL = f"{PAIR}-kd-1-False-base-0"
SCRIPTS = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
NAMED = ("diagnose", "evaluate", "robustness", "teacher", "transfer")
"""Scripts that want the name of a card."""
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project that is planned, with its data set and teachers: what wrong input might damage.

    Its lists of recipes and teachers are short, and its cards few, for they are read hundreds of times.
    """
    folder = tmp_path_factory.mktemp("template") / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copyfile(PARAMS, folder / "params.yaml")
    for name in ("data/published.yaml", "data/published_transfer.yaml", "presets/quick.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    recipes, teachers = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
    recipes["cifar100"]["methods"] = {
        name: recipes["cifar100"]["methods"][name] for name in ("kd", "dkd", "at", "vanilla")
    }
    yamlfile.write(folder / "data/recipes.yaml", {"cifar100": recipes["cifar100"]})
    yamlfile.write(
        folder / "data/teachers.yaml", {**teachers, "teachers": {"cifar100": teachers["teachers"]["cifar100"]}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        importlib.import_module("stages.plan").main()
    for card in (folder / "cards").glob("*/*.yaml"):
        if card.parent.name not in ("evaluate", "teacher") and card.stem not in (CELL, f"{PAIR}-at-base-0"):
            card.unlink()
    (folder / "data/digits").mkdir()
    storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=20), folder / "data/digits")
    for name in ("teachers/resnet20/weights", f"pairs/{PAIR}"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(networks.create("resnet20", 10), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    """A copy of it, where the test is."""
    folder = shutil.copytree(template, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cards, "Code", code)
    return folder


@pytest.fixture(autouse=True)
def threads_as_before():
    """Stages set how many their process uses."""
    yield
    device.use_threads(None)


def tree(folder):
    """Every path below a folder, with what is there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            content = os.readlink(path)
        else:
            content = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
        found[str(path.relative_to(folder))] = content
    return found


@pytest.fixture
def refused(project, monkeypatch, capsys):
    """Run a stage's script in this process, as `python -m stages.<command>` would; returns its message."""

    def refused(name, *arguments):
        main = importlib.import_module(f"stages.{name}").main
        before = tree(project)
        monkeypatch.setattr(sys, "argv", [f"stages.{name}", *arguments])
        capsys.readouterr()
        began = time.process_time()
        with pytest.raises(SystemExit) as ended:
            run(main)
        seconds = time.process_time() - began
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert seconds < LIMIT
        assert "Traceback" not in said
        assert said.startswith(("error: ", "usage: ")), said
        assert tree(project) == before
        return said

    return refused


def given(**changes):
    """params.yaml with other values; "__" stands for the dot of a key."""

    def change(folder):
        content = yamlfile.read(folder / "params.yaml")
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        yamlfile.write(folder / "params.yaml", content)

    return change


def written(content, name="params.yaml"):
    """A file of these bytes or this text."""

    def change(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def replaced(make, name="params.yaml"):
    """What stands at a path made anew."""

    def change(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return change


def missing(name):
    return replaced(lambda path: None, name)


def link(target):
    """To what is there, and cannot be read: the first bytes of a process's memory, a device, itself."""
    return lambda path: path.symlink_to(target)


def nothing(folder):
    pass


UNREADABLE = link("/proc/self/mem")
"""A file, of which even root cannot read the beginning."""


# (what is done to the project, what is said) - of params.yaml, which stage plan reads.
FILES = [
    (missing("params.yaml"), "cannot be read (No such file or directory)"),
    (replaced(os.mkdir), "cannot be read (it is a folder, a pipe or a device); name a file"),
    (replaced(os.mkfifo), "cannot be read (it is a folder, a pipe or a device); name a file"),
    (replaced(link("/dev/zero")), "cannot be read (it is a folder, a pipe or a device); name a file"),
    (replaced(UNREADABLE), "cannot be read (Input/output error)"),
    (replaced(link("params.yaml")), "cannot be read (Too many levels of symbolic links)"),
    (replaced(link("nowhere.yaml")), "cannot be read (No such file or directory)"),
    (written(b""), "must hold keys and values (key: value), not nothing"),
    (written(b"# nothing but a comment\n"), "must hold keys and values (key: value), not nothing"),
    (written(b"- pairs\n- methods\n"), "must hold keys and values (key: value), not a list"),
    (written(b"pairs"), "must hold keys and values (key: value), not text"),
    (written(b"2001-01-01"), "must hold keys and values (key: value), not a date"),
    (written("seeds: [0]\nnäme: 1\n".encode("latin-1")), "is not UTF-8 text (byte 12); save it as UTF-8"),
    (written("seeds: [0]\n".encode("utf-16")), "is not UTF-8 text (byte 0); save it as UTF-8"),
    (written(b"seeds: [0]\x00\n"), "is not valid YAML: character 11 is 0x00; remove it"),
    (written(b"seeds: [0]\x1b[2J\n"), "is not valid YAML: character 11 is 0x1b; remove it"),
    (written(b"train:\n\tlr: 0.1\n"), "line 2: is not valid YAML: found character that"),
    (written(b"train:\n  lr: 0.1\n  lr: 0.2\n"), 'line 3: is not valid YAML: found duplicate key "lr"'),
    (written(b"seeds: [0]\n---\nseeds: [1]\n"), "line 2: is not valid YAML: but found another document"),
    (written(b"seeds: *all\n"), "line 1: is not valid YAML: found undefined alias"),
    (written(b"seeds: &all [0, *all]\n"), "line 1: is not valid YAML: the alias *"),
    (written(b"a: &a {b: {<<: *a}}\n"), "line 1: is not valid YAML: the alias *"),
    (written(LAUGHS), "line 2: is not valid YAML: the alias *a0"),
    (written(MERGES), "line 2: is not valid YAML: the alias *a0"),
    (written("[" * 60_000), "line 1: is not valid YAML: more than 100 lists and mappings inside each other"),
    (written("a: " + "{a: " * 10_000), "line 1: is not valid YAML: more than 100 lists and mappings inside each other"),
    (written("".join(f"{' ' * i}a:\n" for i in range(100))), "a: unknown key; remove it or correct its name"),
    (written("? " * 30_000), "more than 100 lists and mappings inside each other"),
    (written("- " * 30_000), "more than 100 lists and mappings inside each other"),
    (written(f"seeds: [0]\nname: {'x' * 10**7}\n"), "has 10,000,018 bytes; at most 65,536 are allowed"),
    (written(f"seeds: [{'0, ' * 10_000}0]\n"), "line 1: is not valid YAML: more than 5,000 values"),
    (written(f"seeds: [{'9' * 5000}]\n"), "line 1: is not valid YAML: a number of 5,000 characters; 1,000 are allowed"),
    (written(f"seeds: [0x{'f' * 5000}]\n"), "line 1: is not valid YAML: a number of 5,002 characters; 1,000 are allow"),
    (written(b"seeds:\n- 2001-13-45\n"), "line 2: is not valid YAML: '2001-13-45' is no timestamp (month must be in 1"),
    (written(b"seeds: !!int ''\n"), "line 1: is not valid YAML: '' is no int"),
    (written(b"stand: [!!bool perhaps]\n"), "line 1: is not valid YAML: 'perhaps' is no bool"),
    (written(b"!!python/object/apply:os.system ['touch ran']"), "could not determine a constructor for the tag"),
    (written(b"a: !!python/name:os.system ''\n"), "could not determine a constructor for the tag"),
    (written(b"%YAML 9.9\n---\nseeds: [0]\n"), "line 1: is not valid YAML: found incompatible YAML document"),
    (written(b"seeds: [0\n"), "is not valid YAML: did not find expected ',' or ']'"),
    (written(b"seeds: '0\n"), "is not valid YAML: found unexpected end of stream"),
    (written(b"seeds: [0]]\n"), "line 1: is not valid YAML: did not find expected key"),
    (written(b"? {a: 1}\n: 2\n"), "line 1: is not valid YAML: found unhashable key"),
    (written(b"pairs:\n  ? [[a]]\n  : 2\n"), "line 2: is not valid YAML: found unhashable key"),
    (written(b"1: 2\n"), "pairs: is missing; give it a value"),
]  # fmt: skip

FIGURE = "{teacher: a, student: b, method: kd, top1: 70.0, source: s}"


def figures(*records, sources="s: {title: T, file: F, protocol: P}"):
    """A data/published.yaml of these."""
    listed = "".join(f"- {record}\n" for record in records)
    return written(f"sources: {{{sources}}}\ndigits:\n{listed}", "data/published.yaml")


def figure(old, new):
    """A data/published.yaml whose one figure is wrong there."""
    assert old in FIGURE
    return figures(FIGURE.replace(old, new))


# (what is done to the project, what is said) - of data/published.yaml.
PUBLISHED = [
    (missing("data/published.yaml"), ": cannot be read (No such file or directory)"),
    (written("digits: []", "data/published.yaml"), ": sources: is missing; give it a value"),
    (written("sources: []\n", "data/published.yaml"), ": sources: []: must be keys and values (key: value)"),
    (written("sources: {}\ndigits: abc\n", "data/published.yaml"), ": digits: 'abc': must be a list; write [abc]"),
    (written("sources: {}\ncifar100: [1]\n", "data/published.yaml"), ": cifar100: [0]: 1: must be keys and values"),
    (figures(FIGURE, sources="s: {title: T, file: F}"), ": sources.s.protocol: is missing; give it a value"),
    (figures(FIGURE, sources="s: {file: F, protocol: P}"), ": sources.s.title: is missing; give it a value"),
    (figures(FIGURE, sources="s: {title: T, file: F, protocol: P, run: 4}"), ": sources.s.run: unknown key; remove it"),
    (figures(FIGURE, sources="s: {title: T, file: F, protocol: P, runs: 0}"), ": sources.s.runs: 0: Input should be"),
    (figures("{teacher: a}"), ": digits: [0].student: is missing; give it a value"),
    (figure("70.0", "high"), ": digits: [0].top1: 'high': Input should be a valid number"),
    (figure("70.0", ".nan"), ": digits: [0].top1: nan: Input should be "),
    (figure("70.0", "100.5"), ": digits: [0].top1: 100.5: Input should be less than or equal to 100"),
    (figure("70.0", "-1.0"), ": digits: [0].top1: -1.0: Input should be greater than or equal to 0"),
    (figure("method: kd", "method: kd, level: [1]"), ": digits: [0].level: unknown key; remove it or correct its name"),
    (figure("method: kd", "method: kd, levels: 1"), ": digits: [0].levels: 1: must be a list; write levels: [1]"),
    (figure("method: kd", "method: kd, optimizer: adam"), ": digits: [0].optimizer: 'adam': Input should be 'sgd' or"),
    (figure("source: s", "source: t"), ": digits: [0].source: 't' is not among the sources (s); add it there"),
    (figures(FIGURE, FIGURE.replace("70.0", "71.0")), ": digits: [0] and [1] are of one experiment (a, b, kd); keep"),
]  # fmt: skip

HUGE = 10**400
MANY = {
    "pairs": [f"resnet20-{student}" for student in ("resnet8", "resnet14", "resnet20", "resnet32", "vgg8")],
    "seeds": list(range(1000)),
    "methods": ["kd", "dkd", "nkd", "rld", "mlkd"],
    "scales": [1, 2, 4, "L2", "L4", "L1_4", "L2_4"],
}
# (values of params.yaml, what is said)
VALUES = [
    ({"train__lr": HUGE}, "train.lr: 1000"),
    ({"train__lr": -HUGE}, "train.lr: -1000"),
    ({"train__epochs": HUGE}, "train.epochs: 1000"),
    ({"train__weight_decay": -0.1}, "train.weight_decay: -0.1: Input should be greater than or equal to 0"),
    ({"train__momentum": float("nan")}, "train.momentum: nan: Input should be a finite number"),
    ({"train__milestones": [HUGE]}, "train.milestones[0]: 1000"),
    *[({"train__milestones": [milestone]}, f"train.milestones[0]: {milestone!r} must be an epoch from 1 to 1,000,000, "
                                           "or a share of the epochs above 0 and below 1")
      for milestone in (0, -1, 1.0, 1.5, -0.5, 0.0, True, "9", None, float("nan"), float("inf"))],
    ({"train__milestones": [0.5, 14]}, "train: milestones [0.5, 14] must be all epochs, or all shares of the epochs"),
    ({"train__milestones": [0.01, 0.5]}, "milestones [0.01, 0.5] become epochs [0, 9], which must rise and stay"),
    ({"train__milestones": [0.5, 0.52]}, "milestones [0.5, 0.52] become epochs [9, 9], which must rise and stay"),
    ({"train__milestones": [0.5], "train__epochs": 1}, "(1); change them together, raise epochs, or use"),
    ({"train__milestones": [0.5, 0.99]}, "[9, 18], which must rise and stay below epochs (18); change them together"),
    ({"train__exceptions": [{"methods": ["kd"], "milestones": [0.5, 3]}]},
     "train.exceptions: of kd for resnet20-resnet8: milestones [0.5, 3] must be all epochs, or all shares"),
    ({"train__lr_decay": 0}, "train.lr_decay: 0: Input should be greater than 0"),
    ({"train__grad_clip_norm": float("inf")}, "train.grad_clip_norm: inf: Input should be a finite number"),
    ({"train__nesterov": "yes"}, "train.nesterov: 'yes': Input should be a valid boolean"),
    ({"train__precision": "float16"}, "train.precision: 'float16': Input should be 'auto', 'float32' or 'bfloat16'"),
    ({"train": []}, "train: []: must be keys and values (key: value)"),
    ({"train": None}, "train: None: must be keys and values (key: value); write {} for none"),
    ({"data": {"name": "my glyphs", "source": "folder:x", "image_size": 16}},
     "data.name: 'my glyphs': must be of lower-case letters, digits and _, a letter first"),
    ({"seeds": [HUGE]}, "seeds[0]: 1000"),
    ({"seeds": [2**31]}, "seeds[0]: 2147483648: Input should be less than 2147483648"),
    ({"seeds": [True]}, "seeds[0]: True"),
    ({"seeds": {"from": 0, "to": 3}}, "seeds: {'from': 0, 'to': 3}: must be a list ([a, b, ...])"),
    ({"stand": []}, "stand: is empty; an axis of the matrix needs at least one value"),
    *[({key: value}, f"{key.replace('__', '.')}: {value!r}: must be a list; write {key.rpartition('_')[2]}: [{text}] "
                     f"(-S '{key.replace('__', '.')}=[{text}]')")
      for key, value, text in (
        ("seeds", 5, "5"), ("methods", "kd", "kd"), ("methods", "kd, dkd", "kd, dkd"), ("scales", 4, "4"),
        ("pairs", PAIR, PAIR), ("stand", True, "true"), ("baselines", "at", "at"), ("train__milestones", 0.5, "0.5"))],
    ({"seeds": None}, "seeds: None: must be a list ([a, b, ...])"),
    ({"seeds": ""}, "seeds: '': must be a list ([a, b, ...])"),
    ({"methods": "x" * 100}, "must be a list ([a, b, ...])"),
    ({"methods": "a\nb"}, "must be a list ([a, b, ...])"),
    ({"train__exceptions": [{"students": "resnet8", "lr": 0.1}]},
     "train.exceptions[0].students: 'resnet8': must be a list; write students: [resnet8]\n"),
    ({"teachers__resnet20": {**TRAINED, "train": {**SHORT, "milestones": 3}}},
     "teachers.resnet20.train.milestones: 3: must be a list; write milestones: [3] (-S 'teachers.resnet20.train.mil"),
    ({"scales": ["2"]}, "scales[0]: '2' is no scale. Allowed: 1 for M=[1]"),
    ({"scales": [HUGE]}, "scales[0]: 1000"),
    ({"scales": [float("nan")]}, "scales[0]: nan is no scale"),
    (MANY, "5 pairs, 5 methods, 7 scales, 2 stand, 2 baselines, 1 variants, 1,000 seeds: pairs x methods x scales x "
           "stand x variants x seeds and pairs x baselines x variants x seeds make 360,000 cells; at most 100,000 are "
           "allowed; shorten an axis"),
    ({**MANY, "pairs": [f"{a}-{b}" for a in ("resnet20", "vgg13") for b in networks.names()[:20]], "seeds": [0]},
     "needs the teacher vgg13, which teachers does not list. Name another, or add for example"),
    ({"seeds": [-1] * 400}, "and 380 more"),
    ({"pairs": [f"A{i}-resnet8" for i in range(1600)]}, "and 1,580 more"),
    ({"pairs": ["a;rm -rf x"]}, "pairs[0]: unknown network or teacher 'a;rm '. Allowed: "),
    ({"pairs": ["a;touch ran-resnet8"]}, "pairs[0]: unknown network or teacher 'a;touch ran'. Allowed: "),
    ({"pairs": ["../x"]}, "pairs[0]: '../x' must be teacher-student with exactly one '-'"),
    ({"pairs": ["../x-resnet8"]}, "pairs[0]: unknown network or teacher '../x'. Allowed: "),
    ({"pairs": ["resnet20\n-resnet8"]}, r"pairs[0]: unknown network or teacher 'resnet20\n'. Did you mean resnet20?"),
    ({"pairs": ["resnet20-resnet8\n"]}, r"pairs[0]: unknown network 'resnet8\n'. Did you mean resnet8?"),
    ({"pairs": [" resnet20-resnet8"]}, "pairs[0]: unknown network or teacher ' resnet20'. Did you mean resnet20?"),
    ({"pairs": ["$(touch ran)-resnet8"]}, "pairs[0]: unknown network or teacher '$(touch ran)'"),
    ({"pairs": ["`touch ran`-resnet8"]}, "pairs[0]: unknown network or teacher '`touch ran`'"),
    ({"pairs": ["resnet20-resnet8 --help"]}, "pairs[0]: 'resnet20-resnet8 --help' must be teacher-student"),
    ({"pairs": ["\0-resnet8"]}, r"pairs[0]: unknown network or teacher '\x00'"),
    ({"pairs": ["x" * 5000]}, f"pairs[0]: '{'x' * 36}...{'x' * 19}' must be"),
    ({"pairs": [""]}, "pairs[0]: '' must be teacher-student"),
    ({"pairs": ["-"]}, "pairs[0]: unknown network or teacher ''"),
    ({"pairs": [None]}, "pairs[0]: None"),
    ({"pairs": [["resnet20", "resnet8"]]}, "pairs[0]: ['resnet20', 'resnet8']"),
    ({"pairs": [PAIR, PAIR]}, f"pairs: names {PAIR} more than once"),
    ({"methods": ["kd", "../kd"]}, "methods[1]: unknown method '../kd'. Allowed: clkd, crld"),
    ({"methods": ["kd\n"]}, r"methods[0]: unknown method 'kd\n'. Did you mean kd?"),
    ({"methods": ["kd+" * 1000 + "kd"]}, "methods[0]: 'kd+kd+kd+"),
    ({"teachers": {}}, "pairs: resnet20-resnet8 needs the teacher resnet20, which teachers does not list."),
    ({"teachers": {"../x": TRAINED}}, "teachers.../x: '../x' must be a network, or a name of your own"),
    ({"teachers__resnet20": {"source": ""}}, "teachers.resnet20.source: '': String should have at least 1 character"),
    ({"teachers__resnet20": {"source": "trian"}}, "'trian': there is no such file. Did you mean train?"),
    ({"teachers__resnet20": {"source": "a\0b.pth"}}, r"teachers.resnet20.source: 'a\x00b.pth' must be one line of"),
    ({"teachers__resnet20": {**TRAINED, "train": {**SHORT, "schedule": "step", "milestones": [9], "lr_decay": 0.1}}},
     "teachers.resnet20.train: milestones [9] must rise and stay below epochs (6)"),
    ({"teachers__resnet20": {"source": "nowhere.pth", "published_top1": 70.0}},
     "teachers.resnet20.source: 'nowhere.pth' cannot be read (No such file or directory). Allowed: train, published,"),
    ({"teachers__resnet20": {"source": "presets", "published_top1": 70.0}},
     "teachers.resnet20.source: 'presets' cannot be read (a folder, a pipe or a device). Allowed: train, published,"),
    ({"teachers__resnet20": {"source": "/dev/zero", "published_top1": 70.0}},
     "teachers.resnet20.source: '/dev/zero' cannot be read (a folder, a pipe or a device)"),
    ({"teachers__resnet20": {"source": "/proc/self/mem", "published_top1": 70.0}},
     "teachers.resnet20.source: '/proc/self/mem' cannot be read (Input/output error)"),
    ({"teachers__resnet20": {"source": f"{'x' * 300}.pth", "published_top1": 70.0}}, "cannot be read (File name too"),
    ({"teachers__resnet20": {"source": "params.yaml", "published_top1": 101.0}}, "teachers.resnet20.published_top1:"),
    ({"teachers__resnet20": {"source": "params.yaml", "published_top1": 0.7234}},
     "teachers.resnet20.published_top1: 0.7234: is in percent: write 72.34"),
    ({"teachers__resnet20": {"source": "params.yaml", "published_top1": 1}}, "1: is in percent: write 100"),
    ({"teachers__resnet20": {"source": "params.yaml", "published_top1": 70.0, "sha256": "0" * 64}},
     "teachers.resnet20.sha256: params.yaml has sha256"),
    ({"teachers__resnet20": {"source": "a.pth", "sha256": "0" * 63}}, "teachers.resnet20.sha256: '0000"),
    ({"teachers__resnet20": {"source": "a.pth", "sha256": "0" * 64 + "\n"}}, "teachers.resnet20.sha256: '0000"),
    ({"teachers__resnet20": {"source": "published"}}, "teachers.resnet20.source: data/teachers.yaml lists no"),
    *[({"teachers__resnet20": {"source": f"{scheme}//a.org/b.pth", "sha256": "0" * 64}}, "only http and https")
      for scheme in ("ftp:", "file:", "FILE:", " http:", "HTTPS:", "data:", "ssh:", "s3:", "http+unix:")],
    *[({"teachers__resnet20": {"source": source, "published_top1": 70.0}}, f"source: {source!r} cannot be read")
      for source in ("file:/etc/passwd2", "data:text/plain,weights", "http:/a.org/b.pth")],
    ({"data": "digits"}, "data: 'digits': must be keys and values (key: value)"),
    ({"data__name": "../digits"}, "data: '../digits' is none of cifar100, cub200, digits, imagenet, stl10,"),
    *[({"data": {"name": name, "source": "folder:images", "image_size": 16}}, f"data.name: {name!r}: must be of")
      for name in ("../kdcore", "a;touch ran", "mine\n", "$(touch ran)", "", "-rf", "a/b", "ünïcode", "a b")],
    ({"data__image_size": HUGE}, "data.image_size: 1000"),
    ({"data__train_per_class": 0}, "data.train_per_class: 0: Input should be greater than or equal to 1"),
    ({"data": {"name": "a" * 65, "source": "folder:images", "image_size": 16}}, "String should have at most 64"),
    ({"data": {"name": "cifar100", "source": "nowhere"}}, "data.source: there is no nowhere. Allowed: download, or"),
    ({"data": {"name": "cifar100", "source": "~/cifar"}}, "data.source: there is no /"),
    ({"data": {"name": "cifar100", "source": "~no-such-user/x"}}, "there is no ~no-such-user/x (no user"),
    ({"data": {"name": "cifar100", "source": "a\0b"}}, r"data.source: 'a\x00b' must be one line of text"),
    ({"data": {"name": "cifar100", "source": "x" * 5000}}, "data.source: there is no 'xxx"),
    ({"data": {"name": "cifar100", "source": "x\ny"}}, r"data.source: 'x\ny' must be one line of text"),
    ({"data": {"name": "cifar100", "source": "runs"}}, "data.source: runs overlaps with runs, which the pipeline"),
    ({"data": {"name": "mine", "source": "folder:images", "image_size": 7}}, "data.image_size: 7: Input should be"),
    ({"data": {"name": "mine", "source": "folder:images", "image_size": 16, "test_share": 1.0}}, "data.test_share:"),
    ({"data": {"name": "mine", "source": "https://a.org/images", "image_size": 16}}, "needs source folder:<path> or"),
    ({"methods_config": {"kd": {"temperature": HUGE}}}, "methods_config.kd.temperature: 1000"),
    ({"methods_config": {"kd": {"temperature": float("nan")}}}, "methods_config.kd.temperature: nan must be a"),
    ({"methods_config": {"kd": {"temperature": float("inf")}}}, "methods_config.kd.temperature: inf must be a"),
    ({"methods_config": {"kd": {"temperature": "4"}}}, "methods_config.kd.temperature: '4' must be a number > 0"),
    ({"methods_config": {"kd": {"temprature": 4}}}, "methods_config.kd.temprature: unknown parameter. Did you mean"),
    ({"methods_config": {"kd": {1: 4}}}, "methods_config.kd[1]: 1: Input should be a valid string"),
    ({"methods_config": {"kd": {"a\nb": 4}}}, r"methods_config.kd.'a\nb': unknown parameter"),
    ({"methods_config": {"kdd": {}}}, "methods_config.kdd: unknown method 'kdd'. Did you mean kd?"),
    ({"methods_config": {"kd": {"pairs": [PAIR]}}}, f"methods_config.kd.pairs: ['{PAIR}'] must be keys and values"),
    ({"methods_config": {"kd": {"pairs": {"a;b": {}}}}}, "methods_config.kd.pairs.a;b: 'a;b' must be teacher-student"),
    ({"methods_config": {"kd": {"pairs": {PAIR: {"pairs": {}}}}}}, f"methods_config.kd.pairs.{PAIR}.pairs: unknown"),
    ({"methods_config": {"at": {"stand": {}}}}, "methods_config.at.stand: unknown parameter"),
    ({"methods_config": {"crd+kd": {"kd": 3}}}, "methods_config.crd+kd.kd: 3 must be keys and values"),
    ({"methods_config": {"crd+kd": {"kd.temperature": 3}}}, "methods_config.crd+kd.kd.temperature: unknown"),
    ({"methods_config": {"kd": {"stand": {}}}, "stand_recipe": "matched"}, "stand_recipe matched changes the z-score"),
    ({"methods_config": None}, "methods_config: None: must be keys and values (key: value)"),
    ({"methods_config": {1: {}}}, "methods_config[1]: 1: Input should be a valid string"),
    ({"tables": {"accuracy": ["top1"]}}, "tables.accuracy: ['top1']"),
    ({"x" * 500: 1}, "'xxx"),
    ({"a\nb": 1}, r"'a\nb': unknown key"),
    ({"train__exceptions": [{"methods": ["kd"], "lr": float("nan")}]}, "train.exceptions[0].lr: nan"),
    ({"train__exceptions": {"methods": ["kd"], "lr": 1.0}}, "train.exceptions: {"),
]  # fmt: skip


def own(source, **options):
    """The card of a data set of one's own."""
    return {"name": "mine", "source": source, "image_size": 16, "flip": True, **options}


def images(folder, *, classes=("cat", "dog"), train=2, test=2, size=(20, 20)):
    """Sound ones, to be spoiled."""
    write_tree(folder / "images/train", classes, train, size=size)
    write_tree(folder / "images/test", classes, test, size=size)


def spoiled(name, make):
    """Sound images, but for what is at one path."""

    def change(folder):
        images(folder)
        replaced(make, f"images/{name}")(folder)

    return change


def holding(content):
    return lambda path: path.write_bytes(content)


def emptied(path):
    path.mkdir(parents=True)


def parquet(labels, *, size=(32, 32), names=None, column="img", label="fine_label", test=None):
    """Parquet files with these labels, and the same or others for the test."""

    def change(folder):
        (folder / "files").mkdir()
        for split, found in (("train", labels), ("test", labels if test is None else test)):
            content = [{"bytes": encoded(0, 0, size)}] * len(found)
            table = pa.table(
                {column: pa.array(content, pa.struct({"bytes": pa.binary()})), label: pa.array(found, pa.int64())}
            )
            if names:
                of_label = {"info": {"features": {label: {"names": names}}}}
                table = table.replace_schema_metadata({"huggingface": json.dumps(of_label)})
            pyarrow.parquet.write_table(table, folder / f"files/{split}-0.parquet")

    return change


def numbered(*names):
    """Parquet files of these names, all with the same images."""

    def change(folder):
        parquet([0, 1])(folder)
        (folder / "files/test-0.parquet").unlink()
        content = (folder / "files/train-0.parquet").read_bytes()
        (folder / "files/train-0.parquet").unlink()
        for name in names:
            (folder / f"files/{name}.parquet").write_bytes(content)

    return change


def folds(folder):
    for start, name in enumerate(("fold1", "fold2")):
        write_tree(folder / "images" / name, ("cat", "dog"), 2, start=10 * start)


def drawn(path):
    """Black, of which only the transparency shows anything."""
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (5, 5, 15, 15))
    image.save(path)


def one_colour(folder):
    images(folder)
    for path in (folder / "images").rglob("*.jpg"):
        Image.new("RGB", (20, 20), (7, 7, 7)).save(path.with_suffix(".png"))
        path.unlink()


CIFAR = {"name": "cifar100", "source": "files"}
TINY_IMAGENET = {"name": "tiny_imagenet", "source": "tiny-imagenet-200", "subset": True}


def tiny_imagenet(folder):
    """Of images that are too large."""
    for split in ("train", "val"):
        write_tree(folder / "tiny-imagenet-200" / split, ("n1", "n2"), 1, size=(65, 65), suffix=".png")


# (section data of params.yaml, what is done to the project, what is said) - of the data, which stage data reads.
SOURCES = [
    (own("folder:images"), nothing, "data.source folder:images: images does not exist"),
    (own("folder:params.yaml"), nothing, "data.source folder:params.yaml: params.yaml is not a folder"),
    (own("folder:images"), lambda folder: (folder / "images").mkdir(), "images has no folders train and test or val"),
    (own("folder:images", test_share=0.5), lambda folder: (folder / "images").mkdir(), "images: holds no folders;"),
    (own("folder:images"), replaced(link("images"), "images"), "images does not exist"),
    (own("folder:images"), spoiled("train/\udcff", os.mkdir), "'\\udcff' names a class, and cannot be printed;"),
    (own("folder:images"), spoiled("train", emptied), "images/train: holds no folders; expected one folder of"),
    (own("folder:images"), spoiled("train/cat", emptied), "images/train/cat: holds no images (.bmp, .jpeg, .jpg, "),
    (own("folder:images"), spoiled("test/cow/cow.jpg", holding(encoded(0, 0))), "in one of them alone: ['cow']"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", holding(b"")), "cat_0.jpg: cannot be decoded (cannot"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", holding(PAGE)), "cat_0.jpg: cannot be decoded (cannot"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", holding(encoded(0, 0)[:-200])), "cat_0.jpg: cannot be"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", UNREADABLE), "cat_0.jpg: cannot be decoded ("),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", link("nowhere")), "is a link to nowhere, which is"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", os.mkfifo), "cat_0.jpg: is a pipe or a device; remove it"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", link("/dev/zero")), "cat_0.jpg: is a pipe or a device;"),
    (own("folder:images"), spoiled("train/cat/more", link("..")), "images/train/cat/more: is a link to a folder"),
    (own("folder:images", test_share=0.2), images, "data.test_share: images is split already, into train and test;"),
    (own("folder:images"), lambda folder: images(folder, classes=["cat"]), "images: holds one class, cat; at least"),
    (own("folder:images/train", test_share=0.9), images, "images/train/cat: of 2 images 2 would be kept for the test"),
    (own("parquet:files"), nothing, "data.source parquet:files: files does not exist"),
    (own("parquet:files"), lambda folder: (folder / "files").mkdir(), "files: has no train-*.parquet, neither there"),
    (own("parquet:files"), parquet([]), "files/train-0.parquet: holds no rows; get it anew"),
    (own("parquet:files"), parquet([0, 1], test=[]), "files/test-0.parquet: holds no rows; get it anew"),
    (own("parquet:files"), parquet([0, 5], names=["cat", "dog"]), "names 2 classes, labels 0 to 1, but has images"),
    (own("parquet:files"), parquet([-3, 1]), "labels must be 0 to 1, each in use; found [-3, 1] to 1"),
    (own("parquet:files"), parquet([0, 1], label="kind"), "train-0.parquet: has the columns img, kind; expected one"),
    (own("parquet:files"), written(PAGE, "files/train-0.parquet"), "train-0.parquet: is not a whole parquet file ("),
    (own("parquet:files"), numbered("train-00000-of-00002", "test-0"), "without train-00001-of-00002.parquet; get"),
    (own("parquet:files"), numbered("train", "train-0", "test-0"), "files: holds train-0.parquet, train.parquet,"),
    (own("parquet:files"), numbered("train_extra", "test-0"), "train_extra.parquet: the name of a split ends"),
    (own("parquet:files"), written(LFS, "files/train-0.parquet"), "train-0.parquet: is a Git LFS pointer, not"),
    (own("parquet:files", label_column="kind"), parquet([0, 1]), "data.label_column names 'kind', and must"),
    (own("folder:images"), spoiled("train/cat/cat_0.jpg", holding(LFS)), "cat_0.jpg: is a Git LFS pointer, not the"),
    (own("folder:images", test_share=0.5), folds, "images: fold1, fold2 hold no images themselves but folders of the"),
    (own("folder:images"), folds, "images has no folders train and test or val (docs/extending.md has other names for"),
    (own("folder:images"), spoiled("train/cat/x.png", drawn), "train/cat/x.png: is of one colour without its"),
    (own("folder:images"), one_colour, "all 4 training images are of one colour, (7, 7, 7), so they carry nothing; if"),
    (own("folder:images", scale_16bit=4095), images, "data.scale_16bit is set, but no training image has 16 bits;"),
    (own("folder:images"), images, "all 4 test images are training images too, so their accuracy would say nothing"),
    (CIFAR, numbered("train-00000-of-00002"), "files: holds 1 of 2 parts, without train-00001-of-00002.parquet; get"),
    (CIFAR, written(LFS, "files"), "data.source files: is a Git LFS pointer, not the file itself; run 'git lfs pull'"),
    (CIFAR, nothing, "data.source files: there is no such archive or folder"),
    (CIFAR, parquet(range(100), size=(8, 8)), "image 0 of train-0.parquet: is of (8, 8) pixels, not (32, 32)"),
    (CIFAR, parquet(range(100)), "the train split has 100 images in 100 classes; CIFAR-100 has 50000, the same"),
    (CIFAR, written(PAGE, "files"), "data.source files: has sha256 "),
    (CIFAR, replaced(os.mkfifo, "files"), "data.source files: cannot be read (a folder, a pipe or a device)"),
    (CIFAR, replaced(UNREADABLE, "files"), "data.source files: cannot be read (Input/output error)"),
    (CIFAR, lambda folder: (folder / "files").mkdir(), "data.source files: holds no folder cifar-100-python"),
    (TINY_IMAGENET, tiny_imagenet, "n1_0.png: is of (65, 65) pixels, not (64, 64)"),
    ({**TINY_IMAGENET, "subset": False}, lambda folder: (folder / "tiny-imagenet-200").mkdir(), "train: is missing;"),
    ({"name": "imagenet", "source": "images", "subset": True}, images, "data.source images: has no folder val. Get"),
    ({"name": "cub200", "source": "CUB_200_2011", "subset": True}, lambda folder: (folder / "CUB_200_2011").mkdir(),
     "CUB_200_2011/classes.txt: cannot be read (No such file or directory); is it as published?"),
]  # fmt: skip


def labels(values):
    """Of the stored training images."""
    return lambda folder: np.save(folder / "data/digits/train_labels.npy", np.asarray(values))


def manifest(**changes):
    """Of the stored data set; None removes a key."""

    def change(folder):
        path = folder / "data/digits/manifest.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def teacher(make, name=f"pairs/{PAIR}.safetensors"):
    return replaced(make, name)


def weights(name, classes):
    return lambda path: checkpoints.save(networks.create(name, classes), path)


def cut(folder):
    path = folder / f"pairs/{PAIR}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


TRAIN = ["train", "train", CELL]
ONE = ["train_one", "--pair", PAIR, "--method", "kd"]
MEASURE = ["evaluate_checkpoint", "--network", "resnet20", "--checkpoint", "teachers/resnet20/weights.safetensors",
           "--dataset", "digits"]  # fmt: skip


def measure(**changes):
    """The command with other options."""
    options = dict(zip(MEASURE[1::2], MEASURE[2::2], strict=True)) | {
        f"--{key}": value for key, value in changes.items()
    }
    return [
        "evaluate_checkpoint",
        *(part for key, value in options.items() if value is not None for part in (key, value)),
    ]


# (command line, what is done to the project, what is said)
COMMANDS = [
    *[([script, "--no-such-option"], nothing, "usage: python -m stages.")
      for script in SCRIPTS if script not in (*NAMED, "data", "methods", "preset")],
    *[([script, "x"], nothing, ": holds no card of 'x'. Run 'dvc repro plan'") for script in (*NAMED, "data")],
    *[([script, *"abcd"], nothing, "usage: python -m stages.") for script in SCRIPTS
      if script not in ("accept", "methods", "networks", "predict", "sweep", "vary")],
    *[([script], nothing, "usage: python -m stages.")
      for script in (*NAMED, "compare", "evaluate_checkpoint", "export", "predict", "train", "train_one")],
    (["export", CELL, "--to", "pickle"], nothing, "argument --to: invalid choice: 'pickle' (choose from"),
    (["export", f"{CELL}0", "--to", "torch"], nothing, f"'{CELL}0': is no cell of the matrix. Did you mean {CELL}? "),
    (["export", "../../params", "--to", "torch"], nothing, "'../../params': is no cell of the matrix."),
    (["export", CELL, "--to", "torch"], nothing, f"{CELL}: is not trained yet; run 'dvc repro train@{CELL}'"),
    (["export", CELL, "--to", "torch"], missing("cards"), "cards/: holds no cards of cells; run 'dvc repro'"),
    (["predict", CELL, "params.yaml"], nothing, f"{CELL}: is not trained yet; run 'dvc repro train@{CELL}'"),
    (["predict", "student.pt2", "params.yaml"], nothing, "student.pt2: there is no such file; write it with"),
    (["plan", "--check"], nothing, "usage: python -m stages.plan [--check FILE...]"),
    (["plan", "--chek", "params.yaml"], nothing, "usage: python -m stages.plan [--check FILE...]"),
    (["plan", "--check", "nowhere.yaml"], nothing, "nowhere.yaml: cannot be read (No such file or directory)"),
    (["plan", "--check", "params.yaml", "presets"], nothing, "presets: cannot be read (it is a folder, a pipe or a"),
    (["plan", "--check", "data/recipes.yaml"], nothing, "data/recipes.yaml: pairs: is missing; give it a value"),
    (["plan"], missing("data/recipes.yaml"), "data/recipes.yaml: cannot be read (No such file or directory)"),
    (["plan"], written("cifar100: [", "data/recipes.yaml"), "data/recipes.yaml, line 2: is not valid YAML"),
    (["plan"], written("digits: {methods: {kdd: {}}}", "data/recipes.yaml"), "data/recipes.yaml: digits.methods.kdd:"),
    (["plan"], written("tolerance: 5.0\nteachers: [1]", "data/teachers.yaml"), "data/teachers.yaml: teachers: [1]: "),
    (["plan"], written(LAUGHS, "data/teachers.yaml"), "data/teachers.yaml, line 2: is not valid YAML: the alias *a0"),
    (["plan"], written("tolerance: 0\nteachers: {}", "data/teachers.yaml"), "data/teachers.yaml: tolerance: 0: Input"),
    (["teacher", "resnet21"], nothing, "cards/teacher/: holds no card of 'resnet21'. Did you mean resnet20? Run"),
    (["teacher", "../pairs"], nothing, "cards/teacher/: holds no card of '../pairs'."),
    (["teacher", "--no-such-option"], nothing, "cards/teacher/: holds no card of '--no-such-option'"),
    (["evaluate", "../tables"], nothing, "cards/evaluate/: holds no card of '../tables'."),
    (["evaluate", "--no-such-option"], nothing, "cards/evaluate/: holds no card of '--no-such-option'"),
    (["evaluate", PAIR], nothing, f"runs/{PAIR}/{CELL}/meta.json: cannot be read (No such file or directory); run"),
    (["evaluate", PAIR], teacher(weights("resnet20", 100)), "fc.weight: (100, 64) in the file, (10, 64) in the"),
    (["train", "both", CELL], nothing, "STAGE 'both': must be train or baseline, and NAME one of its cells"),
    (["train", "../train", CELL], nothing, "STAGE '../train': must be train or baseline"),
    (["train", "train", f"{CELL}0"], nothing, f"cards/train/: holds no card of '{CELL}0'. Did you mean {CELL}?"),
    (["train", "train", "../../params"], nothing, "cards/train/: holds no card of '../../params'."),
    (["train", "train", "a;touch ran"], nothing, "cards/train/: holds no card of 'a;touch ran'."),
    (["train", "train", "a\nb"], nothing, r"cards/train/: holds no card of 'a\nb'."),
    (["train", "baseline", "x" * 10_000], nothing, "cards/baseline/: holds no card of 'xxx"),
    (TRAIN, missing(f"pairs/{PAIR}.safetensors"), f"pairs/{PAIR}.safetensors: no such checkpoint; name a"),
    (TRAIN, teacher(os.mkdir), f"pairs/{PAIR}.safetensors: is a folder, a pipe or a device; name a .safetensors or"),
    (TRAIN, teacher(os.mkfifo), f"pairs/{PAIR}.safetensors: is a folder, a pipe or a device; name a .safetensors or"),
    (TRAIN, teacher(UNREADABLE), f"pairs/{PAIR}.safetensors: cannot be read (Input/output error)"),
    (TRAIN, teacher(holding(PAGE)), "not a safetensors file, but a web page: the download did not reach the file"),
    (TRAIN, teacher(holding(b"")), "not a safetensors file, or damaged (Error while deserializing header: header too"),
    (TRAIN, cut, "not a safetensors file, or damaged (Error while deserializing header: incomplete metadata, file not"),
    (TRAIN, teacher(weights("resnet20", 100)), "fc.weight: (100, 64) in the file, (10, 64) in the network"),
    (TRAIN, teacher(weights("resnet14", 10)), "does not fit a ResNet of this depth, width and number of classes;"),
    (TRAIN, missing("data/digits/manifest.json"), "data/digits/manifest.json: cannot be read (No such file or"),
    (TRAIN, missing("data/digits/train_images.npy"), "data/digits: is damaged (FileNotFoundError(2, 'No such file"),
    (TRAIN, written(b"[" * 100_000, "data/digits/manifest.json"), "data/digits/manifest.json: is damaged"),
    (TRAIN, manifest(format=1), "data/digits/manifest.json: is not of format 2; run 'dvc repro --force data'"),
    (TRAIN, manifest(classes=None), "data/digits/manifest.json: is damaged (classes: Field required); run 'dvc"),
    (TRAIN, manifest(augmentation={"twist": 1}), "manifest.json: is damaged (augmentation.padding: Field required)"),
    (TRAIN, manifest(mean=["a", "b", "c"]), "data/digits/manifest.json: is damaged (mean.0: Input should be a valid"),
    (TRAIN, manifest(mean=[0, 0]), "manifest.json: is damaged (mean: List should have at least 3 items"),
    (TRAIN, manifest(std=[0.3, 0, 0.3]), "manifest.json: is damaged (std.1: Input should be greater than 0)"),
    (TRAIN, manifest(stem="x"), "manifest.json: is damaged (stem: Input should be 'small' or 'large')"),
    (TRAIN, manifest(image_size="16"), "manifest.json: is damaged (image_size: Input should be a valid integer)"),
    (TRAIN, manifest(classes=7), "manifest.json: is damaged (classes: Input should be a valid list)"),
    (TRAIN, manifest(image_size=17), "images of 16 pixels are smaller than image_size 17"),
    (TRAIN, manifest(classes=["0", "1"]), "data/digits: digits, train split: labels from 0 to 9, but there are 2"),
    (TRAIN, labels(np.full(200, 10)), "data/digits: digits, train split: labels from 10 to 10, but there are 10"),
    (TRAIN, labels(np.full(200, -1)), "data/digits: digits, train split: labels from -1 to -1, but there are 10"),
    (TRAIN, labels(np.zeros(0, np.int64)), "data/digits: digits, train split: holds no images"),
    (TRAIN, labels(np.zeros(199, np.int64)), "data/digits: digits, train split: labels are of shape (199,), not (200"),
    (TRAIN, labels(np.zeros(200)), "data/digits: digits, train split: labels are float64 (200,), not int64 (N,)"),
    (["data"], missing("cards"), "cards/: holds no card of 'data'. Run 'dvc repro plan', which writes those of"),
    (["pairs"], missing("teachers/wrn_16_2"), "teachers/wrn_16_2/weights.safetensors: not found; run 'dvc repro'"),
    (["pairs"], missing("cards"), "cards/: holds no card of 'pairs'. Run 'dvc repro plan'"),
    (["tables"], missing("cards"), "cards/: holds no card of 'tables'. Run 'dvc repro plan'"),
    (["tables"], nothing, "teachers/resnet20/meta.json: cannot be read (No such file or directory); run 'dvc repro'"),
    (["report"], missing("cards"), "cards/: holds no card of 'tables'. Run 'dvc repro plan'"),
    (["preset", "quik"], nothing, "there is no preset 'quik'. Did you mean quick? Say make preset NAME=<preset>,"),
    (["preset", "../params"], nothing, "there is no preset '../params'."),
    (["preset", "--no-such-option"], nothing, "there is no preset '--no-such-option'."),
    (["preset", "quick", "2"], nothing, "FORCE: '2' must be 0 or 1; 1 replaces even what is not committed"),
    (["preset", "quick"], nothing, "params.yaml: git cannot tell here whether it has changes that would be lost;"),
    (["preset", "quick", "1"], written("seeds: []\n", "presets/quick.yaml"), "presets/quick.yaml: seeds: is empty"),
    (["preset", "quick", "1"], written(LAUGHS, "presets/quick.yaml"), "presets/quick.yaml, line 2: is not valid"),
    (["preset"], written("seeds: []\n", "presets/quick.yaml"), "presets/quick.yaml: seeds: is empty"),
    (["compare", "main"], nothing, "main: revisions need git, and a project in a git repository; workspace needs none"),
    (["compare", "workspace"], nothing, "workspace: has no tables; run 'dvc repro'"),
    (["compare", "published", "published"], nothing, "published published: one side must have been measured; name a"),
    (["compare", ":/fix"], nothing, ":/fix: begins with ':', which names no revision; name a commit, branch or tag"),
    (["compare", "workspace", "--accuracy", "top5"], nothing, "argument --accuracy: invalid choice: 'top5' (choose"),
    (["compare", "workspace", "--tolerance", "little"], nothing, "argument --tolerance: invalid float value: 'little'"),
    (["compare", "workspace", "--tolerance", "1"], nothing, "--tolerance POINTS: belongs to --fail-on-regression,"),
    (["compare", "workspace", "--fail-on-regression", "--tolerance", "nan"], nothing, "must be 0 or more percentage"),
    (["compare", "-", "--json"], nothing, "-: "),
    ([*ONE, "--seed", "x"], nothing, "argument --seed: invalid int value: 'x'"),
    ([*ONE, "--seed", "-1"], nothing, "error: --seed: -1: Input should be greater than or equal to 0"),
    ([*ONE, "--seed", str(HUGE)], nothing, "error: --seed: 1000"),
    ([*ONE, "--epochs", "0"], nothing, "--epochs: 0 must be from 1 to 1,000,000"),
    ([*ONE, "--epochs", "2"], nothing, "--epochs: 2 leaves no room for train.milestones, which become [1, 2, 2];"),
    ([*ONE, "--epochs", str(HUGE)], nothing, "--epochs: 1000"),
    ([*ONE, "--epochs", "1e3"], nothing, "argument --epochs: invalid int value: '1e3'"),
    ([*ONE, "--scale", "3"], nothing, "error: --scale: '3' is no scale. Allowed: 1 for M=[1]"),
    ([*ONE, "--scale", "0"], nothing, "error: --scale: '0' is no scale. Allowed: 1 for M=[1]"),
    ([*ONE, "--scale", ""], nothing, "error: --scale: '' is no scale. Allowed: 1 for M=[1]"),
    ([*ONE, "--scale", "9" * 5000], nothing, "error: --scale: '9999"),
    ([*ONE, "--teacher", ""], nothing, "teacher resnet20: there is no .; name a checkpoint"),
    ([*ONE, "--teacher", "nowhere.pth"], nothing, "teacher resnet20: there is no nowhere.pth; name a checkpoint"),
    ([*ONE, "--teacher", "x" * 5000], nothing, "teacher resnet20: there is no xxx"),
    ([*ONE, "--teacher", "params.yaml"], nothing, "params.yaml: not a checkpoint of tensors alone, or damaged"),
    ([*ONE, "--teacher", "teacher.pth"], written(PAGE, "teacher.pth"), "but a web page: the download did not reach"),
    ([*ONE, "--teacher", "a.safetensors"], teacher(weights("resnet20", 100), "a.safetensors"), "fc.weight: (100, 64)"),
    ([*ONE], missing("teachers"), "there is no teachers/resnet20/weights.safetensors; name a checkpoint with"),
    ([*ONE], missing("data/digits"), "data set digits is not here yet; run 'dvc repro data'"),
    ([*ONE], labels(np.full(200, 10)), "data/digits: digits, train split: labels from 10 to 10, but there are 10"),
    ([*ONE], given(data__train_per_class=21), "data/digits: is not as section data of the params file has it; run"),
    ([*ONE, "--params", "nowhere.yaml"], nothing, "nowhere.yaml: cannot be read (No such file or directory)"),
    ([*ONE, "--params", "data"], nothing, "data: cannot be read (it is a folder, a pipe or a device)"),
    (["train_one", "--pair", "a;rm -rf x", "--method", "kd"], nothing, "unknown network 'a;rm '. Allowed: "),
    (["train_one", "--pair", "../x", "--method", "kd"], nothing, "'../x' must be teacher-student with exactly one '-'"),
    (["train_one", "--pair", PAIR, "--method", "../kd"], nothing, "unknown method '../kd'. Allowed: vanilla, at"),
    (["train_one", "--pair", PAIR, "--method", "kdd"], nothing, "unknown method 'kdd'. Did you mean kd?"),
    (["train_one", "--pair", PAIR, "--method", "at", "--stand"], nothing, "at is no logit method and takes neither"),
    (["train_one", "--pair", PAIR, "--method", "vanilla", "--teacher", "x"], nothing, "vanilla trains the student"),
    (measure(network="resnet21"), nothing, "--network: unknown network 'resnet21'. Did you mean resnet32? Allowed: "),
    (measure(network=None), nothing, "the following arguments are required: --network"),
    (measure(dataset=None), nothing, "one of the arguments --dataset --params is required"),
    (measure(source="folder:images", dataset="mine"), images, "error: --image-size: is missing; give it a value\n"),
    (measure(source="embedded"), nothing, "error: --image-size: is missing; give it a value\n"),
    (measure(source="embedded"), nothing,
     "train_per_class: is missing; there is no option for it: name a params file that has it with --params\n"),
    (measure(source="download", dataset="cifar100", **{"image-size": "32"}), nothing,
     "error: --image-size 32: this data set takes none; leave it out\n"),
    (measure(params="params.yaml", dataset=None, **{"image-size": "16"}), nothing, "--image-size: --params params.yam"),
    (measure(source="folder:images/train", dataset="mine", **{"image-size": "16"}), images,
     "to keep that share of each class for the test; here, in a params file that --params names\n"),
    (measure(params="params.yaml"), nothing, "argument --params: not allowed with argument --dataset"),
    (measure(checkpoint="nowhere.pth"), nothing, "nowhere.pth: no such checkpoint; name a .safetensors or .pth file"),
    (measure(checkpoint="data"), nothing, "data: is a folder, a pipe or a device; name a .safetensors or .pth"),
    (measure(checkpoint="/dev/zero"), nothing, "/dev/zero: is a folder, a pipe or a device; name a .safetensors or"),
    (measure(checkpoint="a.pth"), written(PAGE, "a.pth"), "a.pth: not a checkpoint of tensors alone, but a web page"),
    (measure(network="resnet8"), nothing, "does not fit a ResNet of this depth, width and number of classes;"),
    (measure(checkpoint="a.safetensors"), replaced(weights("resnet20", 100), "a.safetensors"), "(100, 64) in the file"),
    (measure(json="nowhere/a.json"), nothing, "--json nowhere/a.json: there is no folder nowhere; make it, or name"),
    (measure(json="data"), nothing, "--json data: cannot be written (Is a directory)"),
    (measure(json="x" * 300), nothing, "xxx: cannot be written (File name too long)"),
    (measure(json="pipe"), replaced(os.mkfifo, "pipe"), "--json pipe: cannot be written (No such device or address)"),
    (measure(json="/proc/x"), nothing, "--json /proc/x: cannot be written (No such file or directory)"),
    (measure(dataset="x" * 300), nothing, "xxx: no data set is stored here; run 'dvc repro data', or add"),
    ([*measure(), "--image-size", "32"], nothing, "--image-size: is for a data set that is read anew, from --source"),
    (measure(dataset=None, params="params.yaml", source="x"), nothing, "--source: --params params.yaml has its own;"),
    (measure(dataset="cifar100"), nothing, "data/cifar100: no data set is stored here; run 'dvc repro data', or add"),
    (measure(dataset="cifar10", source="download"), nothing, "--dataset, --source: 'cifar10' is none of"),
    (measure(dataset="cifar100", source="nowhere"), nothing, "data.source: there is no nowhere. Allowed: download,"),
    (measure(dataset="cifar100", source="x" * 5000), nothing, "data.source: there is no 'xxx"),
    (measure(dataset="../digits", source="folder:data"), nothing, "--dataset: '../digits': must be of lower-case"),
    ([*measure(dataset="mine", source="folder:images"), "--image-size", "16"],
     spoiled("train/cat/cat_0.jpg", holding(PAGE)), "images/train/cat/cat_0.jpg: cannot be decoded (cannot identify"),
    ([*measure(dataset="mine", source="folder:data"), "--image-size", str(HUGE)], nothing, "--image-size: 1000"),
    (measure(dataset=None, params="nowhere.yaml"), nothing, "nowhere.yaml: cannot be read (No such file or directory)"),
    (measure(dataset=None, params="params.yaml"), written(LAUGHS), "params.yaml, line 2: is not valid YAML: the alias"),
]  # fmt: skip

MADE = {"commit": "abc", "device": "cpu: x", "threads": 1, "processes": 1, "computed_in": "float32", "versions": {}}
EVALUATION = f"evaluations/{PAIR}"


def history(epochs):
    rows = [f"{epoch},0.1,1.0,1.0,50.0,50.0\n" for epoch in range(1, epochs + 1)]
    return "".join(["epoch,lr,loss,ce,train_top1,test_top1\n", *rows])


def finished_run(name, make=None):
    """A cell with results, but for what is at one path."""

    def change(folder):
        run = folder / f"runs/{PAIR}/{CELL}"
        run.mkdir(parents=True)
        card = yamlfile.read(folder / f"cards/train/{CELL}.yaml")
        (run / "meta.json").write_text(json.dumps({**card, **MADE}))
        (run / "history.csv").write_text(history(card["train"]["epochs"]))
        weights("resnet8", 10)(run / "weights.safetensors")
        replaced(make, f"runs/{PAIR}/{CELL}/{name}")(folder)

    return change


def shortened(count):
    """The history of a finished run, of which that many bytes are left."""
    return finished_run("history.csv", holding(history(18)[:count].encode()))


def evaluated(name, make):
    """Teachers and evaluations, but for what is at one path."""

    def change(folder):
        for path in (folder / "cards/teacher").glob("*.yaml"):
            (folder / "teachers" / path.stem).mkdir(exist_ok=True)
            (folder / "teachers" / path.stem / "meta.json").write_text(json.dumps(yamlfile.read(path)))
        for path in (folder / "cards/evaluate").glob("*.yaml"):
            of = {"top1": 50.0, "top5": 90.0, "nll": 1.0, "ece": 1.0, "agreement": 50.0, "top1_best": 50.0,
                  "recipe": {}, "epochs": 18, "weights_sha256": "0", **MADE}  # fmt: skip
            cells = [{**identity, **of} for identity in yamlfile.read(path)["cells"]]
            cost = {"parameters": 1, "multiply_adds": 1}
            found = {"pair": path.stem, "train_images": 200, "classes": 10, "teacher": {"top1": 50.0, **cost},
                     "student": cost, "cells": cells}  # fmt: skip
            (folder / "evaluations" / path.stem).mkdir(parents=True)
            (folder / "evaluations" / path.stem / "metrics.json").write_text(json.dumps(found))
            first, *rows = history(18).splitlines()
            lines = [f"{first},cell", *(f"{row},{cell['name']}" for cell in cells for row in rows), ""]
            (folder / "evaluations" / path.stem / "curves.csv").write_text("\n".join(lines))
        replaced(make, name)(folder)

    return change


def last_line_lost(path):
    path.write_text("epoch,train_top1,test_top1,cell\n1,50.0,50.0,x\n")


# (command line, what is done to the project, what is said) - of results that are damaged.
RESULTS = [
    (["evaluate", PAIR], shortened(60), f"runs/{PAIR}/{CELL}/history.csv: "),
    (["evaluate", PAIR], shortened(len(history(3))), "history.csv: is damaged (it holds 3 epochs of 18"),
    (["evaluate", PAIR], shortened(-3), "history.csv: is damaged (cut short, or a number is missing or not finite)"),
    (["evaluate", PAIR], shortened(0), "history.csv: is damaged (it holds 0 epochs of 18"),
    (["evaluate", PAIR], finished_run("history.csv", lambda path: None), "history.csv: is damaged ([Errno 2] No such"),
    (["evaluate", PAIR], finished_run("history.csv", os.mkdir), "history.csv: is damaged ([Errno 21] Is a dir"),
    (["evaluate", PAIR], finished_run("history.csv", holding(b"\xff\x00")), "history.csv: is damaged ('utf-8' codec"),
    (["evaluate", PAIR], finished_run("history.csv", holding(history(18).replace(",1.0,", ",x,").encode())),
     "history.csv: is damaged (could not convert string to float: 'x'); run 'dvc checkout' or 'dvc repro'"),
    (["evaluate", PAIR], finished_run("history.csv", holding(history(18).replace("\n18,", "\n17,").encode())),
     "history.csv: is damaged (its epochs are not those from 1 on); run 'dvc checkout' or 'dvc repro'"),
    (["evaluate", PAIR], finished_run("meta.json", holding(b"{}")), f"runs/{PAIR}/{CELL}/meta.json: is damaged ("),
    (["evaluate", PAIR], finished_run("weights.safetensors", holding(b"")), "weights.safetensors: is missing or empty"),
    (["tables"], evaluated("teachers/resnet20/meta.json", holding(b"{}")), "teachers/resnet20/meta.json: is damaged ("),
    (["tables"], evaluated("teachers/resnet20/meta.json", holding(b'{"source": "published"}')), "neither adopted nor"),
    (["tables"], evaluated(f"{EVALUATION}/metrics.json", holding(b"{}")), f"{EVALUATION}/metrics.json: is damaged ("),
    (["tables"], evaluated(f"{EVALUATION}/metrics.json", lambda path: None), "metrics.json: cannot be read (No such"),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", lambda path: None), f"{EVALUATION}/curves.csv: is damaged ("),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", holding(b"")), "curves.csv: is damaged (No columns to parse"),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", os.mkdir), "curves.csv: is damaged ([Errno 21] Is a directory"),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", holding(b"\xff\x00")), "curves.csv: is damaged ('utf-8' codec"),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", holding(b"a,b\n1,2\n")), "curves.csv: is damaged (\"None of ["),
    (["tables"], evaluated(f"{EVALUATION}/curves.csv", last_line_lost), "its cells and epochs are not those of"),
]  # fmt: skip


# (variable of the environment, what is said) - of the training of a cell.
VARIABLES = [
    ("KDCORE_DEVICE=cuda:99", "KDCORE_DEVICE=cuda:99: no such device here ("),
    ("KDCORE_DEVICE=meta", "KDCORE_DEVICE=meta: no such device here (it has shapes, and no numbers); use"),
    ("KDCORE_DEVICE=hpu", "KDCORE_DEVICE=hpu: no such device here ("),
    ("KDCORE_DEVICE=xla", "KDCORE_DEVICE=xla: no such device here ("),
    ("KDCORE_DEVICE=;touch ran", "KDCORE_DEVICE=;touch ran: no such device here ("),
    ("KDCORE_PROCESSES=two", "KDCORE_PROCESSES='two': must be a number from 1 to "),
    ("KDCORE_PROCESSES=0", "KDCORE_PROCESSES='0': must be a number from 1 to "),
    ("KDCORE_LOGGERS=mlflow,tensorbord", "KDCORE_LOGGERS: unknown logger 'tensorbord'. Did you mean tensorboard?"),
    ("KDCORE_PROCESSES=1000000", "KDCORE_PROCESSES='1000000': must be a number from 1 to "),
]  # fmt: skip


def named(cases):
    """Cases as parameters, numbered, with the beginning of what is said."""
    return [
        pytest.param(*case, id=f"{number}-{re.sub(r'[^ -~]', '?', case[-1])[:40]}") for number, case in enumerate(cases)
    ]


@pytest.mark.parametrize(("change", "message"), named(FILES))
def test_params_file(project, refused, change, message):
    change(project)
    said = refused("plan")
    assert said.startswith("error: params.yaml")
    assert message in said


@pytest.mark.parametrize(("change", "message"), named(PUBLISHED))
@pytest.mark.parametrize("arguments", [(), ("--check", "params.yaml")])
def test_published_figures(project, refused, change, arguments, message):
    change(project)
    said = refused("plan", *arguments)
    assert said.startswith("error: data/published.yaml")
    assert message in said


@pytest.mark.parametrize("arguments", [(), ("--check", "params.yaml")])
@pytest.mark.parametrize(("values", "message"), named([*VALUES, *BAD]))
def test_values_of_params(project, refused, values, arguments, message):
    """A check finds all that the plan refuses, so that `make repro` says it before DVC does."""
    given(**{key.replace(".", "__"): value for key, value in values.items()})(project)
    said = refused("plan", *arguments)
    assert said.startswith("error: params.yaml")
    assert message in said
    assert len(said) < 20_000


def test_a_check_lists_all_that_is_not_here(project, refused, capsys):
    """Of the project's own file; of another one it is said, for it may be meant for another machine."""
    given(
        data={"name": "mine", "source": "folder:nowhere", "image_size": 16},
        teachers={
            "resnet20": {"source": "a.pth", "published_top1": 50.0},
            "wrn_16_2": {"source": "params.yaml", "published_top1": 50.0, "sha256": "0" * 64},
        },
    )(project)
    shutil.copy(project / "params.yaml", project / "other.yaml")
    starts = [
        "data.source: there is no nowhere. Allowed: folder:<path> or",
        "teachers.resnet20.source: 'a.pth' cannot be read (",
        "teachers.wrn_16_2.sha256: params.yaml has sha256 ",
    ]
    for file in ("params.yaml", "./params.yaml", str(project / "params.yaml")):
        said = refused("plan", "--check", "other.yaml", file).removeprefix("error: ").splitlines()
        for line, start in zip(said, starts, strict=True):
            assert line.startswith(f"params.yaml: {start}")
    importlib.import_module("stages.plan").main("--check", "other.yaml")
    cells, *remarks = capsys.readouterr().out.splitlines()
    assert cells == "other.yaml: 20 cells"
    for line, start in zip(remarks, starts, strict=True):
        assert line.startswith(f"- would not run here: {start}")


@pytest.mark.parametrize("teacher", [
    {"source": "a.safetensors", "published_top1": 50.0},
    {"source": "published", "otherwise": "train", "train": SHORT},
])  # fmt: skip
def test_a_check_refuses_checkpoints_that_do_not_fit(project, refused, capsys, teacher):
    """Once the data set is here, and says how many classes there are."""
    listed = yamlfile.read(project / "data/teachers.yaml")
    listed["teachers"]["digits"] = {"resnet20": {"published_top1": 50.0, "sources": []}}
    yamlfile.write(project / "data/teachers.yaml", listed)
    given(teachers__resnet20=teacher)(project)
    (project / "checkpoints/digits").mkdir(parents=True)
    file = "a.safetensors" if teacher["source"] == "a.safetensors" else "checkpoints/digits/resnet20.safetensors"
    plan, check = importlib.import_module("stages.plan"), ("--check", "params.yaml")
    for network, classes, problem in (
        ("resnet20", 100, "fc.weight: (100, 64) in"),
        ("resnet14", 10, "missing ['layer"),
    ):
        checkpoints.save(networks.create(network, classes), project / file)
        said = refused("plan", *check)
        assert said.startswith(f"error: teacher resnet20: {file}: does not fit a ResNet of this depth")
        assert problem in said
    checkpoints.save(networks.create("resnet20", 10), project / file)
    plan.main(*check)
    checkpoints.save(networks.create("resnet20", 100), project / file)
    made = {"deps": [{"path": "cards/data.yaml", "md5": "0" * 32}], "outs": [{"path": "data/digits"}]}
    yamlfile.write(project / "dvc.lock", {"stages": {"data": made}})  # DVC made it from another card
    plan.main(*check)
    (project / "dvc.lock").unlink()
    given(data__train_per_class=21)(project)  # another data set than the one that is stored, as far as is known
    plan.main(*check)
    assert capsys.readouterr().out.splitlines() == ["params.yaml: 20 cells"] * 3


@pytest.mark.parametrize("arguments", [(), ("--check", "params.yaml")])
def test_what_no_cell_has_is_said(project, capsys, arguments):
    given(train__exceptions=[{"methods": ["mlkd"], "lr": 0.5}])(project)
    importlib.import_module("stages.plan").main(*arguments)
    assert "which have no effect: train.exceptions[0]" in capsys.readouterr().err


def test_a_check_refuses_regions_of_networks_that_have_none(project, refused, capsys):
    """As their cells would be, after their teachers were trained."""
    given(pairs=["resnet20-mobilenetv2"], teachers={"resnet20": TRAINED})(project)
    reason = "its final map has 1 x 1 cells, too few for 2 x 2 regions"
    assert f"error: student mobilenetv2 can have no regions (M=[1,2]): {reason}" in refused(
        "plan", "--check", "params.yaml"
    )
    given(scales=[1])(project)
    importlib.import_module("stages.plan").main("--check", "params.yaml")
    assert capsys.readouterr().out == "params.yaml: 6 cells\n"


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(("change", "message"), [
    ({"data__validation": 0.99}, "data.validation: 0.99: {who} has 20 training images, and 20 of them for validation"),
    ({"train__per_class": 21}, "train.per_class: 21: {who} has 20 training images; lower it to 20"),
    ({"train__per_class": 19, "data__validation": 0.1}, "train.per_class: 19: {who} has 18 training images beside"),
    ({"teachers__resnet20__train__per_class": 21}, "teachers.resnet20.train.per_class: 21: {who} has 20"),
    ({"train__long_tail": 21}, "train.long_tail: 21: the last class gets 21 times fewer images than the smallest "
                               "({who}) has, 20, and so none; lower it to 20 or less"),
    ({"teachers__resnet20__train__long_tail": 21}, "teachers.resnet20.train.long_tail: 21: the last class gets"),
    ({"variants": {"base": {}, "lt": {"train": {"long_tail": 19}}}, "data__validation": 0.1},
     "train.long_tail of variant lt: 19: the last class gets 19 times fewer images than the smallest ({who}) has, 18"),
    ({"train__label_noise": {"kind": "symmetric", "rate": 0.02}}, "train.label_noise: rate 0.02: changes no label, for "
                                                                  "no class has more than 20 images that are used"),
])  # fmt: skip
def test_more_training_images_than_there_are(project, refused, is_stored, change, message):
    """Where the data set is stored, and where its section tells how many images it has. The plan refuses them too, for
    `dvc repro` checks nothing else before it trains teachers and other cells.
    """
    given(**change)(project)
    if not is_stored:
        shutil.rmtree(project / "data/digits")
    who = "class '0'" if is_stored else "every class"
    for arguments in (["--check", "params.yaml"], []):
        assert f"error: {message.format(who=who)}" in refused("plan", *arguments)


@pytest.mark.parametrize(("section", "change", "message"), named(SOURCES))
def test_data(project, refused, section, change, message):
    change(project)
    defaults = {"cifar100": {"train_per_class": None}, OWN: dict.fromkeys(("augmentation", "stem", "test_share"))}
    options = {**defaults.get(module(section["name"]), {}), **section}
    yamlfile.write(project / "cards/data.yaml", {**options, "code": {}})
    assert message in refused("data")


@pytest.mark.parametrize(("command", "change", "message"), named([*COMMANDS, *RESULTS]))
def test_command_line(project, refused, command, change, message):
    change(project)
    assert message in refused(*command)


@pytest.mark.parametrize(("variable", "message"), named(VARIABLES))
def test_environment(refused, monkeypatch, variable, message):
    monkeypatch.setenv(*variable.split("="))
    assert message in refused(*TRAIN)


def start(folder, *command):
    """A stage's script in a process of its own; its exit code, what it said on stderr, and how long it computed."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{command[0]}", *command[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return done.returncode, done.stderr, seconds


@pytest.mark.slow
@pytest.mark.parametrize(("command", "change", "message"), named([
    (["plan"], written(LAUGHS), "error: params.yaml, line 2: is not valid YAML: the alias *a0"),
    (["plan"], written(f"name: {'x' * 10**7}\n"), "error: params.yaml: has 10,000,007 bytes; at most 65,536 are"),
    (["plan"], replaced(os.mkfifo), "error: params.yaml: cannot be read (it is a folder, a pipe or a device)"),
    (["plan"], given(pairs=["a;touch ran-resnet8"]), "error: params.yaml: pairs[0]: unknown network or teacher 'a;t"),
    (["data", "x"], nothing, "error: cards/target/: holds no card of 'x'"),
    (["evaluate", "../tables"], nothing, "error: cards/evaluate/: holds no card of '../tables'."),
    (["report"], missing("cards"), "error: cards/: holds no card of 'tables'. Run 'dvc repro plan'"),
    (["preset", "quik"], nothing, "error: there is no preset 'quik'. Did you mean quick?"),
    (["compare", "main", "--no-such-option"], nothing, "usage: python -m stages.compare"),
    (["train", "train", "../../params"], nothing, "error: cards/train/: holds no card of '../../params'."),
    (["evaluate_checkpoint", "--network", "resnet8"], nothing, "usage: python -m stages.evaluate_checkpoint"),
]))  # fmt: skip
def test_in_a_process_of_its_own(project, command, change, message):
    """In time: seconds of the processor, for others may be at work; one that waits for ever is ended."""
    change(project)
    before = tree(project)
    code, said, seconds = start(project, *command)
    assert (code, said[: len(message)]) == (2, message)
    assert "Traceback" not in said
    assert seconds < LIMIT
    assert tree(project) == before
