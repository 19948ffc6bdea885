"""What makes training fast changes no result: folded norms, tables of teachers' logits, shared teachers."""

import os
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdcore import networks, scales
from kdcore.data import subsets
from kdcore.data.feed import Feed
from kdcore.data.sources import digits
from kdcore.system.errors import UserError
from kdcore.training import device, loop, teacher_cache, teacher_outputs
from kdcore.training.device import compute_dtype
from kdcore.training.folding import folded
from kdcore.training.teacher_cache import Shape, open_table
from tests.train import as_card, training_settings
from tests.training.test_loop import CRD, KD, RECIPES

CPU = torch.device("cpu")
SETTINGS = training_settings(2, 16, 0.05)


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, str(tmp_path / "tables"))
    return tmp_path / "tables"


def lively(name, classes=10):
    """A network whose norms do something, in evaluation mode."""
    torch.manual_seed(0)
    network = networks.create(name, classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 1.5),
                                      (module.bias, -0.3, 0.3), (module.running_mean, -0.3, 0.3)):  # fmt: skip
                nn.init.uniform_(values, low, high)
    return network.eval()


class TestFolding:
    @pytest.mark.parametrize(("name", "left"), [
        ("resnet20", 0), ("resnet18", 0), ("vgg8", 0), ("mobilenetv2", 0), ("shufflenetv1", 0), ("shufflenetv2", 0),
        ("imagenet_resnet18", 0), ("imagenet_mobilenetv2", 0), ("wrn_16_2", 7), ("wrn_16_1", 7),
    ])  # fmt: skip
    def test_same_outputs_with_fewer_norms(self, name, left):
        """All but those of wide residual networks that follow a sum."""
        network = lively(name)
        made = folded(network, 32)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in made.modules()) == left
        with torch.no_grad():
            images = torch.randn(2, 3, 32, 32)
            expected, got = network(images), made(images)
        for field in ("logits", "pooled", "final_map"):
            torch.testing.assert_close(getattr(got, field), getattr(expected, field), rtol=1e-3, atol=1e-4)
        for a, b in zip((*got.stages, *got.preacts), (*expected.stages, *expected.preacts), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

    def test_the_network_itself_stays_as_it_was(self):
        network = lively("resnet8")
        before = {key: value.clone() for key, value in network.state_dict().items()}
        folded(network, 16)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert list(before) == list(network.state_dict())


def distil(dataset, method, levels=(1,), *, precision="float32", student="resnet8", seed=0, settings=SETTINGS):
    card = {"name": "cell", "student": student, "method": method, "recipe": RECIPES.get(method, KD), "seed": seed,
            "stand": True, "levels": list(levels), "train": {**as_card(settings), "precision": precision}}  # fmt: skip
    if method == "crd":
        card["recipe"] = CRD
    return loop.prepare(card, dataset, lively("wrn_16_1"), device=CPU)


def bits(run):
    return [run.history, *(value.tolist() for value in run.student.state_dict().values())]


def trained(dataset, run):
    loop.train(run, lively("wrn_16_1"), dataset)
    return bits(run)


class TestTable:
    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    @pytest.mark.parametrize("levels", [(1,), (1, 2), (1, 2, 4), (4,)])
    def test_same_bits_without_a_table_with_an_empty_one_and_a_full_one(
        self, dataset, tables, monkeypatch, levels, precision
    ):
        def run():
            return trained(dataset, distil(dataset, "kd", levels, precision=precision))

        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
        expected = run()
        assert not list(tables.glob("*/logits"))
        monkeypatch.delenv(teacher_cache.SIZE_VARIABLE)
        assert run() == expected
        trained(dataset, distil(dataset, "kd", (1, 2), precision=precision))  # whose table those without regions take
        assert run() == expected
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
        assert open_table({}, Shape(1, 1, 1, 1), torch.float16) is None
        assert run() == expected
        monkeypatch.delenv(teacher_cache.SIZE_VARIABLE)
        calls = []
        monkeypatch.setattr(teacher_outputs.Tabled, "_compute", lambda *_arguments: calls.append(1))
        assert run() == expected
        assert calls == []

    def test_shared_by_students_methods_scales_and_standardisations(self, dataset, tables):
        trained(dataset, distil(dataset, "kd", (1, 2)))
        trained(dataset, distil(dataset, "kd", (1, 4), student="wrn_16_1"))
        trained(dataset, distil(dataset, "kd", (1,)))
        assert len(list(tables.glob("*/logits"))) == 1
        trained(dataset, distil(dataset, "kd", (1, 2), precision="bfloat16"))
        assert len(list(tables.glob("*/logits"))) == 2

    @pytest.mark.parametrize("method", ["crd", "mlkd", "crd+ctkd"])
    def test_not_for_maps_and_strong_views(self, dataset, tables, method):
        trained(dataset, distil(dataset, method))
        assert not tables.exists()

    @pytest.mark.parametrize("options", [{"validation": 0.25}, {"per_class": 3}, {"augmented": False}])
    def test_other_images_and_views_have_tables_of_their_own(self, dataset, tables, monkeypatch, options):
        made = []
        for size in ("0", "1", "1"):
            monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, size)
            trained(dataset, distil(dataset, "kd"))
            seen = subsets.chosen(dataset, **options)
            made.append(trained(seen, distil(seen, "kd")))
        assert made[0] == made[1] == made[2]
        assert len(list(tables.glob("*/logits"))) == 2

    def test_rows_are_images_and_views(self, dataset):
        """Equal rows are equal pictures, and the other way round."""
        feed = Feed(dataset, CPU)
        assert feed.view_count == 81
        pictures = {}
        for epoch in range(1, 30):
            for seen in feed.batches(40, views=1, seed=0, epoch=epoch):
                for row, image, view in zip(seen.view_names, seen.index, seen.views[0], strict=True):
                    assert row // 81 == image
                    assert pictures.setdefault(int(row), view.numpy().tobytes()) == view.numpy().tobytes()
        assert len(pictures) > 700

    def test_rows_do_not_depend_on_their_neighbours(self, dataset, tables):
        """A view's logits have the same bits whichever others are missing with it."""
        feed = Feed(dataset, CPU)
        (seen,) = feed.batches(40, views=1, seed=0, epoch=1)
        made = []
        for first in (40, 3, 17):
            table = open_table({"name": first}, Shape(40, 81, 17, 10), torch.float32)
            network = folded(lively("wrn_16_1"), 16)
            logits = teacher_outputs.Logits(partial(teacher_outputs._ends, network), network.classifier)
            tabled = teacher_outputs.Tabled(logits, torch.float32, table, 16)
            assert len(table.read(seen.view_names)[1]) == len(seen.view_names)
            part = np.arange(first)
            table.write(seen.view_names[part], tabled._compute(seen.views[0], part[:16])) if first < 16 else None
            made.append(tabled(seen)[0])
        for other in made[1:]:
            assert torch.equal(other.logits, made[0].logits)
            assert torch.equal(other.grid, made[0].grid)

    def test_regions_are_those_of_the_pyramid(self):
        network = lively("resnet20")
        with torch.no_grad():
            final_map = network(torch.randn(3, 3, 32, 32)).final_map
            grid = scales.grid_logits(final_map, network.classifier)
            for levels in ((1,), (1, 2), (2,), (1, 4), (1, 2, 4)):
                expected = scales.pyramid_logits(final_map, network.classifier, levels)
                torch.testing.assert_close(scales.region_logits(grid, levels), expected, rtol=1e-4, atol=1e-5)

    def test_what_was_used_longest_ago_makes_room(self, tables, monkeypatch):
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0.0001")
        shape = Shape(100, 2, 1, 100)  # 40 kB
        for name in ("a", "b", "a", "c"):
            assert open_table({"name": name}, shape, torch.float16) is not None
            time.sleep(0.02)  # longer than the file system's clock takes to tick
        kept = {path.read_text().split('"name": "')[1][0] for path in tables.glob("*/about.json")}
        assert kept == {"a", "c"}
        assert open_table({"name": "d"}, Shape(1000, 2, 1, 100), torch.float16) is None

    def test_one_that_finds_no_room_is_said_once(self, tables, monkeypatch, capsys):
        """Each of another size, and none while tables are not wanted."""
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0.0001")
        for regions in (17, 17, 1):
            assert open_table({}, Shape(300, 162, regions, 100), torch.float32) is None
        assert open_table({}, Shape(300, 162, 5, 100), torch.float32, make=False) is None
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
        assert open_table({}, Shape(300, 162, 5, 100), torch.float32) is None
        first, second = capsys.readouterr().err.splitlines()
        why = "for KDCORE_TABLES_GB allows 0.0001 GB and a tenth of the disk stays free; training goes on, and runs the"
        assert first.startswith(
            f"warning: {tables}: the table of the teacher's logits of 17 regions, of up to 0.331 GB, "
        )
        assert why in first
        assert second.startswith(
            f"warning: {tables}: the table of the teacher's logits, of up to 0.0196 GB, finds no room"
        )

    def test_on_a_gpu_only_where_their_size_is_said(self, monkeypatch):
        monkeypatch.delenv(teacher_cache.SIZE_VARIABLE, raising=False)
        assert [teacher_cache.is_wanted(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [True, False, False]
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "40")
        assert teacher_cache.is_wanted(torch.device("cuda:1"))

    def test_gpus_of_one_kind_share_a_table(self, monkeypatch):
        """Whatever their numbers and the CPU threads beside them; TF32 and another kind of GPU round otherwise."""
        names, found = {0: "H200", 1: "H200", 2: "A100"}, []
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: names[where.index])
        for number, threads, products in ((0, 1, False), (1, 2, False), (2, 1, False), (0, 1, True)):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            monkeypatch.setattr(teacher_cache, "tf32", lambda products=products: ["matrix products"] * products)
            found.append(teacher_cache.computed_on(torch.device("cuda", number)))
        assert found[0] == found[1]
        assert len({str(one) for one in found}) == 3
        on_cpu = []
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            on_cpu.append(teacher_cache.computed_on(CPU))
        assert on_cpu == [["cpu", torch.__version__, 1], ["cpu", torch.__version__, 2]]

    def test_size_must_be_a_number(self, monkeypatch):
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "much")
        with pytest.raises(UserError, match="KDCORE_TABLES_GB=much: must be a number of gigabytes"):
            open_table({}, Shape(1, 1, 1, 1), torch.float16)

    def test_tables_of_another_machine_are_not_read(self, tables, monkeypatch):
        open_table({}, Shape(1, 1, 1, 1), torch.float16)
        monkeypatch.setattr(platform, "node", lambda: "another")
        open_table({}, Shape(1, 1, 1, 1), torch.float16)
        assert len(list(Path(tables).glob("*/logits"))) == 2

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_damaged_rows_are_computed_again(self, tables, dtype):
        """Whichever byte of a row has changed, its checksum's too; rows beside it are not touched."""
        table, rows = open_table({}, Shape(2, 2, 3, 5), dtype), np.arange(4)
        logits = torch.arange(60).reshape(4, 3, 5).to(dtype)
        logits[3] = 0
        assert table.read(rows)[1].tolist() == [0, 1, 2, 3]
        table.write(rows, logits)
        assert table.read(rows)[1].tolist() == []
        (file,) = tables.glob("*/logits")
        whole = file.read_bytes()
        for position, byte in enumerate(whole):
            with file.open("r+b") as damaged:
                damaged.seek(position)
                damaged.write(bytes([byte ^ 1]))
            found, missing = table.read(rows)
            assert missing.tolist() == [position // table.row_bytes]
            there = np.delete(rows, missing)
            assert torch.equal(found[there], logits[there])
            file.write_bytes(whole)

    def test_what_is_no_table_is_left_alone(self, tables, monkeypatch):
        """The folder may hold anything: it is the user's."""
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0.0001")
        foreign = [tables / "thesis", tables / ("a" * 24), tables / ".ssh"]
        for folder in foreign:
            folder.mkdir(parents=True)
            os.utime(folder, (0, 0))
        for name in ("a", "b", "c"):
            assert open_table({"name": name}, Shape(100, 2, 1, 100), torch.float16) is not None
        assert all(folder.is_dir() for folder in foreign)
        assert len(list(tables.glob("*/logits"))) == 2


class TestPrecision:
    def test_auto_is_what_the_hardware_multiplies(self, monkeypatch):
        for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
            monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _device, able=able: able)
            assert compute_dtype("auto", CPU) == expected
        assert compute_dtype("float32", CPU) == torch.float32
        assert compute_dtype("bfloat16", CPU) == torch.bfloat16

    def test_bfloat16_learns_as_well(self, dataset):
        settings = training_settings(12, 8, 0.05)
        runs = [distil(dataset, "kd", precision=name, settings=settings) for name in ("float32", "bfloat16")]
        for run in runs:
            trained(dataset, run)
        exact, half = (run.history[-1] for run in runs)
        assert half["loss"] == pytest.approx(exact["loss"], rel=0.2)
        assert all(value.dtype == torch.float32 for value in runs[1].student.parameters())
