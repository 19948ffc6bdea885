"""What is computed once of a teacher and its training images is kept, and only for them."""

import platform
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdcore.data import storage
from kdcore.data.dataset import Encoded, Split
from kdcore.data.sources import digits
from kdcore.sweep import cleaning
from kdcore.system.workspace import MANIFEST
from kdcore.training import kept, loop, teacher_cache
from kdcore.training.kept import Keeper
from kdcore.training.teacher_cache import Shape, open_table
from tests.pictures import encoded
from tests.train import CPU, card, training_settings

NAME = "a matrix"


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, str(tmp_path / "tables"))
    return tmp_path / "tables"


@pytest.fixture(scope="module")
def teacher():
    return loop.create("resnet8", 10, 0, CPU).eval()


class Matrix:
    """Counts how often it is computed."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return torch.arange(6.0).reshape(2, 3) / 7


def computed(*keepers, name=NAME):
    """How often all of these together compute a matrix, which they all return."""
    compute = Matrix()
    for keeper in keepers:
        assert torch.equal(keeper(name, compute), Matrix()())
    return compute.times


def test_computed_once(teacher, dataset):
    keeper = Keeper(teacher, dataset, CPU)
    again = Keeper(loop.create("resnet8", 10, 0, CPU), replace(dataset), CPU)
    assert computed(keeper, keeper, again) == 1
    assert computed(keeper, again) == 0
    assert computed(keeper, name="another matrix") == 1


def test_of_other_networks_images_and_code_it_is_computed_anew(teacher, dataset, monkeypatch):
    keeper = Keeper(teacher, dataset, CPU)
    assert computed(keeper) == 1
    images, labels = dataset.train.images.copy(), dataset.train.labels.copy()
    images[0, 0, 0] ^= 1
    labels[[0, 2]] = labels[[2, 0]]
    assert (labels != dataset.train.labels).any()
    others = [
        Keeper(loop.create("resnet8", 10, 1, CPU), dataset, CPU),
        Keeper(loop.create("resnet14", 10, 0, CPU), dataset, CPU),
        Keeper(teacher, replace(dataset, train=Split(images, dataset.train.labels)), CPU),
        Keeper(teacher, replace(dataset, train=Split(dataset.train.images, labels)), CPU),
        Keeper(teacher, replace(dataset, mean=(0.1, 0.2, 0.3)), CPU),
        Keeper(teacher, replace(dataset, image_size=12), CPU),
    ]
    assert computed(*others) == len(others)
    assert computed(keeper, *others) == 0
    for module, name, value in ((platform, "node", lambda: "another"), (kept, "fingerprint", lambda _module: "new")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert computed(keeper) == 1


def test_bytes_decide_and_not_where_a_weight_stands(teacher, dataset):
    """One bit of one weight."""
    changed = loop.create("resnet8", 10, 0, CPU)
    with torch.no_grad():
        changed.classifier.bias[3] += 1e-6
    assert computed(Keeper(teacher, dataset, CPU), Keeper(changed, dataset, CPU)) == 2


def test_damaged_files_are_computed_again(teacher, dataset, folder):
    keeper = Keeper(teacher, dataset, CPU)
    computed(keeper)
    (values,) = folder.glob(f"*/{kept.VALUES}")
    about = values.with_name(teacher_cache.ABOUT)
    whole = {file: file.read_bytes() for file in (values, about)}
    for file, content in whole.items():
        for damaged in (content[:-2], b"", bytes([content[0] ^ 1]) + content[1:], None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert computed(keeper, keeper) == 1
            assert {path: path.read_bytes() for path in whole} == whole


def test_any_changed_byte_of_the_values_is_found(teacher, dataset, folder):
    keeper = Keeper(teacher, dataset, CPU)
    computed(keeper)
    (values,) = folder.glob(f"*/{kept.VALUES}")
    content = values.read_bytes()
    for position in range(len(content)):
        values.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert computed(keeper) == 1


def test_nothing_is_kept_where_no_tables_are_wanted(teacher, dataset, folder, monkeypatch):
    monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
    keeper = Keeper(teacher, dataset, CPU)
    assert computed(keeper, keeper) == 2
    assert not folder.exists()


def test_it_shares_the_room_of_tables(teacher, dataset, folder, monkeypatch):
    """And goes before them where it was used before them."""
    monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0.0001")
    monkeypatch.setattr(teacher_cache, "SPARE", 0)
    keeper = Keeper(teacher, dataset, CPU)
    computed(keeper)
    table = Shape(99_900, 1, 1, 10), torch.float32
    assert open_table({}, *table) is None
    time.sleep(0.02)  # longer than the file system's clock takes to tick
    small = Shape(2_272, 1, 1, 10), torch.float32  # 99,968 bytes
    assert open_table({}, *small) is not None
    assert computed(keeper) == 1
    assert open_table({}, *small, make=False) is None


def test_nothing_goes_for_a_table_that_would_find_no_room_anyway(teacher, dataset, folder, monkeypatch):
    """Too large for the disk, though not for what tables may take."""
    monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "40")
    assert open_table({}, Shape(100, 1, 1, 10), torch.float32) is not None
    disk = shutil.disk_usage(folder)
    monkeypatch.setattr(teacher_cache, "SPARE", (disk.free - 1e6) / disk.total)
    assert open_table({"another": 1}, Shape(1_000_000, 1, 1, 10), torch.float32) is None
    assert open_table({}, Shape(100, 1, 1, 10), torch.float32, make=False) is not None


def test_a_folder_that_cannot_be_written_is_a_warning(teacher, dataset, folder, capsys):
    folder.write_text("no folder")
    keeper = Keeper(teacher, dataset, CPU)
    assert computed(keeper, keeper) == 2
    assert capsys.readouterr().err.count("training goes on, and the next run computes again") == 2


def test_a_full_disk_is_a_warning(teacher, dataset, folder, capsys, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write_json", full)
    assert computed(Keeper(teacher, dataset, CPU)) == 1
    assert "No space left on device; training goes on" in capsys.readouterr().err
    assert not list(folder.glob(f"*/{kept.VALUES}"))


def test_errors_of_what_is_computed_are_raised(teacher, dataset):
    """And the next one computes it."""
    keeper = Keeper(teacher, dataset, CPU)

    def compute():
        raise OSError("an image is gone")

    with pytest.raises(OSError, match="an image is gone"):
        keeper(NAME, compute)
    assert computed(keeper, keeper) == 1


def test_who_wants_the_same_at_the_same_time_waits(teacher, dataset, capsys):
    keeper, compute, begun, go = Keeper(teacher, dataset, CPU), Matrix(), threading.Event(), threading.Event()

    def slowly():
        begun.set()
        assert go.wait(60)
        return compute()

    found = []
    first = threading.Thread(target=lambda: found.append(keeper(NAME, slowly)))
    second = threading.Thread(target=lambda: found.append(keeper(NAME, slowly)))
    first.start()
    assert begun.wait(60)
    second.start()
    while "another process computes it; waiting" not in capsys.readouterr().err:
        time.sleep(0.01)
        assert second.is_alive()
    go.set()
    first.join()
    second.join()
    assert compute.times == 1
    assert torch.equal(*found)


class TestStreamed:
    """Images that are decoded when they are seen are known by the checksum in their set's manifest."""

    @pytest.fixture
    def streamed(self, dataset, tmp_path):
        table = pa.table({"label": np.arange(4) % 2, "image": [encoded(i % 2, i) for i in range(4)]})
        made = replace(dataset, classes=["a", "b"], train=Encoded(table), test=Encoded(table))
        (tmp_path / "set").mkdir()
        storage.save(made, tmp_path / "set")
        return made, storage.load(tmp_path / "set")

    def test_stored_sets_and_parts_of_them(self, teacher, streamed):
        stored = streamed[1]
        part = replace(stored, train=stored.train.take(np.array([0, 3])))
        assert computed(*(Keeper(teacher, of, CPU) for of in (stored, part, stored, part))) == 2

    def test_without_a_manifest_nothing_is_kept(self, teacher, streamed, tmp_path):
        made, stored = streamed
        assert computed(*[Keeper(teacher, made, CPU)] * 2) == 2
        (tmp_path / "set" / MANIFEST).unlink()
        assert computed(*[Keeper(teacher, stored, CPU)] * 2) == 2


def test_it_is_cleaned_with_the_tables(teacher, dataset, folder, monkeypatch):
    keeper = Keeper(teacher, dataset, CPU)
    computed(keeper)
    monkeypatch.setattr(teacher_cache, "CACHE", folder)
    assert cleaning._remove_tables() > 0
    assert computed(keeper) == 1


def test_cells_of_one_teacher_compute_its_cost_once(dataset, monkeypatch, folder):
    """Whatever the student, the scale and the weights; with the same bits as without anything kept."""
    settings = {**training_settings(1, 10, 0.02).model_dump(exclude_none=True)}

    def cost(pair, seed=3):
        teacher = loop.create(pair.split("-")[0], 10, seed, CPU)
        run = loop.prepare(card(pair, "wkd_l", settings), dataset, teacher, device=CPU)
        return run.objective.terms["wkd_l"].adapter.cost

    first, second = cost("wrn_16_1-resnet8"), cost("wrn_16_1-wrn_16_1")
    assert torch.equal(first, second)
    assert len(list(folder.glob(f"*/{kept.VALUES}"))) == 1
    assert not torch.equal(cost("wrn_16_1-resnet8", seed=4), first)
    assert len(list(folder.glob(f"*/{kept.VALUES}"))) == 2
    monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
    assert torch.equal(cost("wrn_16_1-resnet8"), first)


def test_other_code_of_the_network_is_another_key(dataset, teacher, monkeypatch):
    """What was computed with an earlier version of a network's file is not taken for the present one's."""
    keeper = Keeper(teacher, dataset, CPU)
    assert computed(keeper, keeper) == 1
    names = ["kdcore.networks.resnet", teacher_cache.OUTPUTS]
    assert teacher_cache.code_of(teacher) == [teacher_cache.fingerprint(name) for name in names]
    monkeypatch.setattr(teacher_cache, "fingerprint", lambda module: f"edited {module}")
    assert computed(keeper) == 1
