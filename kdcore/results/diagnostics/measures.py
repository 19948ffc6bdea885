"""The measures of diagnostics, as functions of what two networks return for the same images."""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10
"""Bins of equal width of the teacher's confidence."""
LEAST_IMAGES = 4
"""How many images the unbiased estimate of CKA needs at least."""


def correlations(logits: Tensor) -> Tensor:
    """Return how the logits of classes vary together: Pearson's correlation of every two classes over the images.

    Args:
        logits: (N, C).

    Returns:
        (C, C) float64, from -1 to 1; 0 for a class whose logit is the same for all images.
    """
    centred = logits.double() - logits.double().mean(dim=0)
    norm = centred.norm(dim=0)
    unit = torch.where(norm > 0, centred / norm.clamp(min=torch.finfo(torch.float64).tiny), 0)
    return (unit.T @ unit).clamp(-1, 1)


def correlation_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the correlations of two networks' logits are apart, as LSKD's figure shows it (Sun et al., Logit
    Standardization in Knowledge Distillation, CVPR 2024, arXiv:2403.01427).

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits for the same images.

    Returns:
        (C, C) float64, absolute differences from 0 to 2; the diagonal is 0 unless a logit of one network is constant.
    """
    return (correlations(student) - correlations(teacher)).abs()


def block_means(square: Tensor, most: int) -> Tensor:
    """Average a square matrix over blocks, so that it has at most `most` lines: (C, C) -> (min(C, most),) * 2."""
    side = min(len(square), most)
    return torch.nn.functional.adaptive_avg_pool2d(square[None, None], side)[0, 0]


def logit_statistics(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (unbiased) deviation over classes of each image's logits: (N, C) -> twice (N,) float64.

    LSKD's z-score takes both away (arXiv:2403.01427), so its figure compares them between teacher and student.
    """
    return logits.double().mean(dim=1), logits.double().std(dim=1)


def confidence_bins(teacher: Tensor) -> Tensor:
    """Return the bin of the teacher's confidence for each image, from 0, the least confident, to `BINS` - 1.

    Args:
        teacher: (N, C) logits; the confidence is the largest probability at temperature 1.
    """
    confidence = teacher.double().softmax(dim=1).max(dim=1).values
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=teacher.device)
    return torch.bucketize(confidence, edges[1:-1], right=True)


def counted(bins: Tensor, of: Tensor, size: int) -> list[int]:
    """Count in every bin the images for which `of` is true.

    Args:
        bins: (N,), from 0 to `size` - 1.
        of: (N,) bool.
        size: how many bins there are.
    """
    return [int(count) for count in torch.bincount(bins[of], minlength=size)]


@dataclass(frozen=True)
class Gram:
    """The similarities of N images by their features, from which CKA is computed."""

    products: Tensor
    """(N, N) float64: dot products of the images' features, 0 on the diagonal."""

    @classmethod
    def of(cls, features: Tensor) -> "Gram":
        """Compare images by features (N, ...), which are flattened."""
        flat = features.flatten(1).double()
        flat = flat - flat.mean(dim=0)  # which the estimate does not see, but its rounding does
        products = flat @ flat.T
        return cls(products.fill_diagonal_(0))

    def shared(self, other: "Gram") -> float:
        """Return the unbiased estimate of HSIC, how much two similarities have in common, times N(N - 3) (Song et al.,
        Feature Selection via Dependence Maximization, JMLR 2012, eq. 5).
        """
        one, two, count = self.products, other.products, len(self.products)
        sums, others = one.sum(dim=0), two.sum(dim=0)
        within = (one * two).sum() + sums.sum() * others.sum() / ((count - 1) * (count - 2))
        return float(within - 2 * (sums @ others) / (count - 2))


def cka(one: Gram, other: Gram) -> float | None:
    """Return the linear CKA of two layers, from about 0 to 1 (Kornblith et al., Similarity of Neural Network
    Representations Revisited, ICML 2019, arXiv:1905.00414), with the unbiased estimate of HSIC (Nguyen et al., ICLR
    2021, arXiv:2010.15327).

    It does not change where features are rotated, mirrored or multiplied by one number. The estimate can fall a little
    below 0. None where a layer tells no images apart.

    Args:
        one: of a layer, for at least `LEAST_IMAGES` images.
        other: of a layer of the same network or another one, for the same images.
    """
    own, others = one.shared(one), other.shared(other)
    if own <= 0 or others <= 0:
        return None
    return one.shared(other) / (own * others) ** 0.5


def region_kinds(whole_right: Tensor, region_right: Tensor) -> list[int]:
    """Count regions by whether the prediction for the whole image and that for the region are right.

    SDD calls regions complementary where just one of the two is, and consistent otherwise (Wei et al., Scale Decoupled
    Distillation, CVPR 2024, arXiv:2403.13512).

    Args:
        whole_right: (N,) bool.
        region_right: (N, R) bool, of the R regions of one level.

    Returns:
        Four counts that sum up to N * R: both right; the whole image alone; the region alone; none.
    """
    whole = whole_right[:, None].expand_as(region_right)
    kinds = (whole & region_right, whole & ~region_right, ~whole & region_right, ~whole & ~region_right)
    return [int(kind.sum()) for kind in kinds]
