"""What the mistakes of published code change, in numbers: the figures of docs/differences.md.

Run by hand after `dvc repro` of the default matrix: python -m benchmarks.differences. Uses the trained ResNet20 teacher
and the ResNet8 student that KD trained, on the first 64 test images of the digits.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore import checkpoints
from kdcore.data import randaugment, storage
from kdcore.data.augment import Normalize, apply_views, epoch_views
from kdcore.methods import crd, kd, kdsvd, mlkd, nkd, ofd, skd, vid
from kdcore.networks.contract import Network
from kdcore.scales import decouple, decouple_as_fusion_published, pyramid_logits
from kdcore.standardize import standardize

CPU = torch.device("cpu")
PAIR = "resnet20-resnet8"
STUDENT = Path(f"runs/{PAIR}/{PAIR}-kd-1-False-base-0/weights.safetensors")
TEACHER = Path(f"pairs/{PAIR}.safetensors")
BATCH = 64
LEVELS = (1, 2, 4)


def relative(theirs: Tensor, ours: Tensor) -> str:
    """ "+12%": how far theirs is from ours."""
    return f"{(theirs / ours - 1).item():+.1%}"


def fusion(student: Network, teacher: Network, images: Tensor, target: Tensor) -> None:
    """The published fusion of SDD and LSKD against the composition of the three parts."""
    with torch.no_grad():
        s, t = (pyramid_logits(network(images).final_map, network.classifier, LEVELS) for network in (student, teacher))
    per_region = kd.loss(standardize(s), standardize(t), temperature=2.0)
    ours, theirs = decouple(per_region, t, target), decouple_as_fusion_published(per_region, t, target)
    batch, regions = per_region.shape
    sample = torch.arange(regions * batch) % batch
    read_as = torch.arange(regions * batch) // regions
    wrong = (target[sample] != target[read_as]).float().mean()
    right = (t.argmax(dim=-1) == target[:, None]).T.reshape(-1)
    moved = ((right == right[sample]) != (right == right[read_as])).float().mean()
    shuffled = []
    for seed in range(20):
        order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
        shuffled.append(decouple_as_fusion_published(per_region[order], t[order], target[order]))
    spread = torch.stack(shuffled)
    print(f"fusion: {wrong:.1%} of the rows are read with another label, {moved:.1%} get into the other group")
    print(f"fusion: loss {theirs:.4f}, ours {ours:.4f}")
    print(f"fusion: over 20 orders of one batch the published loss runs from {spread.min():.4f} to {spread.max():.4f}")


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    """Flat."""
    return torch.autograd.grad(loss, logits)[0].flatten()


def nkd_classes(student: Tensor, teacher: Tensor, target: Tensor) -> None:
    """The second softmax with and without the target class."""
    logits = student.clone().requires_grad_()
    found = [
        nkd.loss(logits, teacher, target, gamma=1.5, temperature=1.0, nontarget=nontarget).mean()
        for nontarget in ("exclude_target", "all_classes")
    ]
    ours, theirs = (gradient(loss, logits) for loss in found)
    cosine = F.cosine_similarity(ours, theirs, dim=0)
    print(f"nkd: loss {relative(found[1], found[0])}; cosine of the two gradients {cosine:.3f}")


def mlkd_variants(student: Network, teacher: Network, weak: Tensor, strong_images: Tensor) -> None:
    """Masks that act as their means, and weak logits in the strong term."""
    with torch.no_grad():
        views = [network(view).logits for network in (student, teacher) for view in (weak, strong_images)]
    terms = {v: mlkd.terms(*views, temperature=4.0, variant=v) for v in ("as_published", "as_written")}
    for name in mlkd.Terms._fields:
        theirs, written = (getattr(terms[v], name) for v in ("as_published", "as_written"))
        print(f"mlkd: {name} as published {theirs:.4f}, as written {written:.4f} ({relative(theirs, written)})")


def skd_gradients(student: Tensor, teacher: Tensor) -> None:
    """The root's gradient where student and teacher agree, as autograd gives it, and ours."""
    logits = teacher.clone().requires_grad_()
    published = torch.zeros(4, requires_grad=True)
    plain = torch.autograd.grad(published.sqrt().mean(), published)[0]
    ours = gradient(skd.loss(logits, teacher, temperature=4.0, tikhonov=0.1), logits)
    one = skd.loss(student[:1], teacher[:1], temperature=4.0, tikhonov=0.1)
    print(f"skd: gradient of a plain root at 0 is {plain[0]:.0f}; ours at student = teacher {ours.abs().max():.1g}")
    print(f"skd: a batch of one gives {one:.4f}")


def ofd_modes(teacher: Network, images: Tensor, size: int) -> None:
    """The teacher's pre-activations by each batch's statistics instead of its own."""
    with torch.no_grad():
        frozen = teacher.eval()(images[:size]).preacts[1:]
        state = {key: value.clone() for key, value in teacher.state_dict().items()}
        moving = teacher.train()(images[:size]).preacts[1:]
        teacher.load_state_dict(state)
        teacher.eval()
    apart = torch.stack([(a - b).square().mean() / a.square().mean() for a, b in zip(frozen, moving, strict=True)])
    shares = ", ".join(f"{share:.1%}" for share in apart)
    print(f"ofd: pre-activations of the three stages change by {shares} of their mean square (batch of {size})")
    dead = ofd.margin(torch.zeros(1), torch.tensor([-1.0]))
    print(f"ofd: the margin of a channel with weight 0 and bias -1 is {dead.item():g}")


def shapes_asked_in_training(teacher: Network, images: Tensor, target: Tensor) -> None:
    """What one random image does to a teacher that passes it in training mode, as FitNet and VID ask for shapes."""
    first, side = next(teacher.parameters()), images.shape[-1]
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(first)
    moved = copy.deepcopy(teacher)
    with torch.no_grad():
        moved.train()(noise)
        before, after = teacher.eval()(images), moved.eval()(images)
    stages = zip(before.stages[1:], after.stages[1:], strict=True)
    shares = ", ".join(f"{(a - b).square().mean() / a.square().mean():.1%}" for a, b in stages)
    top1, top1_after = (100 * (output.logits.argmax(dim=1) == target).double().mean() for output in (before, after))
    print(f"fitnet, vid: maps of the three stages change by {shares} of their mean square (one random image)")
    print(f"fitnet, vid: the teacher's top-1 on {len(target)} images goes from {top1:.1f} to {top1_after:.1f}")


def kdsvd_signs(student: Network, teacher: Network, images: Tensor) -> None:
    """The loss when the arbitrary sign of one stage's vectors is the other one."""
    with torch.no_grad():
        maps = zip(student(images).stages[1:], teacher(images).stages[1:], strict=True)
        own, other = zip(*(kdsvd.stage_vectors(s, t, 1) for s, t in maps), strict=True)
    flipped = kdsvd.relation_loss([own[0], -own[1], own[2]], [other[0], -other[1], other[2]])
    print(
        f"kdsvd: with one stage's sign turned, the loss changes by {relative(flipped, kdsvd.relation_loss(own, other))}"
    )


def crd_draws() -> None:
    """Negatives drawn with and without replacement, at CIFAR-100's size."""
    labels = torch.arange(50_000) % 100
    drawn = crd.Others(labels).draw(torch.tensor([0]), 16_384, torch.Generator().manual_seed(0))
    print(f"crd: of 16,384 negatives among 49,500 images {len(drawn.unique()) / 16_384:.1%} are distinct")


def vid_variances() -> None:
    """The likelihood at the initial variance and at the best one, for unit squared error."""
    start, best = (0.5 * (1 / v + torch.log(torch.tensor(v))) for v in (5.0, 1.0))
    weight = torch.full((1,), 5.0)
    print(f"vid: at unit error the term is {start:.3f} with the variance left at 5, {best:.3f} with the best one, 1")
    print(f"vid: its pull on the student is {1 / vid.variance(weight.expm1().log(), 0.0).item():.2f} of the best one's")


def main() -> None:
    """Print every figure."""
    dataset = storage.load(Path("data/digits"))
    teacher = checkpoints.restore("resnet20", 10, TEACHER, CPU)
    student = checkpoints.restore("resnet8", 10, STUDENT, CPU)
    normalize = Normalize(dataset.mean, dataset.std, CPU)
    pixels = torch.from_numpy(dataset.test.images)  # type: ignore[union-attr]
    target = torch.from_numpy(dataset.test.labels)[:BATCH]
    images = normalize(pixels.permute(0, 3, 1, 2))
    with torch.no_grad():
        logits = student(images[:BATCH]).logits, teacher(images[:BATCH]).logits
    crops = epoch_views(0, 1, BATCH, offsets=2 * dataset.padding + 1, flip=dataset.flip)
    index = torch.arange(BATCH)
    cropped = apply_views(pixels[:BATCH], crops, size=dataset.image_size, padding=dataset.padding)
    strongly = normalize(randaugment.apply_strong_views(cropped, randaugment.epoch_strong_views(0, 1, BATCH).of(index)))
    fusion(student, teacher, images[:BATCH], target)
    nkd_classes(*logits, target)
    mlkd_variants(student, teacher, images[:BATCH], strongly)
    skd_gradients(*logits)
    for size in (16, BATCH):
        ofd_modes(teacher, images, size)
    shapes_asked_in_training(teacher, images, torch.from_numpy(dataset.test.labels))
    kdsvd_signs(student, teacher, images[:BATCH])
    crd_draws()
    vid_variances()


if __name__ == "__main__":
    main()
