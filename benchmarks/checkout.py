"""A published trainer of mdistiller's family as a peer: its own networks, distillers, transforms, loader and optimiser.

It is a checkout of mdistiller, SDD-CVPR2024, logit-standardization-KD or RLD that whoever runs a benchmark has fetched
outside the project: it is imported, never changed or copied. It needs yacs, tqdm and tensorboardX. One process can
import one checkout, for all four call their package mdistiller.
"""

import contextlib
import importlib
import io
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import nn

from kdcore.data.dataset import Split
from kdcore.system.errors import UserError
from kdcore.system.git import git

REGIONS = "[1,2,4]"
"""The levels of SDD-CVPR2024, as that code writes them."""
NAMES = {
    "mobilenetv2": "MobileNetV2",
    "resnet50": "ResNet50",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
}
"""Names of networks here -> those of the checkouts, where they differ."""


class Checkout:
    """The package of one checkout. Where there is no GPU, what its code moves to one stays where it is.

    Args:
        folder: of the checkout.

    Raises:
        UserError: it is none, or a package that it needs is missing.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "mdistiller/distillers").is_dir():
            raise UserError(f"{folder}: is no checkout of mdistiller's family: it has no folder mdistiller/distillers")
        sys.path.insert(0, str(folder))
        if not torch.cuda.is_available():
            for kind in (torch.Tensor, nn.Module):
                mock.patch.object(kind, "cuda", lambda self, *_, **__: self).start()
        try:
            names = ("dataset.cifar100", "distillers", "engine", "engine.cfg", "models")
            self.data, distillers, engine, settings, models = (
                importlib.import_module(f"mdistiller.{name}") for name in names
            )
        except ModuleNotFoundError as error:
            raise UserError(f"{folder}: needs {error.name}; try: pip install yacs tqdm tensorboardX") from error
        self.distillers: dict[str, Any] = distillers.distiller_dict
        self.networks: dict[str, Any] = models.cifar_model_dict
        self.trainers: dict[str, Any] = engine.trainer_dict
        self.meter: Any = engine.trainer.AverageMeter
        self.defaults: Any = settings.CFG.clone()
        self.settings: Any = self.defaults
        self.folder = folder
        self.has_regions = "SDD_KD" in self.distillers

    @property
    def repository(self) -> str:
        """The name of its repository, as data/recipes.yaml has it, told by the distillers that it alone has."""
        for name, distiller in (("SDD-CVPR2024", "SDD_KD"), ("RLD", "RLD"), ("logit-standardization-KD", "MLKD")):
            if distiller in self.distillers:
                return name
        return "mdistiller"

    @property
    def commit(self) -> str:
        """Its commit, with "+changes" where files differ from it; "unknown" where the folder is no clone."""
        root, head = (git("rev-parse", what, folder=self.folder) for what in ("--show-toplevel", "HEAD"))
        if root is None or head is None or Path(root.strip()) != self.folder.resolve():
            return "unknown"
        return head.strip()[:7] + ("+changes" if git("status", "--porcelain", folder=self.folder) else "")

    def network(self, name: str, classes: int, *, regions: bool = False) -> nn.Module:
        """A new network of its own, as its scripts make it.

        Args:
            name: as in our zoo.
            classes: how many.
            regions: whether it returns the logits of the regions of `REGIONS` too.
        """
        more = {"M": REGIONS if regions else "[1]"} if self.has_regions else {}
        named = NAMES.get(name, name) + ("_sdd" if self.has_regions else "")
        with contextlib.redirect_stdout(io.StringIO()):
            return cast(nn.Module, self.networks[named][0](num_classes=classes, **more))

    def distiller(
        self,
        kind: str,
        student: nn.Module,
        teacher: nn.Module,
        *more: Any,
        regions: bool = False,
        **settings: Any,
    ) -> nn.Module:
        """A new distiller with the checkout's own settings, some of which are given: KD__TEMPERATURE=2.

        Args:
            kind: its name in the checkout.
            student: from `network`.
            teacher: from `network`.
            more: what the distiller takes besides, such as CRD the number of training images.
            regions: whether it compares the regions of `REGIONS`.
            settings: those that are not the checkout's own.
        """
        self.settings = self.defaults.clone()
        if self.has_regions:
            self.settings.M = REGIONS if regions else "[1]"
            self.settings.warmup = 1.0
            self.settings.distributation = False
        for key, value in settings.items():
            *outer, last = key.split("__")
            reduce(getitem, outer, self.settings)[last] = value
        return cast(nn.Module, self.distillers[kind](student, teacher, self.settings, *more))

    def default(self, key: str) -> Any:
        """The checkout's own value of a setting: KD__TEMPERATURE; None where it has none."""
        try:
            return reduce(getitem, key.split("__"), self.defaults)
        except KeyError:
            return None

    def loaders(self, train: Split, test: Split) -> list[Any]:
        """Loaders of images of CIFAR-100's size, made as the checkout makes its own, but from arrays in memory.

        Returns:
            Two: training images by its transforms, in random order, and test images.
        """
        made: list[Any] = []
        looks = (self.data.get_cifar100_train_transform(), self.data.get_cifar100_test_transform())
        kinds = (self.data.CIFAR100Instance, self.data.datasets.CIFAR100)
        batches = (self.settings.SOLVER.BATCH_SIZE, self.settings.DATASET.TEST.BATCH_SIZE)
        for kind, split, look, batch in zip(kinds, (train, test), looks, batches, strict=True):
            stored = kind.__new__(kind)  # its maker reads or downloads CIFAR-100
            stored.data, stored.targets = split.images, split.labels.tolist()
            stored.transform, stored.target_transform = look, None
            # Forked, as was the default when that code was written; spawned ones would copy the images at every epoch.
            made.append(
                self.data.DataLoader(
                    stored,
                    batch_size=batch,
                    shuffle=not made,
                    num_workers=self.settings.DATASET.NUM_WORKERS,
                    multiprocessing_context="fork",
                )
            )
        return made

    def trainer(self, distiller: nn.Module, train: Split, test: Split, out: Path) -> Any:
        """Its base trainer, whose `train_epoch(epoch)` trains, tests and saves to the folder `out`."""
        return self._trainer("base", distiller, self.loaders(train, test), out)

    def stepper(self, kind: str, distiller: nn.Module, out: Path) -> Any:
        """Its trainer of a kind without any images, whose `train_iter(batch, epoch, meters)` takes one step."""
        return self._trainer(kind, distiller, [None, None], out)

    def _trainer(self, kind: str, distiller: nn.Module, loaders: list[Any], out: Path) -> Any:
        self.settings.LOG.PREFIX = str(out)
        return self.trainers[kind]("run", nn.DataParallel(distiller), *loaders, self.settings)
