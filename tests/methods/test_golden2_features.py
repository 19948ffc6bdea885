"""Losses of the second wave's feature methods against the values of the published implementations."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from kdcore.methods import catkd, ickd, itrd, kd, mgd, norm, semckd, simkd, srrl, wkd_f
from kdcore.methods._stages import same_size
from kdcore.networks.contract import Network, Output
from tests.methods.inputs import setting, step
from tests.reference import GoldenCase, golden


class Taught(Network):
    """A student whose image is its last map: what is left of a network where a case gives features."""

    def __init__(self, channels, classes):
        super().__init__()
        self.head = nn.Linear(channels, classes)

    @property
    def classifier(self):
        return self.head

    @property
    def norms(self):
        return ()

    def forward(self, images):
        return output_of(images, logits=self.head(images.mean(dim=(2, 3))))


def output_of(*stages, logits=None):
    """Outputs with these maps (B, Ch, H, W) after a stem's."""
    last = stages[-1]
    stages = (last[:, :1], *stages)
    return Output(last.new_zeros(len(last), 2) if logits is None else logits, stages, stages, last.mean((2, 3)), last)


def linear(case: GoldenCase):
    """The classifier that a case gives."""
    weight, bias = case.inputs["classifier_weight"], case.inputs["classifier_bias"]
    made = nn.Linear(weight.shape[1], weight.shape[0]).to(case.dtype)
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


class Part(nn.Module):
    """Another function of an adapter than its `forward`, called as a module."""

    def __init__(self, adapter, function):
        super().__init__()
        self.adapter, self.function = adapter, function

    def forward(self, *args):
        return getattr(self.adapter, self.function)(*args)


def call(case: GoldenCase, module, names, *args):
    """Call a module with a case's inputs for its parameters and buffers, so that gradients reach the inputs.

    Args:
        case: has the inputs.
        module: is called.
        names: the beginning of a name in the module -> that of the inputs.
        args: what it is called with.
    """
    values = {
        f"{own}.{rest}": tensor
        for own, theirs in names.items()
        for name, tensor in case.inputs.items()
        if (rest := name.removeprefix(f"{theirs}_")) in ("weight", "bias", "running_mean", "running_var")
    }
    module = module.to(case.dtype)
    assert {name for name, _ in module.named_parameters()} <= set(values)
    return functional_call(module, values, args)


@golden("simkd", module=False)
def test_simkd(case):
    golden_case = GoldenCase(*case)
    # The larger map is pooled before the projector, which leaves it as it is in these cases.
    student, teacher = same_size(golden_case.inputs["features_student"], golden_case.inputs["features_teacher"])
    loss = simkd.loss(student, teacher)
    golden_case.check("loss", loss)
    golden_case.check("logits_student", linear(golden_case)(student.mean(dim=(2, 3))))
    golden_case.check_gradients(loss)


@golden("simkd", module=True)
def test_simkd_module(case):
    golden_case = GoldenCase(*case)
    student, teacher = golden_case.inputs["features_student"], output_of(golden_case.inputs["features_teacher"])
    network, classifier = Taught(student.shape[1], 7), linear(golden_case)
    of_both = setting(output_of(student), teacher, classifiers=(network.classifier, classifier))
    adapter = simkd.Adapter(of_both, **golden_case.parameters)
    made = adapter.as_student(network)
    made.train("eval" not in golden_case.case["id"])
    names = {"head": "classifier"}
    for i in range(3):
        names |= {f"end.layers.{3 * i}": f"projector_conv{i + 1}", f"end.layers.{3 * i + 1}": f"projector_bn{i + 1}"}
    result = call(golden_case, made, names, student)
    golden_case.check("projected", result.final_map)
    golden_case.check("logits_student", result.logits)
    torch.testing.assert_close(made.classifier.weight, classifier.weight)
    loss = adapter(step(result, teacher))
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("catkd")
def test_catkd(case):
    golden_case = GoldenCase(*case)
    parameters = dict(golden_case.parameters)
    maps = golden_case.inputs["features_student"], golden_case.inputs["features_teacher"]
    if "strategy" in parameters:  # the paper's analysis, which the method does not have
        logits, count = maps[1].mean(dim=(2, 3)), parameters.pop("classes")
        ranked = logits.sort(dim=1, descending=True).values
        if parameters.pop("strategy") == 0:
            kept = logits > ranked[:, count - 1, None]
        else:
            kept = logits <= ranked[:, 99 - count, None]
        maps = tuple(of_one[kept].unflatten(0, (len(logits), -1)) for of_one in maps)
    loss = catkd.loss(*maps, **parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("norm", module=False)
def test_norm(case):
    golden_case = GoldenCase(*case)
    parameters, inputs = golden_case.parameters, golden_case.inputs
    loss = norm.loss(inputs["features_student"], inputs["features_teacher"], copies=parameters["copies"])
    if "kd_weight" in parameters:
        golden_case.check("loss_norm", loss)
        student, teacher = (
            norm.task_logits(inputs[f"logits_{role}"], logit_scale=parameters["logit_scale"])
            for role in ("student", "teacher")
        )
        divergence = kd.loss(student, teacher, inputs["target"], temperature=parameters["temperature"]).mean()
        golden_case.check("loss_kd", divergence)
        golden_case.check("loss_ce", F.cross_entropy(student, inputs["target"]))
        loss = loss + parameters["kd_weight"] * divergence
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("norm", module=True)
def test_norm_module(case):
    golden_case = GoldenCase(*case)
    student, teacher = golden_case.inputs["features_student"], output_of(golden_case.inputs["features_teacher"])
    network = Taught(student.shape[1], 5)
    adapter = norm.Adapter(setting(output_of(student), teacher), **golden_case.parameters, logit_scale=2.5)
    names = {"head": "classifier"}
    for part in ("expand", "contract"):
        names |= {f"end.{part}.0": f"{part}_conv", f"end.{part}.1": f"{part}_bn"}
    result = call(golden_case, adapter.as_student(network), names, student)
    golden_case.check("features_expanded", result.extra)
    golden_case.check("logits_student", result.logits)
    matching = adapter(step(result, teacher))
    golden_case.check("loss_norm", matching)
    loss = matching + (golden_case.inputs["cotangent"] * result.logits).sum()
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


def check_srrl(case: GoldenCase, connected):
    """Check everything that a case of SRRL expects, for the connector's output."""
    teacher, logits = case.inputs["features_teacher"], case.inputs["logits_teacher"]
    arguments = connected, teacher, linear(case), logits
    parts = srrl.terms(*arguments, variant=case.parameters["variant"])
    case.check("loss_feature", parts.feature)
    case.check("loss_logit", parts.logit)
    case.check("logits_student", parts.logits)
    loss = srrl.loss(*arguments, **case.parameters)
    case.check("loss", loss)
    return loss


@golden("srrl", module=False)
def test_srrl(case):
    golden_case = GoldenCase(*case)
    golden_case.check_gradients(check_srrl(golden_case, golden_case.inputs["features_student"]))


@golden("srrl", module=True)
def test_srrl_module(case):
    golden_case = GoldenCase(*case)
    raw = [golden_case.inputs[f"features_{role}"] for role in ("student", "teacher")]
    student, teacher = (output_of(x if x.dim() == 4 else x[:, :, None, None]) for x in raw)
    teacher = teacher._replace(logits=golden_case.inputs["logits_teacher"])
    classifiers = nn.Linear(student.pooled.shape[1], teacher.logits.shape[1]), linear(golden_case)
    adapter = srrl.Adapter(setting(student, teacher, classifiers=classifiers), **golden_case.parameters)
    names = {"0": "connector_conv", "1": "connector_bn"}
    connected = call(golden_case, adapter.connector, names, student.final_map)
    connected = connected.flatten(1) if raw[0].dim() == 2 else connected
    golden_case.check("connected", connected)
    golden_case.check_gradients(check_srrl(golden_case, connected))
    in_adapter = {f"connector.{own}": theirs for own, theirs in names.items()}
    golden_case.check("loss", call(golden_case, adapter, in_adapter, step(student, teacher)))


@golden("semckd", module=False)
def test_semckd(case):
    golden_case = GoldenCase(*case)
    attention = golden_case.inputs["attention"]
    student, teacher = (
        [
            [golden_case.inputs[f"values_{role}_{i}_{j}"] for j in range(attention.shape[2])]
            for i in range(attention.shape[1])
        ]
        for role in ("student", "teacher")
    )
    loss = semckd.loss(student, teacher, attention)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("semckd", module=True)
def test_semckd_module(case):
    golden_case = GoldenCase(*case)
    student, teacher = (
        output_of(*(tensor for name, tensor in golden_case.inputs.items() if name.startswith(f"features_{role}_")))
        for role in ("student", "teacher")
    )
    adapter = semckd.Adapter(setting(student, teacher, batch_size=8), **golden_case.parameters)
    names = {}
    for i in range(len(adapter.queries)):
        names |= {f"queries.{i}.0": f"query{i}_linear1", f"queries.{i}.2": f"query{i}_linear2"}
        for j in range(len(adapter.keys)):
            names |= {f"keys.{j}.0": f"key{j}_linear1", f"keys.{j}.2": f"key{j}_linear2"}
            for own, theirs in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"), (6, "conv3")):
                names[f"projections.{i}.{j}.{own}"] = f"value{i}{j}_{theirs}"
    in_part = {f"adapter.{own}": theirs for own, theirs in names.items()}
    golden_case.check("attention", call(golden_case, Part(adapter, "attention"), in_part, student, teacher))
    loss = call(golden_case, adapter, names, step(student, teacher))
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("mgd")
def test_mgd(case):
    golden_case = GoldenCase(*case)
    inputs, parameters = golden_case.inputs, golden_case.parameters
    student, teacher = output_of(inputs["features_student"]), output_of(inputs["features_teacher"])
    options = {name: parameters[name] for name in ("mask", "mask_ratio")}
    assert torch.equal(mgd.kept(inputs["noise"], **options), inputs["keep"])
    adapter = mgd.Adapter(setting(student, teacher), **options)
    assert isinstance(adapter.align, nn.Identity) == ("align_weight" not in inputs)
    names = {"align": "align", "generation.0": "generation_conv1", "generation.2": "generation_conv2"}
    in_part = {f"adapter.{own}": theirs for own, theirs in names.items()}
    generated = call(golden_case, Part(adapter, "generated"), in_part, student.stages[-1], inputs["noise"])
    loss = mgd.loss(generated, teacher.stages[-1], alpha=parameters["alpha"])
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("itrd")
def test_itrd(case):
    golden_case = GoldenCase(*case)
    inputs, parameters = golden_case.inputs, golden_case.parameters
    student, teacher = inputs["features_student"], inputs["features_teacher"]
    embedded = F.linear(student, inputs["embed_weight"], inputs["embed_bias"])
    golden_case.check("loss_correlation", itrd.correlation(embedded, teacher, alpha=parameters["alpha"]))
    golden_case.check("loss_mutual", itrd.mutual(student if embedded.shape == student.shape else embedded, teacher))
    golden_case.check("loss", itrd.loss(student, embedded, teacher, **parameters))
    outputs = [output_of(x[:, :, None, None]) for x in (student, teacher)]
    loss = call(golden_case, itrd.Adapter(setting(*outputs), **parameters), {"embed": "embed"}, step(*outputs))
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("ickd", module=False)
def test_ickd(case):
    golden_case = GoldenCase(*case)
    loss = ickd.loss(golden_case.inputs["features_student"], golden_case.inputs["features_teacher"])
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("ickd", module=True)
def test_ickd_module(case):
    golden_case = GoldenCase(*case)
    outputs = [output_of(golden_case.inputs[f"features_{role}"]) for role in ("student", "teacher")]
    names = {"embed.0": "embed_conv", "embed.1": "embed_bn"}
    loss = call(golden_case, ickd.Adapter(setting(*outputs)), names, step(*outputs))
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)


@golden("wkd_f")
def test_wkd_f(case):
    golden_case = GoldenCase(*case)
    parameters = dict(golden_case.parameters)
    assert parameters.pop("eps") == wkd_f.EPSILON
    maps = golden_case.inputs["features_student"], golden_case.inputs["features_teacher"]
    parts = wkd_f.terms(*maps, grid=parameters["grid"])
    golden_case.check("loss_mean", parts.mean)
    golden_case.check("loss_std", parts.std)
    loss = wkd_f.loss(*maps, **parameters)
    golden_case.check("loss", loss)
    golden_case.check_gradients(loss)
