"""Made-up outputs of networks, and what adapters are made from and called with."""

from dataclasses import replace

import torch
from torch import nn

from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Output


def maps(*channels, size=8, batch=4):
    """Random maps (B, Ch, H, W), each half as large as the one before it."""
    return [torch.rand(batch, count, size // 2**i, size // 2**i) for i, count in enumerate(channels)]


def output(stages, classes=10, logits=None):
    """A network's outputs that have these maps, the stem's first."""
    pooled = stages[-1].mean(dim=(2, 3))
    logits = torch.zeros(len(pooled), classes) if logits is None else logits
    return Output(logits, tuple(stages), tuple(m - 0.5 for m in stages), pooled, stages[-1])


def setting(
    student, teacher, labels=None, *, batch_size=4, epochs=10, classifiers=None, teacher_outputs=None, kept=None
):
    """What an adapter of two networks with these outputs is made from."""
    of_both = (student, teacher)
    return Setting(
        student=student,
        teacher=teacher,
        teacher_norms=tuple(nn.BatchNorm2d(stage.shape[1]) for stage in teacher.stages[1:]),
        labels=torch.arange(20) % student.logits.shape[1] if labels is None else labels,
        classifiers=classifiers or tuple(nn.Linear(out.pooled.shape[1], out.logits.shape[1]) for out in of_both),
        batch_size=batch_size,
        epochs=epochs,
        teacher_outputs=teacher_outputs or (lambda: iter([teacher])),
        kept=kept or (lambda _name, compute: compute()),
    )


def step(student, teacher, *, epoch=1, target=None):
    """A step with these outputs."""
    count = len(student.logits)
    target = torch.arange(count) % student.logits.shape[1] if target is None else target
    return Step(student, teacher, target, torch.arange(count), epoch, torch.Generator().manual_seed(0))


def loss_of(adapter, batch):
    """What an adapter makes of a step, for which it draws first where it draws at all."""
    if hasattr(adapter, "prepare"):
        batch = replace(batch, prepared=adapter.prepare(batch.target, epoch=batch.epoch, generator=batch.generator))
    return adapter(batch)


def prepared(adapter, epoch):
    """What a logit method's adapter takes from an epoch."""
    return adapter.prepare(None, epoch=epoch, generator=None)
