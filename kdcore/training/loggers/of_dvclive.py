"""DVCLive: its TSV files, anew from the whole history whenever a process begins. No experiment, no dvc.yaml: a cell is
one stage of a pipeline that has its own.
"""

from collections.abc import Mapping

from dvclive import Live

from kdcore.training.loggers.contract import Logger, Run


class DvcLive(Logger):
    """Metrics and parameters, in files that DVC's clients show."""

    def __init__(self, run: Run) -> None:
        self.live = Live(str(run.emptied("dvclive")), resume=False, report=None, save_dvc_exp=False, dvcyaml=None)
        self.live.log_params(run.config)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a line to every metric's file."""
        self.live.step = epoch
        for name, value in values.items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def close(self, *, finished: bool) -> None:
        """End it."""
        self.live.end()
