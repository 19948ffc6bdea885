"""Losses of the second wave against the values of the published implementations."""

import torch.nn.functional as F
from torch.func import functional_call

from kdcore import methods
from kdcore.methods import _class_cost, crld, dist, luminet, ofa_stages, rc, revision, swap, wkd_l, wttm
from kdcore.standardize import standardize
from tests.reference import GoldenCase, golden


def logits_of(case: GoldenCase):
    student, teacher = case.inputs["logits_student"], case.inputs["logits_teacher"]
    return (standardize(student), standardize(teacher)) if case.standardize else (student, teacher)


@golden("ttm", "wttm", "swap", "ofa", module=False)
def test_losses_of_samples(case):
    golden_case = GoldenCase(*case)
    method = methods.get(golden_case.case["method"])
    per_sample = method.loss(*logits_of(golden_case), golden_case.inputs.get("target"), **golden_case.parameters)
    golden_case.check("loss", per_sample.mean())
    golden_case.check_gradients(per_sample.mean())


@golden("wttm")
def test_wttm_weights(case):
    golden_case = GoldenCase(*case)
    golden_case.check("power_sum", wttm.power_sum(golden_case.inputs["logits_teacher"], **golden_case.parameters))


@golden("swap")
def test_swap_teacher(case):
    golden_case = GoldenCase(*case)
    teacher, target = golden_case.inputs["logits_teacher"], golden_case.inputs["target"]
    golden_case.check("logits_teacher_swapped", swap.swapped(teacher, target))


@golden("dist")
def test_dist(case):
    golden_case = GoldenCase(*case)
    parameters = dict(golden_case.parameters)
    student, teacher = logits_of(golden_case)
    if parameters.pop("variant") == "dense":  # every pixel is a sample
        student, teacher = (logits.movedim(1, -1).flatten(0, -2) for logits in (student, teacher))
    inter, intra = dist.terms(student, teacher, temperature=parameters["temperature"])
    golden_case.check("loss_inter", inter)
    golden_case.check("loss_intra", intra)
    loss = dist.loss(student, teacher, **parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("revision")
def test_revision(case):
    golden_case = GoldenCase(*case)
    target = golden_case.inputs["target"]
    student, teacher = logits_of(golden_case)
    parts = revision.terms(student, teacher, target, eta=golden_case.parameters["eta"])
    golden_case.check("loss_right_ce", parts.right_ce)
    golden_case.check("mse_right", parts.mse_right)
    golden_case.check("mse_wrong", parts.mse_wrong)
    right = revision.right(teacher, target)
    assert [right.sum().item(), (~right).sum().item()] == golden_case.expected("mask_counts").tolist()
    loss = revision.loss(student, teacher, target, **golden_case.parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("rc")
def test_rc(case):
    """Without a variant named, it is the published form."""
    golden_case = GoldenCase(*case)
    temperature, kd_weight, rc_weight = (
        golden_case.parameters[key] for key in ("temperature", "kd_weight", "rc_weight")
    )
    inputs = (*logits_of(golden_case), golden_case.inputs["target"])
    divergence, correction = rc.terms(*inputs, temperature=temperature)
    golden_case.check("loss_kd", kd_weight * divergence.mean())
    golden_case.check("loss_rc", rc_weight * correction.mean())
    loss = kd_weight * rc.loss(*inputs, temperature=temperature, rc_weight=rc_weight / kd_weight).mean()
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("luminet")
def test_luminet(case):
    golden_case = GoldenCase(*case)
    parameters = dict(golden_case.parameters)
    assert parameters.pop("eps") == luminet.EPSILON
    loss = luminet.loss(*logits_of(golden_case), **parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("crld")
def test_crld(case):
    golden_case = GoldenCase(*case)
    inputs, parameters = golden_case.inputs, golden_case.parameters
    views = [inputs[f"logits_{role}_{view}"] for role in ("student", "teacher") for view in ("weak", "strong")]
    conditions = {key: parameters[key] for key in ("temperature", "tau_weak", "tau_strong")}
    within, across = crld.terms(*views, **conditions)
    golden_case.check("loss_within", parameters["within_weight"] * within.mean())
    golden_case.check("loss_cross", parameters["cross_weight"] * across.mean())
    counts = [
        crld.sure(teacher, parameters[f"tau_{view}"]).sum().item()
        for teacher, view in zip(views[2:], ("weak", "strong"), strict=True)
    ]
    assert counts == golden_case.expected("mask_counts").tolist()
    loss = crld.loss(*views, inputs["target"], **parameters).mean()
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    cross_entropy = sum(F.cross_entropy(student, inputs["target"]) for student in views[:2])
    golden_case.check("loss_ce", cross_entropy)


@golden("wkd_l")
def test_wkd_l(case):
    golden_case = GoldenCase(*case)
    parameters = dict(golden_case.parameters)
    assert parameters.pop("eps") == wkd_l.EPSILON
    inputs = (*logits_of(golden_case), golden_case.inputs["target"], golden_case.inputs["cost_matrix"])
    of_target, transport = wkd_l.terms(*inputs, **{key: parameters[key] for key in parameters if key != "gamma"})
    golden_case.check("loss_target", of_target.mean())
    golden_case.check("wasserstein", transport.mean())
    loss = wkd_l.loss(*inputs, **parameters).mean()
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("wkd_cost")
def test_wkd_cost(case):
    golden_case = GoldenCase(*case)
    measure = {"classifier": _class_cost.of_classifier, "linear_cka": _class_cost.of_features}
    (values,) = golden_case.inputs.values()
    distance = measure[golden_case.parameters["kind"]](values)
    sharpen = golden_case.parameters["sharpen"]
    golden_case.check("cost_matrix", _class_cost.sharpened(distance, sharpen) if sharpen else distance)


@golden("ofa", module=True)
def test_ofa_stages(case):
    """The head of one stage, with the weights of the case; its parameters are in the order of the inputs."""
    golden_case = GoldenCase(*case)
    inputs = golden_case.inputs
    stage, logits_teacher = inputs["features_student"], inputs["logits_teacher"]
    parameters = dict(golden_case.parameters)
    width, blocks = max(parameters.pop("student_width"), parameters.pop("teacher_width")), 4 - parameters.pop("stage")
    head = ofa_stages.Head(stage.shape[1], width, logits_teacher.shape[1], blocks=blocks).to(golden_case.dtype)
    weights = list(inputs.values())[3:]
    own = [name for name, _ in head.named_parameters()]
    logits = functional_call(head, dict(zip(own, weights, strict=True)), (stage,))
    golden_case.check("logits_head", logits)
    loss = ofa_stages.loss([logits], logits_teacher, inputs["target"], **parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
