"""The loss for other trainers is that of the pipeline's cells, and says what is missing."""

import pytest
import torch
import torch.nn.functional as F

import kdcore
from kdcore import catalog, objective
from kdcore.library import recipe as recipes
from kdcore.library.loss import drawing_seed
from kdcore.networks.contract import Output
from kdcore.objective import BatchContext
from kdcore.system.errors import UserError
from tests.library.needs import LABELS, SIZE, SMALL, Try

LOGIT = [name for name in catalog.methods() if catalog.kind(name) == "logit"]
COMPOSED = [("dkd", (1, 2, 4), True), ("kd", (4,), False), ("mlkd", (1, 2), True), ("crd+dkd", (1, 4), True),
            ("catkd+kd", (1, 2), False), ("wkd_l", (1, 2), True)]  # fmt: skip
INDEX = torch.tensor([3, 0, 11, 5])
MAPS = [torch.randn(4, width, 4, 4) for width in (4, 8, 16)]
GIVEN = (torch.randn(4, 10), MAPS)


def flat(method, levels, stand):
    """The recipe as a card has it, with small layers."""
    cell = recipes.cell(method, pair=None, levels=levels, stand=stand)
    return {key: SMALL.get(key.split(".")[-1], value) for key, value in recipes.published(cell, "cifar100").items()}


def nested(flat_recipe):
    found = {}
    for key, value in flat_recipe.items():
        term, _, name = key.rpartition(".")
        (found.setdefault(term, {}) if term else found)[name] = value
    return found


@pytest.mark.parametrize(
    ("method", "levels", "stand"), [*((name, (1,), False) for name in catalog.methods()), *COMPOSED]
)
def test_it_is_the_loss_of_a_cell(method, levels, stand):
    """With the same initial adapters and draws, loss and gradients are equal bit for bit, two steps long."""
    steps = []
    for ours in (True, False):
        case, recipe = Try(), flat(method, levels, stand)
        given = case.given()
        torch.manual_seed(1)
        if ours:
            goal = case.make(method, given, levels, stand, recipe=nested(recipe))
            goal.set_epoch(3)
            student = goal.student
        else:
            networks = {"student": given.pop("student"), "teacher": given.pop("teacher").requires_grad_(False)}
            goal, student = objective.build(method, recipe, **networks, **given, levels=levels, stand=stand)
            student.to(memory_format=torch.contiguous_format)
        drawn = BatchContext(INDEX, 3, torch.Generator().manual_seed(drawing_seed(0, 3)))
        weights = [*student.parameters(), *goal.parameters()]
        for _ in range(2):
            views = case.views[: max(len(entry.views) for entry in catalog.terms(method))]
            outs = [[network(view) for view in views] for network in (student, case.teacher)]
            if ours:
                loss = goal(*(out if len(views) > 1 else out[0] for out in outs), case.target, index=INDEX)
            else:
                loss = goal(outs[0], [Output(*map(cut, out)) for out in outs[1]], case.target, drawn).loss
            steps.append([loss, *torch.autograd.grad(loss, [one for one in weights if one.requires_grad])])
    for one, other in zip(steps[:2], steps[2:], strict=True):
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def cut(value):
    return tuple(map(cut, value)) if isinstance(value, tuple) else None if value is None else value.detach()


def test_the_teacher_is_frozen():
    case = Try()
    case.teacher.train()
    goal = case.make("kd", case.given(), (1, 2))
    goal(case.student(case.views[0]), case.teacher(case.views[0]), case.target).backward()
    assert all(value.grad is None for value in case.teacher.parameters())
    assert all(value.grad is not None for value in case.student.parameters())
    case.teacher.train()
    with pytest.raises(UserError, match=r"the teacher is in training mode; call teacher\.eval\(\)"):
        goal(case.student(case.views[0]), case.teacher(case.views[0]), case.target)


def test_nothing_flows_into_the_teachers_outputs():
    """Also where they were computed with gradients, by a network that the loss does not know."""
    given = [torch.randn(4, 10, requires_grad=True), torch.randn(4, 8, 4, 4, requires_grad=True)]
    own, taught = [one.detach().requires_grad_() for one in given], given
    goal = Try().make("at+kd", {})
    goal((own[0], [own[1]] * 2), (2 * taught[0], [2 * taught[1], taught[1].exp()]), torch.arange(4)).backward()
    assert [one.grad is None for one in (*own, *taught)] == [False, False, True, True]


def test_a_teacher_that_normalises_by_each_batch():
    """As OFD's published code does; a teacher in evaluation mode is then refused."""
    case = Try()
    goal = case.make("ofd", case.given(), recipe={**kdcore.recipe("ofd"), "variant": "as_published"})
    assert case.teacher.training
    case.teacher.eval()
    with pytest.raises(UserError, match=r"the teacher is in evaluation mode; call teacher\.train\(\)"):
        goal(case.student(case.views[0]), case.teacher(case.views[0]), case.target)


def test_its_parameters_and_state_are_those_of_the_method():
    case = Try()
    assert not [*case.make("dkd", case.given(), (1, 2)).parameters()]
    goal, other = (case.make("crd", case.given()) for _ in range(2))
    names = {name.rpartition("crd.")[2] for name, _ in goal.named_parameters()}
    assert names == {f"adapter.{role}.{part}" for role in ("student", "teacher") for part in ("weight", "bias")}
    other.load_state_dict(goal.state_dict())
    outs, losses = [network(case.views[0]) for network in (case.student, case.teacher)], []
    for one in (goal, other):
        one.set_epoch(1)
        losses.append(one(*outs, case.target, index=INDEX))
    assert torch.equal(*losses)


def test_building_leaves_the_student_as_it_was():
    """Parts that a user has put into evaluation mode stay in it, and no statistic of a norm moves."""
    case = Try()
    case.student.bn1.eval()
    before = {key: value.clone() for key, value in case.student.state_dict().items()}
    case.make("reviewkd", case.given())
    assert case.student.training
    assert not case.student.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in case.student.state_dict().items())


def test_warm_up_follows_the_epoch():
    case, losses = Try(), {}
    goal = case.make("dkd", {})
    with pytest.raises(UserError, match=r"dkd changes with the epochs .*: call objective\.set_epoch\(epoch\)"):
        goal(GIVEN[0], GIVEN[0], case.target)
    for epoch in (1, 10, 20, 30):
        goal.set_epoch(epoch)
        losses[epoch] = goal.parts(GIVEN[0], torch.zeros(4, 10), case.target).distillation
    torch.testing.assert_close(torch.stack([*losses.values()]) / losses[20], torch.tensor([0.05, 0.5, 1.0, 1.0]))


def test_logits_pairs_and_outputs_are_the_same():
    case = Try()
    out, taught = case.student(case.views[0]), case.teacher(case.views[0])
    goal = case.make("at+kd", case.given(), (1, 2))
    pairs = [(one.logits, list(one.stages)) for one in (out, taught)]
    assert torch.equal(goal(*pairs, case.target), goal(out, taught, case.target))
    plain = case.make("kd", {})
    assert torch.equal(plain(out.logits, taught.logits, case.target), plain(out, taught, case.target))
    assert torch.equal(plain((out.logits, out.final_map), taught, case.target), plain(out, taught, case.target))


def test_shares_of_classes_in_mixed_images():
    goal = Try().make("kd", {})
    target = torch.arange(4)
    shares = 0.7 * F.one_hot(target, 10) + 0.3 * F.one_hot(target + 3, 10)
    mixed, plain = (goal.parts(GIVEN[0], torch.ones(4, 10), one) for one in (shares, target))
    torch.testing.assert_close(mixed.ce, F.cross_entropy(GIVEN[0], shares))
    assert torch.equal(mixed.losses["kd"], plain.losses["kd"])


def test_what_is_drawn_depends_on_seed_and_epoch():
    case, losses = Try(), {}
    for seed, epoch in [(0, 1), (0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(0)
        goal = case.make("crd", {**case.given(), "seed": seed})
        goal.set_epoch(epoch)
        losses.setdefault((seed, epoch), []).append(
            goal(case.student(case.views[0]), case.teacher(case.views[0]), case.target, index=INDEX).item()
        )
    assert losses[0, 1][0] == losses[0, 1][1]
    assert len({values[0] for values in losses.values()}) == 3


WRONG = {
    "an unknown method": (["kdd", "cifar100"], {}, "unknown method 'kdd'. Did you mean kd?"),
    "nothing to distil": (["vanilla", "cifar100"], {}, "vanilla distils nothing; take torch.nn.CrossEntropyLoss"),
    "an unknown data set": (["kd", "cifar10"], {}, "data set of recipes 'cifar10'. Did you mean cifar100?"),
    "an unknown pair": (["kd", "cifar100"], {"pair": "resnet56"}, "'resnet56' must be teacher-student"),
    "a missing value": (
        ["kd", {"temperature": 2, "ce_weight": 1}], {}, "recipe: kd needs kd_weight, warmup too. To change some of the"
    ),
    "weights of regions": (
        ["kd", kdcore.recipe("kd")], {"levels": (1, 2)},
        "kd needs complementary_weight, decoupling too, for its regions; as SDD published them: "
        "'complementary_weight': 2.0, 'decoupling': 'sdd'",
    ),
    "an unknown value": (
        ["kd", {**kdcore.recipe("kd"), "temprature": 2}], {}, "recipe.kd.temprature: unknown parameter. Did you mean te"
    ),
    "a value that is not allowed": (
        ["kd", {**kdcore.recipe("kd"), "temperature": 0}], {}, "recipe.kd.temperature: 0 must be a number > 0"
    ),
    "the published mistake without the whole image": (
        ["kd", {**kdcore.recipe("kd", levels=(2,)), "decoupling": "fusion_as_published"}], {"levels": (2,)},
        "needs the whole image: let levels begin with 1",
    ),
    "a schedule without an end": (
        ["kd", {**kdcore.recipe("kd"), "schedule": "cosine"}], {}, "kd needs epochs for its schedule"
    ),
    "a scale instead of levels": (["kd", "cifar100"], {"levels": 4}, "levels: 4 must be a rising choice of 1, 2 and 4"),
    "levels that fall": (["kd", "cifar100"], {"levels": (2, 1)}, "levels: (2, 1) must be a rising choice"),
    "levels of a feature method": (["at", "cifar100"], {"levels": (1, 2)}, "at compares features, and levels is"),
    "stand of a feature method": (["at", "cifar100"], {"stand": True}, "such as at+kd"),
    "regions without networks": (["kd", "cifar100"], {"levels": (1, 2)}, "give teacher=, student= and image_size="),
    "one network": (["kd", "cifar100"], {"student": torch.nn.Linear(1, 1)}, "one of them is missing; give both"),
    "labels in two dimensions": (["kd", "cifar100"], {"labels": [[1, 2]]}, "labels: torch.int64 (1, 2) must be"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_built(wrong):
    arguments, options, message = WRONG[wrong]
    with pytest.raises(UserError) as raised:
        kdcore.DistillationLoss(*arguments, **options)
    assert message in str(raised.value)


CALLED = {
    "other classes": ("kd", (GIVEN[0], torch.randn(4, 9)), {}, "student (4, 10) and teacher (4, 9) must be"),
    "images instead of logits": ("kd", (torch.randn(4, 3, 8, 8), GIVEN), {}, "the student's output is a tensor"),
    "two heads": ("kd", (GIVEN[0], (GIVEN[0], GIVEN[0])), {}, "the teacher's output is a tuple (a tensor (4, 10)"),
    "a dictionary": ("kd", ({"logits": GIVEN[0]}, GIVEN), {}, "the student's output is a dict; it must be"),
    "other targets": ("kd", (GIVEN, GIVEN), {"target": torch.rand(4)}, "target: torch.float32 (4,) must be the"),
    "mixed images": ("swap", (GIVEN, GIVEN), {"target": torch.rand(4, 10)}, "swap asks for the class of an image"),
    "logits without maps": ("at", (GIVEN[0], GIVEN), {}, "only logits were given: take student = kdcore.wrap("),
    "one map": ("at", (GIVEN, (GIVEN[0], MAPS[0])), {}, "feature maps of stages, which the teacher's"),
    "too few maps": ("kdsvd", (GIVEN, (GIVEN[0], MAPS[:2])), {}, "kdsvd needs 3 maps of stages at least"),
    "one view": ("mlkd", (GIVEN[0], GIVEN[0]), {}, "mlkd sees weak and strong views of each image: give the"),
    "no index": ("crd", None, {}, "crd remembers images: give index=, the positions of the batch's images"),
    "another index": ("crd", None, {"index": INDEX + 1}, "index: is from 1 to 12, and labels are of 12 images"),
    "the student without its end": ("simkd", None, {}, "train objective.student, not student"),
    "logits of regions": ("dkd", None, {"levels": (1, 2)}, "levels above 1 need a final feature map, which the"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", CALLED)
def test_what_cannot_be_computed(wrong):
    method, outs, options, message = CALLED[wrong]
    case = Try()
    goal = case.make(method, case.given() if outs is None else {}, options.get("levels", (1,)))
    goal.set_epoch(1)
    if outs is None:
        outs = [network(case.views[0]) for network in (case.student, case.teacher)]
    if "levels" in options:
        outs = [one.logits for one in outs]
    call = {key: value for key, value in options.items() if key != "levels"}
    with pytest.raises(UserError) as raised:
        goal(*outs, call.pop("target", case.target), **call)
    assert message in str(raised.value)


@pytest.mark.parametrize("epoch", [0, True, 1.0, None])
def test_epochs_are_counted_from_1(epoch):
    with pytest.raises(UserError, match=r"must be a whole number, 1 for the first epoch"):
        Try().make("kd", {}).set_epoch(epoch)


def test_regions_of_a_network_that_has_none():
    case = Try()
    given = {**case.given(), "student": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2, 10))}
    with pytest.raises(UserError, match=r"the classifier of the student must be known; give student=kdcore\.wrap"):
        case.make("kd", given, (1, 2))
    with pytest.raises(UserError, match=r"student ResNet can have no regions \(M=\[1,2,4\]\): .*\. Leave out levels"):
        case.make("kd", {**case.given(), "image_size": 8}, (1, 2, 4))
    assert len(LABELS) == 12
