"""Loggers read back: every epoch once, also after a kill; none can fail a cell or change its numbers."""

import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from math import isfinite
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, whole
from kdcore.training import experiment, loggers
from kdcore.training.loggers import Feed
from tests.pipeline import test_stages
from tests.pipeline.test_stages import call
from tests.project import ROOT

NAME = test_stages.CARD["name"]
CARD = {**test_stages.CARD, "train": {**test_stages.CARD["train"], "epochs": 3, "batch_size": 10, "threads": 1}}
KEY = "0123456789abcdef"


def row(epoch, **changes):
    return {
        "epoch": epoch,
        "lr": 0.1,
        "loss": 2.0 / epoch,
        "train_top1": 10.0 * epoch,
        "test_top1": 9.0 * epoch,
        **changes,
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def project(here):
    """A folder with a card and its data."""
    with whole(here / "data/digits") as folder:
        storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=1), folder)
    yamlfile.write(here / "cards/baseline/cell.yaml", CARD)
    return here


def train(**options):
    experiment.run(Path("cards/baseline/cell.yaml"), Path("out"), **options)


def folder_of(logger, name=NAME):
    [folder] = (loggers.FOLDER / logger / name).iterdir()
    return folder


def events(name=NAME):
    """All points in a run's event files, as they are in the files: (tag, step) -> values."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    points = {}
    for file in sorted(folder_of("tensorboard", name).iterdir()):
        for record in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    points.setdefault((value.tag, event.step), []).append(value.simple_value)
    return points


def once(history):
    """What a logger must hold of a history: every finite value of every epoch, once."""
    return {
        (key, int(row["epoch"])): [pytest.approx(value, rel=1e-5)]
        for row in history
        for key, value in row.items()
        if key != "epoch" and isfinite(value)
    }


class TestChosen:
    @pytest.mark.parametrize(("given", "names"), [
        ("", ()), ("tensorboard", ("tensorboard",)), (" wandb, mlflow ,", ("wandb", "mlflow")),
        ("dvclive,dvclive", ("dvclive",)),
    ])  # fmt: skip
    def test_names(self, monkeypatch, given, names):
        monkeypatch.setenv(loggers.VARIABLE, given)
        assert loggers.chosen() == names

    def test_an_unknown_name(self, monkeypatch):
        monkeypatch.setenv(loggers.VARIABLE, "tensorboard,mlfow")
        with pytest.raises(UserError) as refused:
            loggers.chosen()
        assert str(refused.value) == (
            "KDCORE_LOGGERS: unknown logger 'mlfow'. Did you mean mlflow? Allowed are tensorboard, wandb, mlflow, "
            "dvclive, several with commas between them"
        )

    def test_it_is_refused_before_training(self, project, monkeypatch):
        monkeypatch.setenv(loggers.VARIABLE, "x")
        with pytest.raises(UserError, match="unknown logger 'x'"):
            train()
        assert sorted(os.listdir()) == ["cards", "data"]

    @pytest.mark.slow
    @pytest.mark.parametrize("command", [["stages.sweep"], ["stages.tune"]])
    def test_it_is_refused_before_a_sweep(self, here, command):
        code, said = call(here, *command, KDCORE_LOGGERS="x")
        assert (code, said.startswith("error: KDCORE_LOGGERS: unknown logger 'x'")) == (2, True), said

    def test_a_sweep_imports_what_it_can_beforehand(self, monkeypatch):
        monkeypatch.delenv(loggers.VARIABLE, raising=False)
        assert loggers.preloaded() == []
        monkeypatch.setenv(loggers.VARIABLE, "wandb,tensorboard")
        assert loggers.preloaded() == ["torch.utils.tensorboard"]

    def test_every_name_has_a_logger(self):
        """And what a sweep imports beforehand is there, for a fork server swallows what is not."""
        files = {path.stem for path in Path(loggers.__file__).parent.glob("of_*.py")}
        assert files == {f"of_{name}" for name in loggers.NAMES}
        for module in loggers.PRELOADED.values():
            __import__(module)


class TestTensorBoard:
    def test_a_run_is_read_back(self, project, monkeypatch, capsys):
        monkeypatch.setenv(loggers.VARIABLE, "tensorboard")
        histories = []
        train(watch=lambda history: histories.append(list(history)))
        assert len(histories[-1]) == 3
        assert events() == once(histories[-1])
        assert {"loss", "ce", "lr", "train_top1", "test_top1"} == {tag for tag, _ in events()}
        assert "logger" not in capsys.readouterr().err

    def test_an_interrupted_run_goes_on_with_every_epoch_once(self, project, monkeypatch):
        monkeypatch.setenv(loggers.VARIABLE, "tensorboard")

        def stop(history):
            if len(history) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(watch=stop)
        assert {step for _, step in events()} == {1, 2}
        histories = []
        train(watch=lambda history: histories.append(list(history)))
        assert events() == once(histories[-1])
        assert {step for _, step in events()} == {1, 2, 3}

    def test_a_process_that_was_killed_after_an_epoch_that_no_state_has(self, here):
        """Its file stays open, as a killed process leaves it; the next one trains the epoch again."""
        killed = Feed(["tensorboard"], CARD, KEY)
        killed.follow([row(1), row(2), row(3)])
        killed.loggers["tensorboard"].writer.flush()
        assert {step for _, step in events()} == {1, 2, 3}
        again = Feed(["tensorboard"], CARD, KEY)
        history = [row(1), row(2)]
        again.follow(history)
        history.append(row(3))
        again.follow(history)
        again.close(finished=True)
        assert events() == once(history)

    @pytest.mark.slow
    def test_a_cell_that_was_killed(self, project):
        """Wherever it was: its second process goes on, and the files hold its history."""
        yamlfile.write(Path("cards/baseline/cell.yaml"), {**CARD, "train": {**CARD["train"], "epochs": 60}})
        command, live = ["stages.train", "baseline", "cell"], Path(f"scratch/live/{NAME}.csv")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), loggers.VARIABLE: "tensorboard"}
        with subprocess.Popen([sys.executable, "-m", *command], env=environment, stderr=subprocess.DEVNULL) as process:
            while not live.is_file() or len(live.read_text().splitlines()) < 5:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        code, said = call(project, *command, KDCORE_LOGGERS="tensorboard")
        assert (code, "resumes at epoch" in said) == (0, True), said
        history = pd.read_csv(f"runs/{CARD['pair']}/cell/history.csv").to_dict("records")
        assert len(history) == 60
        assert events() == once(history)

    def test_another_card_is_another_run(self, here):
        for key in (KEY, "f" * 16):
            feed = Feed(["tensorboard"], CARD, key)
            feed.follow([row(1)])
            feed.close(finished=True)
        assert {path.name for path in (loggers.FOLDER / "tensorboard" / NAME).iterdir()} == {KEY[:8], "f" * 8}

    def test_what_was_not_measured_is_left_out(self, here):
        feed = Feed(["tensorboard"], CARD, KEY)
        feed.follow([row(1, test_top1=float("nan"))])
        feed.close(finished=True)
        assert ("test_top1", 1) not in events()
        assert ("loss", 1) in events()


def test_a_run_has_the_same_bits_with_and_without(project, monkeypatch):
    """Its card is the same too, so DVC sees no difference."""
    train()
    before = file_sha256(Path("out/weights.safetensors"))
    monkeypatch.setenv(loggers.VARIABLE, "tensorboard")
    train()
    assert file_sha256(Path("out/weights.safetensors")) == before
    assert events()


class Broken(loggers.Logger):
    """Fails where it is told to."""

    where = ""

    def __init__(self, run):
        self._fail("open")

    kind = RuntimeError

    def _fail(self, where):
        if self.where == where:
            raise self.kind(f"no\nway to {where}")

    def log(self, epoch, values):
        self._fail("log")

    def close(self, *, finished):
        self._fail("close")


class TestFailures:
    @pytest.mark.parametrize(("where", "kind"), [("open", RuntimeError), ("log", SystemExit), ("close", OSError)])
    def test_a_broken_logger_is_one_warning(self, project, monkeypatch, capsys, where, kind):
        """And the others are fed."""
        monkeypatch.setattr(Broken, "kind", kind)
        opened = loggers._opened
        monkeypatch.setattr(Broken, "where", where)
        monkeypatch.setattr(loggers, "_opened", lambda name, run: (Broken if name == "mlflow" else
                            lambda run: opened(name, run))(run))  # fmt: skip
        monkeypatch.setenv(loggers.VARIABLE, "mlflow,tensorboard")
        train()
        said = [line for line in capsys.readouterr().err.splitlines() if "logger" in line]
        assert said == [
            f"warning: {NAME}: logger mlflow failed ({kind.__name__}: no way to {where}) and is not fed any more"
        ]
        assert {step for _, step in events()} == {1, 2, 3}
        assert Path("out/meta.json").is_file()

    @pytest.mark.parametrize(("name", "module"), [
        ("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow"), ("dvclive", "dvclive"),
    ])  # fmt: skip
    def test_a_package_that_is_not_installed(self, here, monkeypatch, capsys, name, module):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, f"kdcore.training.loggers.of_{name}", raising=False)
        feed = Feed([name], CARD, KEY)
        feed.follow([row(1)])
        feed.follow([row(1), row(2)])
        feed.close(finished=True)
        [said] = capsys.readouterr().err.splitlines()
        assert said.startswith(f"warning: {NAME}: logger {name} failed (ModuleNotFoundError: ")
        assert said.endswith(f"; pip install -e '.[{'mlflow' if name == 'mlflow' else 'loggers'}]' brings it")

    def test_a_logger_that_takes_signals_gives_them_back(self, here, monkeypatch):
        """Training saves its state on them."""

        def take(name, run):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return Broken(run)

        monkeypatch.setattr(loggers, "_opened", take)
        before = signal.getsignal(signal.SIGTERM)
        Feed(["wandb"], CARD, KEY).follow([row(1)])
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_card_is_flat():
    flat = loggers.flat({**CARD, "code": {"trainer": "x"}, "levels": [1, 2], "stand": True})
    assert flat["recipe.ce_weight"] == 1.0
    assert flat["train.lr"] == 0.05
    assert (flat["levels"], flat["stand"]) == ("[1, 2]", True)
    assert not [key for key in flat if key.startswith("code")]


def test_experiments_in_temporary_folders_log_into_the_project(tmp_path, monkeypatch):
    folder = tmp_path / ".dvc/tmp/exps/abc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert Feed([], CARD, KEY).run.root == tmp_path / loggers.FOLDER


@pytest.mark.slow
class TestDvcLive:
    def test_files_are_read_back(self, here):
        """Every epoch once, also after a kill; and no dvc.yaml, which would be a pipeline's."""
        call(here, "dvc", "init", "--no-scm", "-q")
        before = {path.name for path in here.iterdir()}
        killed = Feed(["dvclive"], CARD, KEY)
        killed.follow([row(1), row(2), row(3)])
        history = [row(1), row(2)]
        feed = Feed(["dvclive"], CARD, KEY)
        feed.follow(history)
        history.append(row(3))
        feed.follow(history)
        feed.close(finished=True)
        folder = folder_of("dvclive")
        for name in ("loss", "lr", "train_top1", "test_top1"):
            lines = (folder / f"plots/metrics/{name}.tsv").read_text().splitlines()
            read = [line.split("\t") for line in lines[1:]]
            assert [(int(step), float(value)) for step, value in read] == [(r["epoch"], r[name]) for r in history]
        assert yamlfile.read(folder / "params.yaml")["train.lr"] == 0.05
        assert {path.name for path in here.iterdir()} == before | {"scratch"}


@pytest.mark.slow
class TestWandb:
    def test_an_offline_run_is_read_back(self, here):
        """Every epoch once, also after a kill: the file of the killed process is gone."""
        code = "import os; from tests.training.test_loggers import *\n"
        code += "Feed(['wandb'], CARD, KEY).follow([row(1), row(2), row(3)]); os._exit(9)"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        nothing = subprocess.DEVNULL  # a helper of wandb outlives it for seconds, and holds what it has inherited
        killed = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=False, stdout=nothing, stderr=nothing
        )
        assert killed.returncode == 9
        assert len([*folder_of("wandb").rglob("*.wandb")]) == 1
        history = [row(1), row(2)]
        feed = Feed(["wandb"], CARD, KEY)
        feed.follow(history)
        history.append(row(3))
        feed.follow(history)
        feed.close(finished=True)
        points, config = offline_points(folder_of("wandb"))
        assert points == once(history)
        assert config["train.lr"] == 0.05


BLOCK, HEADER = 32768, 7
"""Bytes of a block of an offline file, a log as LevelDB has it; and of the header of a record and of the file."""


def offline_records(file):
    """The records of an offline file."""
    content, place, parts = file.read_bytes(), HEADER, []
    while place < len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + HEADER : place + HEADER + size])
        place += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def offline_points(folder):
    """What the one file of an offline run holds: (name, step) -> values, and the configuration."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.rglob("*.wandb")
    points, config = {}, {}
    for record in map(Record.FromString, offline_records(file)):
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        items = record.history.item
        values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
        for key in [key for key in values if not key.startswith("_")]:
            points.setdefault((key, int(values["_step"])), []).append(values[key])
    return points, config


class FakeStore:
    """MLflow's client as far as the logger calls it, with a store that outlives it. The package itself cannot be
    installed beside the pinned pandas, because it asks for one below 3; its calls were tried by hand.
    """

    def __init__(self):
        self.experiments, self.runs = {}, {}

    def client(self, tracking_uri):
        self.tracking_uri = tracking_uri
        return self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location):
        self.experiments[name] = SimpleNamespace(experiment_id=str(len(self.experiments)))
        return self.experiments[name].experiment_id

    def search_runs(self, experiment_ids, filter_string):
        key, value = filter_string.split(" = ")
        assert key == "tags.`kdcore.key`"
        return [run for run in self.runs.values() if run.data.tags["kdcore.key"] == value.strip("'")]

    def create_run(self, experiment_id, tags):
        run_id = f"run{len(self.runs)}"
        data = SimpleNamespace(tags=tags, params={}, metrics={}, points={})
        self.runs[run_id] = SimpleNamespace(info=SimpleNamespace(run_id=run_id, status="RUNNING"), data=data)
        return self.runs[run_id]

    def get_run(self, run_id):
        return self.runs[run_id]

    def update_run(self, run_id, status):
        self.runs[run_id].info.status = status

    def set_terminated(self, run_id, status):
        self.runs[run_id].info.status = status

    def get_metric_history(self, run_id, key):
        return [SimpleNamespace(step=step) for name, step in self.runs[run_id].data.points if name == key]

    def log_batch(self, run_id, metrics=(), params=()):
        data = self.runs[run_id].data
        assert len(params) <= 100
        data.params |= {param.key: param.value for param in params}
        for metric in metrics:
            data.points.setdefault((metric.key, metric.step), []).append(metric.value)
            data.metrics[metric.key] = metric.value


@pytest.fixture
def store(here, monkeypatch):
    made = FakeStore()
    entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
    )
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=made.client, entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delitem(sys.modules, "kdcore.training.loggers.of_mlflow", raising=False)
    yield made
    sys.modules.pop("kdcore.training.loggers.of_mlflow", None)
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.NOTSET)


class TestMlflow:
    def test_a_killed_run_goes_on_with_every_epoch_once(self, store):
        Feed(["mlflow"], CARD, KEY).follow([row(1), row(2), row(3)])
        history = [row(1), row(2)]
        feed = Feed(["mlflow"], CARD, KEY)
        feed.follow(history)
        history += [row(3), row(4)]
        feed.follow(history)
        feed.close(finished=True)
        [run] = store.runs.values()
        assert run.data.points == once(history)
        assert (run.info.status, run.data.tags["mlflow.runName"]) == ("FINISHED", NAME)
        assert run.data.params["train.lr"] == "0.05"

    def test_an_interrupted_run_is_said_to_be(self, store):
        with suppress(KeyboardInterrupt), loggers.following(["mlflow"], CARD, KEY) as feed:
            feed.follow([row(1)])
            raise KeyboardInterrupt
        assert [run.info.status for run in store.runs.values()] == ["KILLED"]

    def test_the_store_is_a_file_here_or_what_is_named(self, store, monkeypatch):
        Feed(["mlflow"], CARD, KEY).follow([])
        assert store.tracking_uri == f"sqlite:///{Path.cwd() / loggers.FOLDER / 'mlflow/mlflow.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
        Feed(["mlflow"], CARD, "f" * 16).follow([])
        assert store.tracking_uri == "http://localhost:1"
        assert len(store.runs) == 2


def test_torch_draws_nothing_for_a_logger(here):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    feed = Feed(["tensorboard"], CARD, KEY)
    feed.follow([row(1)])
    feed.close(finished=True)
    assert torch.equal(torch.get_rng_state(), before)
