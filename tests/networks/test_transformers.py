"""Vision transformers: costs as published, by hand to the unit, and the parts that they are made of."""

import importlib
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore import catalog, networks
from kdcore.networks import _tokens, cost, t2t_vit
from kdcore.system.errors import UserError

OURS = ["t2t_vit_7", "t2t_vit_14", "pvt_ti", "cvt_13"]
FAMILIES = ["t2t_vit_7", "pvt_ti", "cvt_13"]
PUBLISHED = {
    # Parameters, and millions of multiply-adds, of logit-standardization-KD's networks with 100 classes at 224.
    "t2t_vit_7": (4_024_394, 1146.6),
    "t2t_vit_14": (21_119_306, 4783.1),
    "pvt_ti": (12_767_588, 1932.5),
    "cvt_13": (19_650_980, 4565.7),
}
TIMM = {
    # The same, of those that timm has.
    "deit_tiny_patch16_224": (5_543_716, 1253.5),
    "pit_ti_224": (4_615_972, 698.8),
    "pvt_v2_b0": (3_435_460, 565.8),
    "convit_tiny": (5_536_812, 1252.2),
}
WITH_SECOND_HEAD = {"deit_tiny_distilled_patch16_224": 5_563_400}
FIXED = {"t2t_vit_7": 54_528, "t2t_vit_14": 79_744}
"""Numbers that are never trained, of the performers and positions."""
SMALLEST = {"t2t_vit_7": 16, "pvt_ti": 32, "cvt_13": 16}


def without_values(name):
    with torch.device("meta"):
        return networks.create(name, 100)


def with_drop_path(name, rate):
    entry = catalog.networks()[name]
    return importlib.import_module(entry.module).build(5, stem="small", **entry.arguments, drop_path=rate)


def norm(width):
    return 2 * width


def linear(inputs, outputs):
    return inputs * outputs + outputs


def products(queries, keys, width):
    """Multiply-adds of both matrix products of attention."""
    return 2 * queries * keys * width


def hidden(width, ratio):
    return linear(width, ratio * width) + linear(ratio * width, width)


def t2t_vit_by_hand(width, depth, ratio):
    tokens, performed = 14 * 14 + 1, 3 * 64 * 64
    parameters, multiply_adds = linear(576, width) + width, (tokens - 1) * 576 * width
    for count, inputs in ((56 * 56, 3 * 7 * 7), (28 * 28, 64 * 3 * 3)):
        parameters += norm(inputs) + linear(inputs, 3 * 64) + norm(64) + 3 * linear(64, 64)
        # Features of queries and keys; keys with values, queries with those; queries with the sum of keys.
        multiply_adds += count * (inputs * 3 * 64 + performed + 2 * 64 * 32 + 2 * 64 * 32 + 32)
    parameters += depth * (2 * norm(width) + 3 * width * width + linear(width, width) + hidden(width, ratio))
    of_layer = tokens * (4 + 2 * ratio) * width * width + products(tokens, tokens, width)
    return parameters + norm(width) + linear(width, 100), multiply_adds + depth * of_layer + width * 100


def pvt_by_hand():
    parameters = multiply_adds = 0
    inputs = 3
    for width, side, patch, ratio, reduction in (
        (64, 56, 4, 8, 8), (128, 28, 2, 8, 4), (320, 14, 2, 4, 2), (512, 7, 2, 4, 1)
    ):  # fmt: skip
        is_last = side == 7
        tokens = side * side + is_last
        keys = (side // reduction) ** 2 + is_last
        parameters += linear(inputs * patch**2, width) + norm(width) + tokens * width + is_last * width
        parameters += 2 * (2 * norm(width) + 4 * linear(width, width) + hidden(width, ratio))
        multiply_adds += side * side * inputs * patch**2 * width
        of_layer = tokens * (2 + 2 * ratio) * width**2 + keys * 2 * width**2 + products(tokens, keys, width)
        if reduction > 1:
            parameters += 2 * (linear(width * reduction**2, width) + norm(width))
            of_layer += keys * reduction**2 * width**2
        multiply_adds += 2 * of_layer
        inputs = width
    return parameters + norm(512) + linear(512, 100), multiply_adds + 512 * 100


def cvt_by_hand():
    parameters = multiply_adds = 0
    inputs = 3
    for width, side, kernel, depth in ((64, 56, 7, 1), (192, 28, 3, 2), (384, 14, 3, 10)):
        is_last = side == 14
        tokens, keys = side**2 + is_last, (side // 2) ** 2 + is_last
        parameters += linear(inputs * kernel**2, width) + norm(width) + is_last * width
        convolutions = 3 * (9 * width + norm(width))
        parameters += depth * (2 * norm(width) + convolutions + 4 * linear(width, width) + hidden(width, 4))
        convolved = 9 * width * (side**2 + 2 * (side // 2) ** 2)
        of_layer = convolved + (tokens * (2 + 8) + keys * 2) * width**2 + products(tokens, keys, width)
        multiply_adds += side**2 * inputs * kernel**2 * width + depth * of_layer
        inputs = width
    return parameters + norm(384) + linear(384, 100), multiply_adds + 384 * 100


BY_HAND = {
    "t2t_vit_7": t2t_vit_by_hand(256, 7, 2),
    "t2t_vit_14": t2t_vit_by_hand(384, 14, 3),
    "pvt_ti": pvt_by_hand(),
    "cvt_13": cvt_by_hand(),
}


class TestCosts:
    @pytest.mark.parametrize("name", OURS)
    def test_by_hand(self, name):
        network = without_values(name)
        assert (cost.parameters(network), cost.multiply_adds(network, 224)) == BY_HAND[name]

    @pytest.mark.parametrize("name", OURS)
    def test_published(self, name):
        parameters, multiply_adds = BY_HAND[name]
        assert (parameters, round(multiply_adds / 1e6, 1)) == PUBLISHED[name]

    @pytest.mark.parametrize("name", TIMM)
    def test_timms_are_the_published_ones(self, name):
        network = pytest.importorskip("timm").create_model(name, num_classes=100)
        assert (cost.parameters(network), round(cost.multiply_adds(network, 224) / 1e6, 1)) == TIMM[name]

    @pytest.mark.parametrize("name", WITH_SECOND_HEAD)
    def test_timms_with_a_second_head(self, name):
        network = pytest.importorskip("timm").create_model(name, num_classes=100)
        assert cost.parameters(network) == WITH_SECOND_HEAD[name]

    @pytest.mark.parametrize("name", FIXED)
    def test_fixed_numbers_are_counted_apart(self, name):
        assert sum(values.numel() for values in without_values(name).buffers()) == FIXED[name]

    def test_counting_where_a_layer_is_given_a_parameter(self):
        class Layer(nn.Linear):
            def __init__(self):
                super().__init__(5, 7)
                self.token, self.inner = nn.Parameter(torch.zeros(1, 5)), nn.Linear(5, 7)

            def forward(self, images):
                return self.inner(self.token.expand(len(images), -1))

        assert cost.multiply_adds(Layer(), 8) == 5 * 7


class TestNetworks:
    @pytest.mark.parametrize("name", OURS)
    def test_it_lacks_what_its_file_says(self, name):
        out = networks.create(name, 5).eval()(torch.randn(2, 3, 32, 32))
        assert catalog.networks()[name].lacks == ("preacts", "final_map")
        assert (out.preacts, out.final_map) == ((), None)
        assert networks.image_size(name) == networks.image_size(name, stem="large") == 224

    @pytest.mark.parametrize(("name", "stages"), [
        ("t2t_vit_7", [(256, 14)] * 4),
        ("t2t_vit_14", [(384, 14)] * 4),
        ("pvt_ti", [(64, 56), (64, 56), (128, 28), (320, 14), (512, 7)]),
        ("cvt_13", [(64, 56), (64, 56), (192, 28), (384, 14)]),
    ])  # fmt: skip
    def test_stages_of_the_published_size(self, name, stages):
        with torch.device("meta"):
            out = without_values(name)(torch.empty(2, 3, 224, 224))
        assert [stage.shape[1:] for stage in out.stages] == [(width, side, side) for width, side in stages]

    @pytest.mark.parametrize("name", FAMILIES)
    def test_stages_of_images_that_are_not_square(self, name):
        out = networks.create(name, 5)(torch.randn(2, 3, 64, 96))
        assert all(stage.shape[2] * 3 == stage.shape[3] * 2 for stage in out.stages)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_stages_show_where_an_image_is_different(self, name):
        """In the lower right corner of 96 x 96 pixels: the map before the layers differs there and not above left."""
        network = networks.create(name, 5).eval()
        images = torch.randn(1, 3, 96, 96)
        changed = images.clone()
        changed[:, :, 88:, 88:] += 1
        with torch.no_grad():
            difference = (network(images).stages[0] - network(changed).stages[0]).abs().sum(dim=1)[0]
        assert difference[-1, -1] > 0.01
        if "t2t" not in name:  # whose performers let each token see all others
            assert difference[:-4].max() == difference[:, :-4].max() == 0

    @pytest.mark.parametrize("name", FAMILIES)
    def test_every_parameter_learns(self, name):
        """But for the convolution of CvT's last queries, of tokens that nothing reads: the class token passes none."""
        network = networks.create(name, 5)
        out = network(torch.randn(4, 3, 64, 64))
        out.logits.logsumexp(dim=1).sum().backward()
        idle = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        last = "stages.2.layers.9.attn.convolutions.0"
        assert idle == ([f"{last}.{key}" for key in ("0.weight", "1.weight", "1.bias")] if name == "cvt_13" else [])

    @pytest.mark.parametrize("name", FAMILIES)
    def test_images_do_not_see_each_other(self, name):
        network = networks.create(name, 5).eval()
        images = torch.randn(3, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(network(images).logits[1:2], network(images[1:2]).logits)

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("size", [0, 1])
    def test_smallest_images(self, name, size):
        images = torch.randn(2, 3, SMALLEST[name] + size, SMALLEST[name] + size)
        assert networks.create(name, 5)(images).logits.isfinite().all()

    def test_images_that_are_too_small(self):
        message = "pvt_ti takes images of at least 32 x 32 pixels, and was given 32 x 31"
        with pytest.raises(UserError, match=f"^{message}$"):
            networks.create("pvt_ti", 5)(torch.randn(2, 3, 32, 31))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_frozen_teacher_is_of_bfloat16_throughout(self, name):
        """Its weights too, and without autocast."""
        network = networks.create(name, 10).eval().to(torch.bfloat16)
        with torch.no_grad():
            assert network(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)).logits.dtype == torch.bfloat16

    @pytest.mark.parametrize("name", FAMILIES)
    def test_bfloat16_says_nearly_the_same(self, name):
        torch.manual_seed(0)
        network = networks.create(name, 5).eval()
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = network(images).logits.float()
        assert logits.isfinite().all()
        torch.testing.assert_close(logits, network(images).logits, atol=0.02, rtol=0.05)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_double_precision(self, name):
        assert networks.create(name, 5).double()(torch.randn(2, 3, 32, 32).double()).logits.dtype == torch.float64

    @pytest.mark.parametrize("name", FAMILIES)
    def test_how_its_weights_begin(self, name):
        network = networks.create(name, 100)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert module.bias is None or not module.bias.any()
            if isinstance(module, nn.LayerNorm):
                assert (module.eps, module.weight.min(), module.bias.max()) == (
                    1e-5 if name == "cvt_13" else 1e-6,
                    1,
                    0,
                )
        assert network.cls_token.std().item() == pytest.approx(0.02, rel=0.2)

    @pytest.mark.parametrize(("name", "names"), [
        ("t2t_vit_7", {"cls_token"}),
        ("pvt_ti", {"cls_token", "positions.0", "positions.1", "positions.2", "positions.3"}),
        ("cvt_13", {"cls_token"}),
    ])  # fmt: skip
    def test_what_weight_decay_leaves_alone(self, name, names):
        assert without_values(name).no_weight_decay() == names

    @pytest.mark.parametrize(("name", "depth"), [("t2t_vit_7", 7), ("pvt_ti", 8), ("cvt_13", 13)])
    def test_drop_path_rises_over_the_layers(self, name, depth):
        network = with_drop_path(name, 0.3)
        rates = [module.rate for module in network.modules() if isinstance(module, _tokens.DropPath)]
        assert rates == pytest.approx([0.3 * i / (depth - 1) for i in range(depth)])
        plain = networks.create(name, 5)
        plain.load_state_dict(network.state_dict())
        images = torch.randn(8, 3, 32, 32)
        assert torch.equal(network.eval()(images).logits, plain.eval()(images).logits)
        assert not [module for module in plain.modules() if isinstance(module, _tokens.DropPath) and module.rate]

    @pytest.mark.parametrize("name", FAMILIES)
    def test_draws_are_those_of_torchs_generator(self, name):
        network = with_drop_path(name, 0.5)
        images = torch.randn(8, 3, 32, 32)

        def logits(seed):
            torch.manual_seed(seed)
            return network(images).logits

        assert torch.equal(logits(0), logits(0))
        assert not torch.equal(logits(0), logits(1))

    @pytest.mark.parametrize(("name", "keys"), [
        ("t2t_vit_7", {
            "cls_token", "fixed_positions", "project.weight", "project.bias", "norm.weight", "norm.bias", "head.weight",
            "head.bias", "layers.*.norm1.weight", "layers.*.norm1.bias", "layers.*.norm2.weight",
            "layers.*.norm2.bias", "layers.*.attn.qkv.weight", "layers.*.attn.proj.weight", "layers.*.attn.proj.bias",
            "layers.*.mlp.*.weight", "layers.*.mlp.*.bias", "performer*.random", "performer*.norm1.weight",
            "performer*.norm1.bias", "performer*.norm2.weight", "performer*.norm2.bias", "performer*.kqv.weight",
            "performer*.kqv.bias", "performer*.proj.weight", "performer*.proj.bias", "performer*.mlp.*.weight",
            "performer*.mlp.*.bias",
        }),
        ("pvt_ti", {
            "cls_token", "positions.*", "norm.weight", "norm.bias", "head.weight", "head.bias",
            *(f"stages.*.{layer}.{kind}" for kind in ("weight", "bias") for layer in (
                "patches", "norm", "layers.*.norm1", "layers.*.norm2", "layers.*.mlp.*", "layers.*.attn.q",
                "layers.*.attn.kv", "layers.*.attn.proj", "layers.*.attn.reduce", "layers.*.attn.norm",
            )),
        }),
        ("cvt_13", {
            "cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias",
            *(f"stages.*.{layer}.{kind}" for kind in ("weight", "bias") for layer in (
                "embed", "norm", "layers.*.norm1", "layers.*.norm2", "layers.*.mlp.*", "layers.*.attn.convolutions.*.*",
                "layers.*.attn.linears.*", "layers.*.attn.proj",
            )),
            *(f"stages.*.layers.*.attn.convolutions.*.*.{kind}"
              for kind in ("running_mean", "running_var", "num_batches_tracked")),
        }),
    ])  # fmt: skip
    def test_keys_of_its_state_dict(self, name, keys):
        """By which checkpoints are read: they stay."""
        found = {re.sub(r"(performer|\.)\d+(?=\.|$)", r"\1*", key) for key in without_values(name).state_dict()}
        assert found == keys


class TestPerformers:
    def test_features_stay_as_they_are_made(self):
        network = networks.create("t2t_vit_7", 5)
        before = {key: value.clone() for key, value in network.named_buffers()}
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
        network(torch.randn(2, 3, 32, 32)).logits.square().sum().backward()
        optimizer.step()
        assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
        assert set(before) == {"performer1.random", "performer2.random", "fixed_positions"}

    def test_features_are_orthogonal(self):
        random = networks.create("t2t_vit_7", 5).performer1.random
        torch.testing.assert_close(random @ random.T, 32 * torch.eye(32), atol=1e-4, rtol=0)

    def test_attention_by_hand(self):
        """One token sees itself; with two, the weights are products of features."""
        q, k, v, random = torch.randn(1, 1, 3), torch.randn(1, 1, 3), torch.randn(1, 1, 3), torch.randn(4, 3)
        torch.testing.assert_close(t2t_vit.linearly_attended(q, k, v, random), v)
        q, k, v = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [3.0]]])
        found = t2t_vit.linearly_attended(q, k, v, torch.tensor([[1.0], [-1.0]]))

        def feature(x):
            return torch.tensor([x - x * x / 2, -x - x * x / 2]).exp()

        for place, query in enumerate((0.0, 1.0)):
            weights = torch.stack([feature(query) @ feature(key) for key in (0.0, 2.0)])
            expected = (weights @ torch.tensor([1.0, 3.0])) / weights.sum()
            assert found[0, place, 0].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_many_features_make_it_softmax(self):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(2, 6, 4, generator=generator, dtype=torch.float64) / 4 for _ in range(3))
        random = torch.randn(50_000, 4, generator=generator, dtype=torch.float64)
        expected = (q @ k.mT).softmax(dim=2) @ v
        torch.testing.assert_close(t2t_vit.linearly_attended(q, k, v, random), expected, atol=0.01, rtol=0)

    @pytest.mark.parametrize("scale", [1e-3, 10, 1000])
    def test_it_is_finite(self, scale):
        q, k, v = (scale * torch.randn(2, 6, 64) for _ in range(3))
        leaves = [x.requires_grad_() for x in (q, k, v)]
        found = t2t_vit.linearly_attended(*leaves, networks.create("t2t_vit_7", 5).performer1.random)
        found.sum().backward()
        assert all(x.isfinite().all() for x in (found, *(leaf.grad for leaf in leaves)))

    def test_sinusoids(self):
        found = t2t_vit.sinusoids(5, 4)
        assert found.shape == (1, 5, 4)
        assert found[0, 0].tolist() == [0, 1, 0, 1]
        angles = torch.tensor([3.0, 3.0 / 100])
        torch.testing.assert_close(found[0, 3], torch.stack([angles.sin(), angles.cos()], dim=1).flatten())


class TestParts:
    def test_attention_is_that_of_its_definition(self):
        layer = _tokens.Attention(6, 2, bias=True)
        x = torch.randn(2, 5, 6)
        q, k, v = (F.linear(x, layer.qkv.weight[part], layer.qkv.bias[part]) for part in
                   (slice(0, 6), slice(6, 12), slice(12, 18)))  # fmt: skip
        of_heads = [
            (q[..., of] @ k[..., of].mT / 3**0.5).softmax(dim=2) @ v[..., of] for of in (slice(0, 3), slice(3, 6))
        ]
        torch.testing.assert_close(layer(x), layer.proj(torch.cat(of_heads, dim=2)))

    def test_tokens_of_a_map_and_back(self):
        feature_map = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
        tokens = _tokens.as_tokens(feature_map)
        assert torch.equal(tokens[1, 5], feature_map[1, :, 1, 1])
        assert torch.equal(_tokens.as_map(tokens, (2, 4)), feature_map)
        with_class = torch.cat([tokens[:, :1] - 1, tokens], dim=1)
        assert torch.equal(_tokens.as_map(with_class, (2, 4)), feature_map)

    def test_positions_of_another_size(self):
        """Halved, a cell lies amid four of the old ones; the class token keeps its own."""
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        positions = torch.cat([torch.full((1, 1, 1), 9.0), (10 * rows + columns).reshape(1, 24, 1)], dim=1)
        assert _tokens.fitted(positions, (4, 6), (4, 6)) is positions
        found = _tokens.fitted(positions, (4, 6), (2, 3)).flatten()
        torch.testing.assert_close(found, torch.tensor([9.0, 5.5, 7.5, 9.5, 25.5, 27.5, 29.5]))

    def test_drop_path_of_whole_images(self):
        torch.manual_seed(0)
        layer, x = _tokens.DropPath(0.25), torch.ones(4000, 2, 3)
        dropped = layer(x)
        assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
        assert (dropped == dropped[:, :1, :1]).all()
        assert dropped.mean().item() == pytest.approx(1, abs=0.03)
        assert layer.eval()(x) is x
        assert _tokens.DropPath(0.0)(x) is x

    def test_rates_of_one_layer(self):
        assert _tokens.drop_rates(0.5, [1]) == [[0.0]]
        assert _tokens.drop_rates(0.5, [1, 2]) == [[0.0], [0.25, 0.5]]
