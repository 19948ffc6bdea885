"""Losses against the values of the published implementations."""

import torch
import torch.nn.functional as F
from torch import nn

from kdcore import methods
from kdcore.methods import at, clkd, crd, dkd, fitnet, kdsvd, mlkd, nkd, nst, ofd, pkt, reviewkd, rkd, rld, skd, sp, vid
from kdcore.methods._confidence import unsure
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


def maps_of(case: GoldenCase):
    """The student's and the teacher's maps, one per stage."""
    count = sum(name.startswith("features_student") for name in case.inputs)
    return ([case.inputs[f"features_{role}_{i}"] for i in range(count)] for role in ("student", "teacher"))


@golden("clkd")
def test_clkd(case):
    golden_case = GoldenCase(*case)
    weights = {key: golden_case.parameters[key] for key in ("mu", "nu", "beta")}
    student, teacher = logits_of(golden_case)
    loss = clkd.loss(student, teacher, **weights)
    for name, term in zip(
        ("instance_loss", "class_loss", "class_corr_loss"), clkd.terms(student, teacher), strict=True
    ):
        golden_case.check(name, term)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("skd")
def test_skd(case):
    golden_case = GoldenCase(*case)
    parameters = {key: golden_case.parameters[key] for key in ("temperature", "tikhonov")}
    student, teacher = logits_of(golden_case)
    divergence, distance = skd.terms(student, teacher, **parameters)
    golden_case.check("kd_unmasked", divergence)
    golden_case.check("mahalanobis", distance)
    masks = [mask.sum().item() for mask in unsure(teacher)]
    assert masks == golden_case.expected("mask_counts").tolist()
    loss = skd.loss(student, teacher, **parameters, kd_weight=golden_case.parameters["kd_weight"])
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("mlkd")
def test_mlkd(case):
    golden_case = GoldenCase(*case)
    views = [
        golden_case.inputs[f"logits_{role}_{view}"] for role in ("student", "teacher") for view in ("weak", "strong")
    ]
    options = {"temperature": golden_case.parameters["temperature"], "standardize": golden_case.standardize}
    weight = golden_case.parameters["kd_weight"]
    assert tuple(golden_case.parameters["fixed_temperatures"]) == mlkd.FIXED_TEMPERATURES
    for name, term in mlkd.terms(*views, **options)._asdict().items():
        golden_case.check(
            {"kd_weak": "loss_kd_weak", "kd_strong": "loss_kd_strong"}.get(name, f"loss_{name}"), weight * term
        )
    loss = mlkd.loss(*views, **options, kd_weight=weight)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    cross_entropy = sum(F.cross_entropy(student, golden_case.inputs["target"]) for student in views[:2])
    golden_case.check("loss_ce", golden_case.parameters["ce_weight"] * cross_entropy)


@golden("at")
def test_at(case):
    golden_case = GoldenCase(*case)
    student, teacher = maps_of(golden_case)
    loss = at.loss(student, teacher, **golden_case.parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    for i in range(len(student)):
        stage = at.stage_loss(student[i], teacher[i], golden_case.parameters["p"])
        golden_case.check(f"loss_stage_{i}", stage)


@golden("sp", "nst", "reviewkd_hcl")
def test_losses_of_maps(case):
    golden_case = GoldenCase(*case)
    method = {"sp": sp, "nst": nst, "reviewkd_hcl": reviewkd}[golden_case.case["method"]]
    loss = method.loss(*maps_of(golden_case))
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("fitnet", "pkt", "rkd")
def test_losses_of_one_feature(case):
    golden_case = GoldenCase(*case)
    method = {"fitnet": fitnet, "pkt": pkt, "rkd": rkd}[golden_case.case["method"]]
    features = golden_case.inputs["features_student"], golden_case.inputs["features_teacher"]
    loss = method.loss(*features, **golden_case.parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("rkd")
def test_rkd_terms(case):
    golden_case = GoldenCase(*case)
    features = golden_case.inputs["features_student"], golden_case.inputs["features_teacher"]
    options = {key: golden_case.parameters[key] for key in ("squared", "eps")}
    by_distance, by_angle = rkd.terms(*features, **options)
    golden_case.check("loss_distance", by_distance)
    golden_case.check("loss_angle", by_angle)


@golden("vid")
def test_vid(case):
    golden_case = GoldenCase(*case)
    inputs = golden_case.inputs
    loss = vid.loss(inputs["pred_mean"], inputs["features_teacher"], inputs["log_scale"], **golden_case.parameters)
    golden_case.check("loss", loss)
    golden_case.check("pred_var", vid.variance(inputs["log_scale"], golden_case.parameters["eps"]))
    golden_case.check_gradients(loss)


@golden("ofd")
def test_ofd(case):
    golden_case = GoldenCase(*case)
    student, teacher = maps_of(golden_case)
    margins = [golden_case.inputs[f"margin_{i}"] for i in range(len(student))]
    loss = ofd.loss(student, teacher, margins)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
    for i in range(len(student)):
        golden_case.check(f"loss_stage_{i}", ofd.stage_loss(student[i], teacher[i], margins[i]))


@golden("ofd_margin")
def test_ofd_margin(case):
    golden_case = GoldenCase(*case)
    golden_case.check("margin", ofd.margin(golden_case.inputs["bn_weight"], golden_case.inputs["bn_bias"]))


@golden("kdsvd")
def test_kdsvd(case):
    """With the signs of the teacher's vectors that the reference had: they are arbitrary."""
    golden_case = GoldenCase(*case)
    k = golden_case.parameters["k"]
    student, teacher = [], []
    for i, maps in enumerate(zip(*maps_of(golden_case), strict=True)):
        own, other = kdsvd.stage_vectors(*maps, k)
        recorded = torch.from_numpy(golden_case.expected(f"teacher_v_{i}")).to(other)
        signs = (other * recorded).sum(dim=1, keepdim=True).sign()
        student.append(own * signs)
        teacher.append(other * signs)
    loss = kdsvd.relation_loss(student, teacher)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("crd")
def test_crd(case):
    golden_case = GoldenCase(*case)
    inputs, parameters = golden_case.inputs, golden_case.parameters
    student, teacher = (
        F.normalize(
            F.linear(inputs[f"features_{role}"], inputs[f"embed_{role[0]}_weight"], inputs[f"embed_{role[0]}_bias"])
        )
        for role in ("student", "teacher")
    )
    memories = inputs["memory_v1"], inputs["memory_v2"]
    start = [float("nan") if parameters[name] is None else parameters[name] for name in ("z_v1", "z_v2")]
    z = tuple(torch.tensor(value, dtype=golden_case.dtype) for value in start)
    options = {key: parameters[key] for key in ("temperature", "eps")}
    drawn = inputs["contrast_index"]
    loss = crd.loss(student, teacher, memories, drawn, z, **options)
    golden_case.check("loss", loss)
    golden_case.check("embed_student", student)
    golden_case.check("embed_teacher", teacher)
    for role, version, features, memory in (
        ("student", "v1", student, memories[1]),
        ("teacher", "v2", teacher, memories[0]),
    ):
        scores = crd.contrast(features, memory, drawn, z[version == "v2"], **options)
        golden_case.check(f"loss_{role}", scores.loss)
        golden_case.check(f"out_{role}", scores.likeness)
        golden_case.check(f"z_{version}", scores.z)
    for name, features in (("memory_v1", student), ("memory_v2", teacher)):
        rows = crd.remembered(inputs[name][inputs["index"]], features, parameters["momentum"])
        golden_case.check(f"{name}_rows", rows)
    golden_case.check_gradients(loss)
