"""Losses against the values of the published implementations."""

from torch import nn

from kdcore import methods
from kdcore.methods import at, dkd, nkd, rld
from kdcore.scales import decouple, decoupling_weights, pyramid_logits
from kdcore.standardize import standardize
from tests.reference import GoldenCase, golden


def logits_of(case: GoldenCase):
    student, teacher = case.inputs["logits_student"], case.inputs["logits_teacher"]
    return (standardize(student), standardize(teacher)) if case.standardize else (student, teacher)


@golden("kd", "dkd", "nkd", "rld")
def test_logit_losses(case):
    golden_case = GoldenCase(*case)
    student, teacher = logits_of(golden_case)
    target = golden_case.inputs.get("target")
    name = golden_case.case["method"]
    loss = methods.get(name).loss(student, teacher, target, **golden_case.parameters).mean()
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("dkd")
def test_dkd_terms(case):
    golden_case = GoldenCase(*case)
    temperature = golden_case.parameters["temperature"]
    tckd, nckd = dkd.terms(*logits_of(golden_case), golden_case.inputs["target"], temperature=temperature)
    golden_case.check("tckd", tckd.mean())
    golden_case.check("nckd", nckd.mean())


@golden("nkd")
def test_nkd_terms(case):
    golden_case = GoldenCase(*case)
    of_target, of_others = nkd.terms(*logits_of(golden_case), golden_case.inputs["target"], **golden_case.parameters)
    golden_case.check("loss_target", of_target.mean())
    golden_case.check("loss_nontarget", of_others.mean())


@golden("rld")
def test_rld_terms(case):
    golden_case = GoldenCase(*case)
    inputs = (*logits_of(golden_case), golden_case.inputs["target"])
    parameters = golden_case.parameters
    scd = rld.sample_confidence(*inputs, temperature=parameters["alpha_temperature"])
    mcd = rld.masked_correlation(*inputs, temperature=parameters["temperature"])
    golden_case.check("scd", scd.mean())
    golden_case.check("mcd", mcd.mean())


@golden("sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_rld")
def test_scale_decoupled_losses(case):
    golden_case = GoldenCase(*case)
    student, teacher = logits_of(golden_case)
    target = golden_case.inputs["target"]
    regions = target[:, None].expand(student.shape[:2])
    method = methods.get(golden_case.case["method"].removeprefix("sdd_"))
    per_region = method.loss(student, teacher, regions, **golden_case.parameters)
    loss = decouple(per_region, teacher, target)
    golden_case.check("per_region_loss", per_region)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    weights = decoupling_weights(teacher, target)
    assert (weights.double().numpy() == golden_case.expected("weights")).all()


@golden("spatial_pyramid")
def test_pyramid(case):
    golden_case = GoldenCase(*case)
    inputs = golden_case.inputs
    classifier = nn.Linear(*reversed(inputs["weight"].shape)).to(golden_case.dtype)
    classifier.load_state_dict({"weight": inputs["weight"], "bias": inputs["bias"]})
    logits = pyramid_logits(inputs["features"], classifier, golden_case.levels)
    golden_case.check("logits_multi", logits)
    golden_case.check("logits_global", classifier(inputs["features"].mean(dim=(2, 3))))
    golden_case.check_gradients((inputs["cotangent"] * logits).sum())


@golden("at")
def test_attention_transfer(case):
    golden_case = GoldenCase(*case)
    count = len(golden_case.inputs) // 2
    student = [golden_case.inputs[f"features_student_{i}"] for i in range(count)]
    teacher = [golden_case.inputs[f"features_teacher_{i}"] for i in range(count)]
    loss = at.loss(student, teacher, **golden_case.parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    for i in range(count):
        stage = at.stage_loss(student[i], teacher[i], golden_case.parameters["p"])
        golden_case.check(f"loss_stage_{i}", stage)
