"""The loss for other trainers on a stand-in for a GPU: all is on the device, and no step makes the host wait."""

from unittest import mock

import pytest
import torch

import kdcore
from kdcore import catalog, networks
from kdcore.library import loss
from tests.gpu.stand_in import GPU, HAS_BACKWARD, NEEDS, Accelerator
from tests.library.needs import CLASSES, LABELS, SIZE, SMALL

pytestmark = [
    NEEDS,
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
    pytest.mark.skipif(not HAS_BACKWARD, reason="gradients cannot be computed on the stand-in here"),
]


@pytest.mark.parametrize(("method", "levels"), [
    ("dkd", (1, 2, 4)), ("kd", (2,)), ("mlkd", (1,)), ("crd", (1,)), ("mgd", (1,)), ("ctkd", (1, 2)),
    ("reviewkd", (1,)), ("simkd", (1,)),
])  # fmt: skip
def test_a_step(method, levels):
    logit = catalog.kind(method) == "logit"
    recipe = kdcore.recipe(method, levels=levels, stand=logit)
    with Accelerator(CLASSES) as accelerator, mock.patch.object(loss, "check_regions"):  # which reads values back
        student, teacher = (networks.create(name, CLASSES).to(GPU) for name in ("resnet8", "resnet14"))
        goal = kdcore.DistillationLoss(
            method, {key: SMALL.get(key, value) for key, value in recipe.items()}, teacher=teacher, student=student,
            levels=levels, stand=logit, image_size=SIZE, labels=LABELS, epochs=4,
        )  # fmt: skip
        goal.set_epoch(1)
        views = [torch.zeros(4, 3, SIZE, SIZE, device=GPU) for _ in range(goal.objective.views)]
        target = torch.zeros(4, dtype=torch.int64, device=GPU)
        accelerator.waits.clear()
        outs = [[network(view) for view in views] for network in (goal.student, teacher)]
        given = outs if len(views) > 1 else [out[0] for out in outs]
        goal(*given, target, index=torch.arange(4)).backward()
    assert dict(accelerator.waits) == {}
    trained = [*goal.student.parameters(), *goal.parameters()]
    assert {value.device for value in (*trained, *goal.buffers())} == {GPU}
    assert all(value.grad is not None for value in trained if value.requires_grad)
