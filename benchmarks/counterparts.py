"""Which distiller of a published checkout is which method here, with which settings and parts.

For `benchmarks.lockstep`. Names of settings are those of the checkouts, outer and inner ones joined by "__".
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any
from unittest import mock

from torch import nn

from kdcore import methods
from kdcore.networks.contract import Output


@dataclass(frozen=True)
class Counterpart:
    """A distiller of a checkout and the method here that does the same, or why it does not."""

    distiller: str
    """Its name in the checkout."""
    method: str
    """The method's name here."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What its recipe has otherwise than data/recipes.yaml, such as the variant that is as published."""
    scale: int = 1
    """SDD's M: 1, or 4 for the levels 1, 2 and 4."""
    stand: bool = False
    """Whether logits are standardised."""
    trainer: str = "base"
    """The name of the checkout's trainer."""
    why: str = ""
    """Why the two differ; empty where they are to agree."""
    restored: bool = False
    """Whether both networks of theirs get their weights once more after the distiller was made."""
    temperatures: tuple[float, ...] = ()
    """Where they are given, the fixed temperatures that the method's file has for this comparison."""

    def as_compared(self) -> AbstractContextManager[object]:
        """The block in which the method has the given temperatures."""
        if not self.temperatures:
            return nullcontext()
        return mock.patch.object(methods.get(self.method), "FIXED_TEMPERATURES", self.temperatures)


Table = dict[str, Counterpart]

_AS_PUBLISHED = {"variant": "as_published"}
_ALL_CLASSES = {"nontarget": "all_classes"}
_LIKE_SCRIPTS = {"gamma": 8.0, "temperature": 4.0}  # of SDD-CVPR2024:configs/cifar100/sdd_nkd
_SHAPES = "a random image goes through their teacher in training mode, before the first step"

_FEATURES: Table = {
    "at": Counterpart("AT", "at"),
    "fitnet": Counterpart("FITNET", "fitnet", why=_SHAPES),
    "fitnet, teacher restored": Counterpart("FITNET", "fitnet", restored=True),
    "rkd": Counterpart("RKD", "rkd"),
    "crd": Counterpart("CRD", "crd", {"negatives": 256}, trainer="crd"),
    "ofd": Counterpart("OFD", "ofd", _AS_PUBLISHED),
    "ofd, default": Counterpart("OFD", "ofd", why="their teacher is in training mode; here it is frozen by default"),
    "reviewkd": Counterpart("REVIEWKD", "reviewkd"),
    "pkt": Counterpart("PKT", "pkt"),
    "sp": Counterpart("SP", "sp"),
    "vid": Counterpart("VID", "vid", _AS_PUBLISHED, why=_SHAPES),
    "vid, teacher restored": Counterpart("VID", "vid", _AS_PUBLISHED, restored=True),
    "vid, default, teacher restored": Counterpart(
        "VID",
        "vid",
        restored=True,
        why="their variances are not trained; here they are by default",
    ),
    "nst": Counterpart("NST", "nst"),
    "kdsvd": Counterpart("KDSVD", "kdsvd"),
}
_MLKD: Table = {
    "mlkd": Counterpart("MLKD", "mlkd", trainer="ours"),
    "mlkd, stand": Counterpart("MLKD", "mlkd", stand=True, trainer="ours"),
}
CHECKOUTS: dict[str, Table] = {
    "mdistiller": {"kd": Counterpart("KD", "kd"), "dkd": Counterpart("DKD", "dkd"), **_FEATURES},
    "SDD-CVPR2024": {
        "kd": Counterpart("KD", "kd"),
        "dkd": Counterpart("DKD", "dkd"),
        "nkd": Counterpart("NKD", "nkd", _ALL_CLASSES),
        "nkd, default": Counterpart(
            "NKD", "nkd", why="their second softmax keeps the target class; here it is left out by default"
        ),
        "sdd_kd, M=[1]": Counterpart("SDD_KD", "kd"),
        "sdd_kd, M=[1,2,4]": Counterpart("SDD_KD", "kd", scale=4),
        "sdd_kd, M=[1,2,4], longer gradients": Counterpart("SDD_KD", "kd", {"kd_weight": 150.0}, scale=4),
        "sdd_dkd, M=[1]": Counterpart("SDD_DKD", "dkd"),
        "sdd_dkd, M=[1,2,4]": Counterpart("SDD_DKD", "dkd", scale=4),
        "sdd_nkd, M=[1]": Counterpart("SDD_NKD", "nkd", {**_ALL_CLASSES, **_LIKE_SCRIPTS}),
        "sdd_nkd, M=[1,2,4]": Counterpart("SDD_NKD", "nkd", {**_ALL_CLASSES, **_LIKE_SCRIPTS}, scale=4),
    },
    "logit-standardization-KD": {
        "kd": Counterpart("KD", "kd"),
        "kd, stand": Counterpart("KD", "kd", stand=True),
        "dkd": Counterpart("DKD", "dkd"),
        "dkd, stand": Counterpart("DKD", "dkd", stand=True),
        **_MLKD,
    },
    "RLD": {
        "kd": Counterpart("KD", "kd"),
        "kd, stand": Counterpart("KD", "kd", stand=True),
        "dkd": Counterpart("DKD", "dkd"),
        "dkd, stand": Counterpart("DKD", "dkd", stand=True),
        "rld": Counterpart("RLD", "rld"),
        "rld, stand": Counterpart("RLD", "rld", stand=True),
        "swap": Counterpart("SWAP", "swap"),
        "swap, stand": Counterpart("SWAP", "swap", stand=True),
        "revision": Counterpart("REVISION", "revision"),
        "rc": Counterpart("RC", "rc", _AS_PUBLISHED),
        "rc, default": Counterpart(
            "RC", "rc", why="they raise the target's logit by the largest one; here by how far that is above the mean"
        ),
        "rc, stand": Counterpart("RC", "rc", stand=True),
        **_MLKD,
        "mlkd_noaug": Counterpart(
            "MLKD_NOAUG",
            "mlkd_one_view",
            {"ce_weight": 0.1, "kd_weight": 0.9},
            why="theirs has five temperatures (4, 3, 5, 2, 6), mlkd_one_view StreamLined's three (4, 3, 2)",
        ),
        "mlkd_noaug, its temperatures": Counterpart(
            "MLKD_NOAUG",
            "mlkd_one_view",
            {"ce_weight": 0.1, "kd_weight": 0.9},
            temperatures=(3.0, 5.0, 2.0, 6.0),
        ),
    },
}
"""Of each repository, a label -> what is compared."""

_KD = {
    "KD__TEMPERATURE": "temperature",
    "KD__LOSS__CE_WEIGHT": "ce_weight",
    "KD__LOSS__KD_WEIGHT": "kd_weight",
}
_DKD = {
    "DKD__CE_WEIGHT": "ce_weight",
    "DKD__ALPHA": "alpha * kd_weight",
    "DKD__BETA": "beta * kd_weight",
    "DKD__T": "temperature",
}
_DKD_WARMUP = {"DKD__WARMUP": "warmup"}
_NKD = {"DKD__CE_WEIGHT": "ce_weight", **_DKD_WARMUP}


def _feature(name: str, **others: str) -> dict[str, str]:
    weights = {f"{name}__LOSS__CE_WEIGHT": "ce_weight", f"{name}__LOSS__FEAT_WEIGHT": "kd_weight"}
    return {**weights, **{f"{name}__{key}": value for key, value in others.items()}}


_SETTINGS: dict[str, dict[str, str]] = {
    "KD": _KD,
    "SDD_KD": _KD,
    "DKD": {**_DKD, **_DKD_WARMUP},
    "SDD_DKD": {**_DKD, "warmup": "warmup"},
    "NKD": _NKD,
    "SDD_NKD": {**_NKD, "DKD__T": "temperature", "DKD__BETA": "gamma"},
    "MLKD": _KD,
    "MLKD_NOAUG": _KD,
    "RLD": {
        "RLD__CE_WEIGHT": "ce_weight",
        "RLD__ALPHA": "alpha * kd_weight",
        "RLD__BETA": "beta * kd_weight",
        "RLD__ALPHA_T": "alpha_temperature",
        "RLD__T": "temperature",
        "RLD__WARMUP": "warmup",
    },
    "SWAP": {"KD__TEMPERATURE": "temperature"},
    "REVISION": {},
    "RC": {
        "RC__CE_WEIGHT": "ce_weight",
        "RC__KD_WEIGHT": "kd_weight",
        "RC__RC_WEIGHT": "rc_weight * kd_weight",
        "RC__T": "temperature",
    },
    "AT": _feature("AT", P="p"),
    "FITNET": _feature("FITNET", HINT_LAYER="hint_layer"),
    "RKD": _feature("RKD", DISTANCE_WEIGHT="distance_weight", ANGLE_WEIGHT="angle_weight"),
    "CRD": _feature(
        "CRD", FEAT__DIM="embedding", NCE__K="negatives", NCE__MOMENTUM="momentum", NCE__TEMPERATURE="temperature"
    ),
    "OFD": _feature("OFD"),
    "REVIEWKD": {
        "REVIEWKD__CE_WEIGHT": "ce_weight",
        "REVIEWKD__REVIEWKD_WEIGHT": "kd_weight",
        "REVIEWKD__WARMUP_EPOCHS": "warmup",
        "REVIEWKD__MAX_MID_CHANNEL": "mid_channels",
        "REVIEWKD__STU_PREACT": "student_preact",
    },
    "PKT": _feature("PKT"),
    "SP": _feature("SP"),
    "VID": _feature("VID", INIT_PRED_VAR="initial_variance"),
    "NST": _feature("NST"),
    "KDSVD": _feature("KDSVD", K="k"),
}
"""Of each distiller, a setting -> the key of the recipe that gives it, or the keys whose product it is."""
_STANDARDISING = ("KD", "DKD", "MLKD", "RLD", "SWAP", "RC", "MLKD_NOAUG")


def settings(one: Counterpart, recipe: Mapping[str, Any], student: Output, teacher: Output) -> dict[str, Any]:
    """The checkout's settings that a recipe and the shapes of the networks' outputs ask for.

    Args:
        one: what is compared.
        recipe: of the method here.
        student: outputs of any images.
        teacher: outputs of any images.
    """
    found = {
        setting: reduce(mul, (recipe[key] for key in keys.split(" * ")))
        for setting, keys in _SETTINGS[one.distiller].items()
    }
    if one.stand and one.distiller in _STANDARDISING:
        found["EXPERIMENT__LOGIT_STAND"] = True
    if one.distiller == "CRD":
        found |= {"CRD__FEAT__STUDENT_DIM": student.pooled.shape[1], "CRD__FEAT__TEACHER_DIM": teacher.pooled.shape[1]}
    if one.distiller == "REVIEWKD":  # sizes from deep to shallow, channels from shallow to deep
        own, other = ([*output.stages[1:], output.pooled[:, :, None, None]] for output in (student, teacher))
        found["REVIEWKD__SHAPES"] = [stage.shape[2] for stage in reversed(own)]
        found["REVIEWKD__OUT_SHAPES"] = [stage.shape[2] for stage in reversed(other)]
        found["REVIEWKD__IN_CHANNELS"] = [stage.shape[1] for stage in own]
        found["REVIEWKD__OUT_CHANNELS"] = [stage.shape[1] for stage in other]
    return found


_PARTS = {
    "FITNET": {"conv_reg": "regressor"},
    "OFD": {"connectors.connectors": "connectors"},
    "VID": {"regressors": "regressors"},
    "CRD": {
        "embed_s": "student",
        "embed_t": "teacher",
        "contrast.memory_v1": "memory_student",
        "contrast.memory_v2": "memory_teacher",
    },
}


def parts(one: Counterpart, adapter: nn.Module) -> dict[str, str]:
    """Where a distiller keeps trained weights and memories -> where the method's adapter keeps them.

    Within a part both have the same tensors in the same order. ReviewKD's fusions are deep to shallow in the checkouts,
    and shallow to deep here.
    """
    if one.distiller != "REVIEWKD":
        return _PARTS.get(one.distiller, {})
    last = len(adapter.get_submodule("fusions")._modules) - 1
    inner = {"conv1": "reduce", "att_conv": "attend", "conv2": "expand"}
    return {
        f"abfs.{last - i}.{theirs}": f"fusions.{i}.{ours}"
        for i in range(last + 1)
        for theirs, ours in inner.items()
        if i < last or ours != "attend"
    }
