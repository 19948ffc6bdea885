"""MLflow: a run in its store, which is a file here unless MLFLOW_TRACKING_URI names another. Its points cannot be
replaced, so a process that goes on with a run finds it by its key, and adds what is missing.
"""

import logging
import os
import time
from collections.abc import Mapping

import mlflow
from filelock import FileLock
from mlflow.entities import Metric, Param

from kdcore.training.loggers.contract import Logger, Run

EXPERIMENT = "kdcore"
KEY, NAME = "kdcore.key", "mlflow.runName"
"""Tags of a run."""
MOST = 100
"""Parameters of a batch, and characters of them, that every store takes."""
LONGEST = 500


class Mlflow(Logger):
    """A run with parameters and metrics by epoch."""

    def __init__(self, run: Run) -> None:
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)  # they tell of every table that they make
        folder = run.root / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        where = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        with FileLock(folder / "lock"):  # two processes that make the same tables fail
            self.client = mlflow.MlflowClient(tracking_uri=where)
            self.run_id = self._run(run, os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT), folder)
        known = self.client.get_run(self.run_id).data.metrics
        self.last = {
            key: max(point.step for point in self.client.get_metric_history(self.run_id, key)) for key in known
        }

    def _run(self, run: Run, name: str, folder: os.PathLike[str]) -> str:
        """Return the number of the run, which is made where it is not there."""
        found = self.client.get_experiment_by_name(name)
        files = f"file://{os.fspath(folder)}/files"
        experiment = self.client.create_experiment(name, files) if found is None else found.experiment_id
        tag = f"{run.name}-{run.key}"
        same = self.client.search_runs([experiment], f"tags.`{KEY}` = '{tag}'")
        if same:
            self.client.update_run(same[0].info.run_id, status="RUNNING")
            return str(same[0].info.run_id)
        made = self.client.create_run(experiment, tags={KEY: tag, NAME: run.name})
        params = [Param(key, str(value)[:LONGEST]) for key, value in run.config.items()]
        for first in range(0, len(params), MOST):
            self.client.log_batch(made.info.run_id, params=params[first : first + MOST])
        return str(made.info.run_id)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the points that the store does not have."""
        now = int(1000 * time.time())
        new = {name: value for name, value in values.items() if epoch > self.last.get(name, 0)}
        if new:
            self.client.log_batch(self.run_id, [Metric(name, value, now, epoch) for name, value in new.items()])
        self.last |= dict.fromkeys(new, epoch)

    def close(self, *, finished: bool) -> None:
        """Say how it ended."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")
