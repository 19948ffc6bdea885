"""Published checkpoints as strangers wrote them: old formats, NumPy's values beside the weights, hostile pickles."""

import argparse
import json
import os
import struct
import zipfile
from collections import Counter
from datetime import datetime
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from kdcore import checkpoints, networks
from kdcore.networks.input_affine import Normalisation
from kdcore.system.errors import UserError, shown
from tests.masked import Masked

NEW_NUMPY, OLD_NUMPY = b"numpy._core.multiarray", b"numpy.core.multiarray"


def state_dict():
    torch.manual_seed(1)
    return networks.create("resnet8", 10).state_dict()


def written(path, content, *, zipped, spelling=None):
    """A checkpoint, with NumPy's functions spelt as NumPy 1 or NumPy 2 spells them."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if spelling is None:
        return path
    if not zipped:
        path.write_bytes(respelt(path.read_bytes(), spelling))
        return path
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, respelt(data, spelling) if name.endswith("data.pkl") else data)
    return path


def respelt(data, spelling):
    for other in (NEW_NUMPY, OLD_NUMPY):
        data = data.replace(b"c" + other + b"\n", b"c" + spelling + b"\n")
    return data


def prefixed(prefix, content):
    return {f"{prefix}{key}": value for key, value in content.items()}


def loaded(path, **options):
    network = networks.create("resnet8", 10)
    checkpoints.load(path, network, **options)
    return network.state_dict()


def same(weights):
    """Whether a network has these weights, whatever it does to its input."""
    return all(torch.equal(value, weights[key]) for key, value in state_dict().items())


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def zipped(request):
    """The formats of torch since 1.6 and before."""
    return request.param


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 240, "accuracy": torch.tensor(0.7)},
                                  lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])  # fmt: skip
def test_both_formats(tmp_path, zipped, wrap):
    assert same(loaded(written(tmp_path / "a.pth", wrap(state_dict()), zipped=zipped)))


@pytest.mark.parametrize("spelling", [OLD_NUMPY, NEW_NUMPY], ids=["numpy1", "numpy2"])
@pytest.mark.parametrize("value", [
    np.float64(0.7), np.float32(0.7), np.int64(240), np.bool_(True), np.str_("a"), np.arange(6.0).reshape(2, 3),
    np.array(["a", "b"]), np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]), np.dtype("f4"), [np.float64(1), np.arange(2)],
])  # fmt: skip
def test_numpy_beside_the_weights(tmp_path, zipped, spelling, value):
    content = {"accuracy": value, "model": state_dict(), "best": {"deep": value}}
    path = written(tmp_path / "a.pth", content, zipped=zipped, spelling=spelling)
    assert spelling in path.read_bytes() or isinstance(value, np.dtype)
    assert same(loaded(path))


def test_nothing_stays_allowed(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    loaded(written(tmp_path / "a.pth", {"model": state_dict(), "accuracy": np.float64(1)}, zipped=True))
    (tmp_path / "b.pth").write_bytes(b"")
    with pytest.raises(UserError):
        loaded(tmp_path / "b.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("spelling", [OLD_NUMPY, NEW_NUMPY], ids=["numpy1", "numpy2"])
@pytest.mark.parametrize("as_kept", [
    lambda a: a, lambda a: a.copy(order="F"), lambda a: a.astype(a.dtype.newbyteorder(">")),
], ids=["as it is", "by columns", "big-endian"])  # fmt: skip
def test_numpy_as_weights(tmp_path, zipped, spelling, as_kept):
    weights = {key: as_kept(value.numpy()) for key, value in state_dict().items()}
    assert same(loaded(written(tmp_path / "a.pth", {"model": weights}, zipped=zipped, spelling=spelling)))


@pytest.mark.parametrize("as_kept", [
    lambda t: t.numpy(), lambda t: t.half().numpy(), lambda t: t.double().numpy(), lambda t: t.tolist(),
], ids=["array", "float16", "float64", "list"])  # fmt: skip
def test_an_average_kept_as_numbers_is_a_candidate(tmp_path, zipped, as_kept):
    """It is not overlooked beside tensors."""
    average = {f"module.{key}": as_kept(2 * value) for key, value in state_dict().items()}
    path = written(tmp_path / "a.pth", {"model": state_dict(), "ema": average}, zipped=zipped)
    with pytest.raises(UserError, match=r"fit and differ, 'model' and 'ema/module\.'; choose one with weights_key"):
        loaded(path)
    assert same(loaded(path, weights_key="model"))
    half = {key: value.float() / 2 for key, value in loaded(path, weights_key="ema").items() if "num" not in key}
    assert all(torch.allclose(value, state_dict()[key], atol=1e-3) for key, value in half.items())


def test_arrays_that_hold_an_average_under_other_names_are_said(tmp_path, zipped, capsys):
    shadow = [value.numpy() for value in state_dict().values()]
    path = written(tmp_path / "a.pth", {"model": state_dict(), "ema": {"shadow_params": shadow}}, zipped=zipped)
    assert same(loaded(path))
    assert "seems to be in ['ema/shadow_params']" in capsys.readouterr().err


def test_what_may_help_where_a_file_does_not_fit(tmp_path):
    named = {key.replace("fc.", "linear."): value for key, value in state_dict().items()}
    with pytest.raises(UserError, match=r"'linear\.weight'\].*; if these are the same, say rename: \{linear: fc\}$"):
        loaded(written(tmp_path / "a.pth", named, zipped=True))
    fewer = {key: value[:-1] if key.startswith("fc.") else value for key, value in state_dict().items()}
    with pytest.raises(
        UserError, match=r"; where this is the classifier, the file knows another number of classes than"
    ):
        loaded(written(tmp_path / "b.pth", fewer, zipped=True))
    with pytest.raises(UserError, match=r"misshapen nothing$"):
        loaded(written(tmp_path / "c.pth", {**named, "more": torch.zeros(2)}, zipped=True))


@pytest.mark.parametrize("value", [
    np.zeros(2), np.array(["a"]), np.zeros(2, dtype=[("a", "f4")]), np.zeros((1, 3)), [1.0, 2.0], [[1.0], [2.0, 3.0]],
    ["a"], [None], [], [[]], np.array([None]),
])  # fmt: skip
def test_numbers_that_are_no_weights(tmp_path, zipped, value):
    """Beside the weights they change nothing; in the place of one they are refused."""
    assert same(loaded(written(tmp_path / "a.pth", {**state_dict(), "history": value}, zipped=zipped)))
    with pytest.raises(UserError, match=r"does not fit .*fc\.bias"):
        loaded(written(tmp_path / "a.pth", {**state_dict(), "fc.bias": value}, zipped=zipped))


HALF = Normalisation((0.5,) * 3, (0.25,) * 3)
OTHERS = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))


@pytest.mark.parametrize(("wrap", "where"), [
    (lambda s, m, d: {**prefixed("model.", s), "normalize.mean": m, "normalize.std": d},
     "normalize.mean and normalize.std"),
    (lambda s, m, d: {**prefixed("1.", s), "0.mean": m.view(1, 3, 1, 1), "0.std": d.view(1, 3, 1, 1)},
     "0.mean and 0.std"),
    (lambda s, m, d: {**prefixed("module.", s), "module.mu": 255 * m, "module.sigma": 255 * d},
     "module.mu and module.sigma"),
    (lambda s, m, d: {**prefixed("m.", s), "norm.mean": m, "norm.var": d**2}, "norm.mean and norm.var"),
    (lambda s, m, d: {**s, "data_mean": m, "data_std": d}, "data_mean and data_std"),
    (lambda s, m, d: {**s, "mean": m, "std_dev": d}, "mean and std_dev"),
    (lambda s, m, d: {"model": s, "norm": {"mean": m, "stdev": d}}, "norm/mean and norm/stdev"),
    (lambda s, m, d: {"model": s, "pixel_mean": m, "pixel_variance": d**2}, "pixel_mean and pixel_variance"),
    (lambda s, m, d: {**s, "mean_std": torch.stack([m, d])}, "mean_std"),
    (lambda s, m, d: {"model": s, "mean_std": torch.stack([m, d]).view(2, 3, 1, 1).numpy()}, "mean_std"),
    (lambda s, m, d: {"model": s, "args": {"normalize": [m.tolist(), d.tolist()]}}, "args/normalize"),
    (lambda s, m, d: {"model": s, "normalization": (m, d)}, "normalization"),
    (lambda s, m, d: {"model": s, "pretrained_cfg": {"mean": tuple(m.tolist()), "std": d.tolist()}},
     "pretrained_cfg/mean and pretrained_cfg/std"),
    (lambda s, m, d: {"model": s, "norm": {"Mean": m.numpy(), "Std": d.numpy()}}, "norm/Mean and norm/Std"),
    (lambda s, m, d: {"model": s, "args": argparse.Namespace(mean=m.tolist(), std=d.tolist())},
     "args/mean and args/std"),
    (lambda s, m, d: {"model": s, "args": SimpleNamespace(data=SimpleNamespace(mean=m.tolist(), std=d.tolist()))},
     "args/data/mean and args/data/std"),
    (lambda s, m, d: {"model": s, "mean": tuple(m.numpy()), "std": tuple(d.double().numpy())}, "mean and std"),
    (lambda s, m, d: {"model": s, "stats": (m.tolist(), d.tolist())}, "stats"),
    (lambda s, m, d: {"model": s, "log": {"image_mean": m.tolist(), "image_std": d.tolist()}},
     "log/image_mean and log/image_std"),
    (lambda s, m, d: {"model": s, "args": {"mean": ", ".join(map(str, m.tolist())), "std": str(d.tolist())}},
     "args/mean and args/std"),
])  # fmt: skip
def test_a_normalisation_in_the_file(tmp_path, capsys, wrap, where):
    """Wrappers of networks keep theirs beside the weights; where the images have another it is refused or said."""
    mean, std = map(torch.tensor, OTHERS)
    path = written(tmp_path / "a.pth", wrap(state_dict(), mean, std), zipped=True)
    assert same(loaded(path, images=OTHERS))
    assert same(loaded(path, images=HALF, own=OTHERS))
    assert capsys.readouterr().err == ""
    message = (
        rf"a\.pth: holds a normalisation of images, {where}, with mean \[0\.4914, .* images here have mean \[0\.5, "
    )
    with pytest.raises(UserError, match=message):
        loaded(path, images=HALF)
    for options in ({}, {"images": HALF, "own": HALF}):
        assert same(loaded(path, **options))
        assert f"warning: {path}: holds a normalisation of images, {where}, with mean" in capsys.readouterr().err


@pytest.mark.parametrize("values", [(0.3, 0.2), (np.float64(0.3), np.float32(0.2)), ("0.3", "0.2")])
@pytest.mark.parametrize("name", ["mean", "image_mean", "norm_mean"])
def test_a_normalisation_in_single_numbers(tmp_path, values, name):
    options = argparse.Namespace(**dict(zip((name, name.replace("mean", "std")), values, strict=True)))
    path = written(tmp_path / "a.pth", {"model": state_dict(), "args": options}, zipped=True)
    with pytest.raises(UserError, match=rf"holds a normalisation of images, args/{name} and .*mean \[0\.3, 0\.3"):
        loaded(path, images=HALF)


@pytest.mark.parametrize("beside", [
    {"results": {"mean": 94.2, "std": 0.31}}, {"losses": {"mean": torch.tensor(0.21), "std": torch.tensor(0.05)}},
    {"val_acc": {"mean": 0.942, "std": 0.011}}, {"mean": 0.3, "std": 0.1},
    {"noise_mean": 0.3, "noise_std": 0.1}, {"init_mean": 0, "init_std": 0.02}, {"mean": True, "std": True},
    {"stats": [0.1, 0.2]}, {"test_acc": {"mean": [71.2, 72.3, 70.9], "std": [0.3, 0.2, 0.1]}},
    {"log": {"loss_mean": [0.91, 0.52, 0.4], "loss_std": [0.11, 0.09, 0.08]}},
    {"mean": [71.2, 70.9], "std": [0.1, 0.2]}, {"mean": torch.ones(3)}, {"mean": [-1.0, 0, 1], "std": [1.0] * 3},
    {"mean": [0.5] * 3, "std": [0.0] * 3}, {"mean": "0.5", "std": None}, {"bn.running_mean": torch.zeros(3)},
    {"mean": [0.5] * 3, "std": [300.0] * 3}, {"normalize": True}, {"normalize": [0.1, 0.2, 0.3]},
    {"normalize": ["a", "b"]}, {"mean_std": torch.ones(2)}, {"mean_std": torch.zeros(2, 3)}, {"normalize": [[1], "b"]},
])  # fmt: skip
def test_what_is_no_normalisation(tmp_path, capsys, beside):
    path = written(tmp_path / "a.pth", {"model": state_dict(), "beside": beside}, zipped=True)
    assert same(loaded(path, images=HALF))
    assert capsys.readouterr().err == ""


SWAPPED = ["Cat", "lap-dog", "bird", *map(str, range(7))]
LISTED = ["cat", "bird", "lap dog", *map(str, range(7))]


@pytest.mark.parametrize(("beside", "where"), [
    ({"classes": SWAPPED}, "beside/classes"), ({"names": tuple(SWAPPED)}, "beside/names"), (SWAPPED, "beside"),
    ({"id2label": dict(enumerate(SWAPPED))}, "beside/id2label"),
    ({"labels": {str(number): name for number, name in enumerate(SWAPPED)}}, "beside/labels"),
    ({"class_to_idx": {name: number for number, name in reversed([*enumerate(SWAPPED)])}}, "beside/class_to_idx"),
    (argparse.Namespace(classes=SWAPPED), "beside/classes"),
])  # fmt: skip
def test_classes_in_another_order(tmp_path, beside, where):
    path = written(tmp_path / "a.pth", {"model": state_dict(), "beside": beside}, zipped=True)
    message = f"in {where}: its output 1 stands for 'lap-dog', and here for 'bird'; reorder its classifier"
    with pytest.raises(UserError, match=message):
        loaded(path, classes=LISTED)
    assert same(loaded(path, classes=[name.replace("-", "_").upper() for name in SWAPPED]))
    assert same(loaded(path))


@pytest.mark.parametrize("beside", [
    LISTED, {"a": SWAPPED, "b": LISTED}, [*SWAPPED, "more"], ["other", *SWAPPED[1:]], list(range(10)), [None] * 10,
    {number + 1: name for number, name in enumerate(SWAPPED)}, dict.fromkeys(SWAPPED, 0),
    {name: number / 2 for number, name in enumerate(SWAPPED)},
])  # fmt: skip
def test_what_is_no_other_order(tmp_path, beside):
    path = written(tmp_path / "a.pth", {"model": state_dict(), "beside": beside}, zipped=True)
    assert same(loaded(path, classes=LISTED))


class Call:
    """Pickles as a call that a reader would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(("function", "named"), [(os.system, r"(posix|nt)\.system"), (exec, "exec"), (eval, "eval"),
                                                 (getattr, "getattr"), (np.load, r"numpy\.load")])  # fmt: skip
def test_code_is_never_executed(tmp_path, zipped, function, named):
    ran = tmp_path / "ran"
    order = f"touch {ran}" if function is os.system else f"open({str(ran)!r}, 'w')"
    path = written(tmp_path / "a.pth", {"model": state_dict(), "accuracy": Call(function, order)}, zipped=zipped)
    with pytest.raises(
        UserError, match=rf"a\.pth: not a checkpoint of tensors alone: it asks for {named}, .*safetensors"
    ):
        loaded(path)
    assert not ran.exists()


@pytest.mark.parametrize("zipped_too", [True, False])
def test_the_orders_are_real(tmp_path, zipped_too):
    """They are carried out by a reader that does not care."""
    ran = tmp_path / "ran"
    path = written(tmp_path / "a.pth", {"accuracy": Call(os.system, f"touch {ran}")}, zipped=zipped_too)
    torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize("value", [
    argparse.Namespace(lr=0.1, nested=argparse.Namespace(momentum=0.9)), SimpleNamespace(lr=0.1), Path("runs/a"),
    PurePosixPath("a"), datetime(2026, 1, 1),
])  # fmt: skip
def test_what_training_scripts_keep_beside_the_weights(tmp_path, zipped, value):
    """The options of timm, DeiT and MoCo are a Namespace."""
    path = written(tmp_path / "a.pth", {"model": state_dict(), "args": value, "all": {"best": value}}, zipped=zipped)
    assert loaded(path)


@pytest.mark.parametrize(("value", "named"), [
    (Fraction(1, 2), "fractions.Fraction"), (np.random.default_rng(0), "numpy.random"), (slice(1), "slice"),
])  # fmt: skip
def test_what_else_is_not_read(tmp_path, zipped, value, named):
    path = written(tmp_path / "a.pth", {"model": state_dict(), "opt": value}, zipped=zipped)
    with pytest.raises(UserError, match=f"it asks for {named}.* Where you trust the file"):
        loaded(path)


class TypeOf(Call):
    """A NumPy type with the state that a pickle gives it."""

    def __reduce__(self):
        return np.dtype, ("V8",), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("reader", [set, Counter])
def test_numpy_is_given_no_addresses(tmp_path, zipped, reader, python):
    """NumPy would make an object at the address 0x4141414141414141 of it, and the reader ask for its hash."""
    scalar = Call(np.zeros(1)[0].__reduce__()[0], TypeOf(None), b"A" * 8)
    path = written(tmp_path / "a.pth", {"model": state_dict(), "best": Call(reader, scalar)}, zipped=zipped)
    said = python(
        "from kdcore import checkpoints, networks; from kdcore.system.errors import UserError\n"
        f"try: checkpoints.load({str(path)!r}, networks.create('resnet8', 10))\n"
        "except UserError as error: print(error)"
    )
    assert "not a checkpoint of tensors alone, or damaged ('Scalar' object is not iterable)" in said


def test_truncated_at_any_length_before_1_6(tmp_path):
    content = written(tmp_path / "whole.pth", {"model": state_dict()}, zipped=False).read_bytes()
    for length in range(0, len(content), len(content) // 40):
        (tmp_path / "a.pth").write_bytes(content[:length])
        with pytest.raises(UserError, match="not a checkpoint of tensors"):
            loaded(tmp_path / "a.pth")


def test_a_changed_byte(tmp_path):
    """The file has checksums, which torch does not compare; unless torch was told to write none."""
    path = written(tmp_path / "a.pth", state_dict(), zipped=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"or damaged \(a/data/\d+ is not what its checksum says\); get it anew"):
        loaded(path)
    torch.serialization.set_crc32_options(False)
    try:
        assert same(loaded(written(tmp_path / "b.pth", state_dict(), zipped=True)))
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("compressed", [True, False])
def test_bomb(tmp_path, compressed):
    """Torch unpacks compressed files, though it writes none."""
    torch.save({"model": state_dict(), "zeros": torch.zeros(10**7)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    if not compressed:
        assert same(loaded(tmp_path / "a.pth"))
        return
    with pytest.raises(UserError, match=r"or damaged \([\d,]+ bytes that unpack to 40,[\d,]+: an archive bomb\)"):
        loaded(tmp_path / "a.pth")


def test_compressed_weights(tmp_path):
    """Which hardly shrink."""
    with zipfile.ZipFile(written(tmp_path / "whole.pth", state_dict(), zipped=True)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    assert same(loaded(tmp_path / "a.pth"))


def test_keys_that_would_fill_the_message(tmp_path, zipped):
    """Pairs of pairs of the same, of which a million are written out."""
    key = ("x",)
    for _ in range(20):
        key = (key, key)
    with pytest.raises(UserError, match=r"but tuple, 'xxx") as caught:
        loaded(written(tmp_path / "a.pth", {key: 1, "x" * 10**6: 2}, zipped=zipped))
    assert len(str(caught.value)) < 500


def test_values_that_are_there_more_than_once(tmp_path, zipped):
    """As of optimisers, and weights that layers share."""
    betas, shared = (0.9, 0.999), torch.ones(3)
    groups = [{"betas": betas, "params": [shared, shared], "tags": {(1, (2, 3)): betas}} for _ in range(2000)]
    assert same(loaded(written(tmp_path / "a.pth", {"model": state_dict(), "groups": groups}, zipped=zipped)))


@pytest.mark.parametrize("value", [
    1, "it's", (), (1,), [], {}, {"a": [1, (2,)], 3: None}, [["x" * 80]], "x" * 50, {1, 2}, Counter("aab"), range(3),
    ["\x1b[31m"],
])  # fmt: skip
def test_values_in_messages(value):
    text = repr(value)
    assert shown(value) == (text if len(text) <= 60 else text[:57] + "...")


def test_long_texts_in_messages_keep_both_ends():
    """Names of classes and paths often begin alike."""
    assert shown("x" * 58) == repr("x" * 58)
    assert shown(f"{'a' * 50}{'b' * 50}") == f"'{'a' * 36}...{'b' * 19}'"


def test_values_of_values_of_the_same_in_messages():
    key = ("x",)
    for _ in range(60):
        key = (key, key)
    assert shown(key) == "(" * 57 + "..."


class TestSafetensors:
    """Headers that lie: the length of the header, then JSON with type, shape and place of each tensor, then bytes."""

    @pytest.fixture
    def sound(self, tmp_path):
        checkpoints.save(networks.create("resnet8", 10), tmp_path / "sound.safetensors")
        return (tmp_path / "sound.safetensors").read_bytes()

    @pytest.fixture
    def refused(self, tmp_path, sound):
        """A file whose header is changed, or is another text, or of which only its length is changed."""
        end = 8 + struct.unpack("<Q", sound[:8])[0]

        def refused(change=None, text=None, length=None, rest=sound[end:]):
            header = json.loads(sound[8:end])
            if change is not None:
                change(header)
            said = json.dumps(header).encode() if text is None else text
            content = struct.pack("<Q", len(said) if length is None else length) + said + rest
            (tmp_path / "a.safetensors").write_bytes(content)
            with pytest.raises(
                UserError, match=r"a\.safetensors: (not a safetensors file, |does not fit|holds)"
            ) as caught:
                loaded(tmp_path / "a.safetensors")
            return str(caught.value)

        return refused

    @pytest.mark.parametrize(("key", "value"), [
        ("data_offsets", lambda old: [old[0], 10**9]), ("data_offsets", lambda old: [2**63, 2**64 - 1]),
        ("data_offsets", lambda old: [2**64, 2**65]), ("data_offsets", lambda old: [-4, old[1]]),
        ("data_offsets", lambda old: old[::-1]), ("data_offsets", lambda old: [old[0] - 4, old[1]]),
        ("data_offsets", lambda old: [0, old[1] - old[0]]), ("data_offsets", lambda old: old[:1]),
        ("dtype", lambda old: "F16"), ("dtype", lambda old: "F64"), ("dtype", lambda old: "F7"),
        ("dtype", lambda old: "I32"), ("shape", lambda old: [10, 10**6]), ("shape", lambda old: [2**40, 2**40]),
        ("shape", lambda old: [-10, -64]), ("shape", lambda old: [1] * 10**5 + old), ("shape", lambda old: [640]),
        ("shape", lambda old: [64, 10]),
    ])  # fmt: skip
    def test_tensor(self, refused, key, value):
        def change(header):
            header["fc.weight"][key] = value(header["fc.weight"][key])

        assert len(refused(change)) < 500

    @pytest.mark.parametrize("length", [0, 1, 10**7, 10**9, 2**63, 2**64 - 1])
    def test_length_of_the_header(self, refused, length):
        refused(length=length)

    @pytest.mark.parametrize("text", [
        b"", b"[]", b"null", b"[" * 10**6, b'{"a":' * 10**5, b"\xff" * 99, b"{}", b'{"fc.weight": 3}',
        b'{"__metadata__": {"a": 1}}',
    ])  # fmt: skip
    def test_text_of_the_header(self, refused, text):
        refused(text=text)

    def test_bytes_that_no_tensor_has(self, refused, sound):
        refused(rest=sound[8 + struct.unpack("<Q", sound[:8])[0] :] + b"x")

    def test_shape_beyond_torch(self, refused):
        """Raises its own error."""
        header = b'{"fc.weight": {"dtype": "F32", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}'
        assert "or damaged (reshape(): argument 'shape' failed to unpack" in refused(text=header, rest=b"")

    def test_long_names(self, refused):
        def rename(header):
            header["x" * 10**6] = header.pop("fc.weight")

        assert len(refused(rename)) < 1000

    def test_numbers_that_networks_cannot_hold(self, tmp_path):
        weights = {**state_dict(), "fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}
        (tmp_path / "a.safetensors").write_bytes(save(weights))
        with pytest.raises(UserError, match=r"holds values that are not finite, in \['fc.bias'\]"):
            loaded(tmp_path / "a.safetensors")

    @pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no such type")
    def test_two_numbers_in_a_byte(self, refused, sound):
        header = b'{"fc.bias": {"dtype": "F4", "shape": [10], "data_offsets": [0, 5]}}'
        assert "holds what are no weights, in ['fc.bias (torch.float4_e2m1fn_x2)']" in refused(
            text=header, rest=bytes(5)
        )

    def test_length_that_reads_like_a_web_page(self, refused):
        """Of 60 bytes, a number whose first byte is "<"."""
        assert "or damaged (" in refused(text=b"x" * 60)

    def test_truncated_at_any_length(self, tmp_path, sound):
        for length in [*range(0, len(sound), len(sound) // 40), len(sound) - 1]:
            (tmp_path / "a.safetensors").write_bytes(sound[:length])
            with pytest.raises(UserError, match="not a safetensors file, or damaged"):
                loaded(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.complex64])
    def test_what_are_no_weights(self, tmp_path, kind):
        path = tmp_path / "a.safetensors"
        save_file({**state_dict(), "fc.bias": torch.zeros(10).to(kind)}, path)
        with pytest.raises(
            UserError, match=rf"holds what are no weights, in \['fc\.bias \({kind}\)'\]; weights are float"
        ):
            loaded(path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
class TestNoFile:
    @pytest.mark.parametrize("make", [
        Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/"),
    ])  # fmt: skip
    def test_folder_pipe_and_device(self, tmp_path, name, make):
        """Of which the last two would never end."""
        make(tmp_path / name)
        with pytest.raises(
            UserError, match=rf"{name}: is a folder, a pipe or a device; name a \.safetensors or \.pth file"
        ):
            loaded(tmp_path / name)

    @pytest.mark.parametrize("target", ["nowhere", "a.pth", "a.safetensors"])
    def test_link_that_leads_nowhere(self, tmp_path, name, target):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name}: no such checkpoint"):
            loaded(tmp_path / name)

    def test_name_that_is_too_long(self, tmp_path, name):
        with pytest.raises(UserError, match="no such checkpoint"):
            loaded(tmp_path / ("x" * 300 + name))

    def test_file_that_cannot_be_read(self, tmp_path, name):
        """The first bytes of a process's memory, which root cannot read either."""
        (tmp_path / name).symlink_to("/proc/self/mem")
        with pytest.raises(UserError, match=rf"{name}: cannot be read \(Input/output error\)"):
            loaded(tmp_path / name)


@pytest.mark.parametrize(("content", "message"), [
    (b"\n<!DOCTYPE html><html>", "but a web page: the download did not reach the file"),
    (b"\x1f\x8b" + bytes(100), "but an archive: name the file inside with 'member'"),
    (bytes(257) + b"ustar" + bytes(300), "but an archive: name the file inside with 'member'"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "for it is a Git LFS pointer, .*; run 'git lfs pull'"),
    (b"weights", "or damaged"),
])  # fmt: skip
def test_other_files_are_called_what_they_are(tmp_path, content, message):
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a .*{message}") as caught:
            checkpoints.load(tmp_path / name, networks.create("resnet8", 10))
        assert "weights_only" not in str(caught.value)


def test_infinities_by_design_and_shared_weights_are_kept(tmp_path):
    network, other, file = Masked(), Masked(), tmp_path / "weights.safetensors"
    checkpoints.save(network, file)
    checkpoints.load(file, other)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())
    assert other.second.weight is other.first.weight
    network.mask[1, 0] = torch.inf
    checkpoints.save(network, file)
    with pytest.raises(UserError, match=r"holds values that are not finite, in \['mask'\]"):
        checkpoints.load(file, other)
