"""The networks have the shapes, the layers and the initial weights that their docstrings promise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from projects.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from projects.gan.layers import ProjectionHead
from projects.gan.mlp import CODE_DIM, MLPDiscriminator, MLPGenerator, fourier_features
from projects.gan.optim import update_bn
from projects.gan.resnet import (
    ConditionalBatchNorm2d,
    DownsampleBlock,
    ResNetDiscriminator,
    ResNetGenerator,
    UpsampleBlock,
)

LATENT_DIM, BATCH = 6, 4
SHAPES = {
    MLPGenerator: (BATCH, 2),
    DCGANGenerator: (BATCH, 3, 32, 32),
    ResNetGenerator: (BATCH, 3, 32, 32),
    MLPDiscriminator: (BATCH,),
    DCGANDiscriminator: (BATCH,),
    ResNetDiscriminator: (BATCH,),
}
networks = pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)


def classes_of(kind: type[nn.Module], classes: int) -> dict[str, int]:
    """The MLP pair is unconditional."""
    return {} if kind in (MLPGenerator, MLPDiscriminator) else {"num_classes": classes}


def make_network(kind: type[nn.Module], classes: int) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode and an input for it."""
    if kind.__name__.endswith("Generator"):
        return kind(LATENT_DIM, 8, **classes_of(kind, classes)).eval(), torch.randn(BATCH, LATENT_DIM)
    inputs = torch.randn(BATCH, 2) if kind is MLPDiscriminator else torch.rand(BATCH, 3, 32, 32) * 2 - 1
    return kind(8, **classes_of(kind, classes)).eval(), inputs


@networks
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_outputs(kind, classes):
    net, inputs = make_network(kind, classes)
    out = net(inputs, torch.arange(BATCH) if classes else None)
    assert out.shape == SHAPES[kind] and out.isfinite().all()
    if out.dim() == 4:
        assert out.abs().max() <= 1


@networks
def test_outputs_depend_on_the_label_with_classes_alone(kind):
    one, other = torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH, dtype=torch.int64)
    net, inputs = make_network(kind, 0)
    assert torch.equal(net(inputs, one), net(inputs)) and torch.equal(net(inputs, one), net(inputs, other))
    if not classes_of(kind, 2):
        return
    net, inputs = make_network(kind, 2)
    for module in net.modules():
        if isinstance(module, ConditionalBatchNorm2d):  # which begins alike for all labels
            nn.init.normal_(module.scale.weight)
    change = (net(inputs, one) - net(inputs, other)).view(BATCH, -1).norm(dim=1)
    assert (change > 1e-6).all()
    mixed = torch.tensor([0, 1, 0, 1])
    expected = [net(inputs, label)[i] for i, label in enumerate([one, other, one, other])]
    torch.testing.assert_close(net(inputs, mixed), torch.stack(expected))


@pytest.mark.parametrize(
    ("net", "inputs", "expected"),
    [
        (ResNetGenerator(LATENT_DIM, 8), torch.randn(2, LATENT_DIM), [(8, 8), (8, 16), (8, 32)]),
        (
            ResNetGenerator(LATENT_DIM, 8, channel_multipliers=(1, 2, 4, 4)),
            torch.randn(2, LATENT_DIM),
            [(32, 8), (16, 16), (8, 32)],
        ),
        (ResNetDiscriminator(8), torch.randn(2, 3, 32, 32), [(8, 16), (8, 8), (8, 8), (8, 8)]),
        (
            ResNetDiscriminator(8, channel_multipliers=(1, 2, 4, 4)),
            torch.randn(2, 3, 32, 32),
            [(8, 16), (16, 8), (32, 8), (32, 8)],
        ),
    ],
    ids=["generator", "generator multipliers", "discriminator", "discriminator multipliers"],
)
def test_residual_blocks_have_the_channels_of_their_size(net, inputs, expected):
    found: list[tuple[int, int]] = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: found.append((output.shape[1], output.shape[2])))
    net(inputs)
    assert found == expected  # channels, height


def test_points_are_in_units_of_scale():
    small, z = MLPGenerator(LATENT_DIM, 8), torch.randn(5, LATENT_DIM)
    large = MLPGenerator(LATENT_DIM, 8, data_std=3.0)
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large(z), 3 * small(z))
    one, three, points = MLPDiscriminator(8), MLPDiscriminator(8, data_std=3.0), torch.randn(5, 2)
    three.load_state_dict(one.state_dict())
    torch.testing.assert_close(three(3 * points), one(points))


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_point_networks_have_as_many_hidden_layers_as_asked(layers):
    for net in (MLPGenerator(LATENT_DIM, 8, layers), MLPDiscriminator(8, layers)):
        linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
        bends = [module for module in net.modules() if isinstance(module, nn.LeakyReLU)]
        assert len(linear) == layers + 1 and len(bends) == layers
        assert all(layer.out_features == 8 for layer in linear[:-1])


@pytest.mark.parametrize("spectral", [False, True])
def test_the_projection_head_is_linear_plus_the_product_with_the_label_s_embedding(spectral):
    head = ProjectionHead(7, 3, spectral).double().eval()
    features, labels = torch.randn(5, 7).double(), torch.tensor([2, 0, 1, 1, 2])
    weight, bias, table = head.linear.weight[0], head.linear.bias[0], head.embedding.weight
    for got, x, label in zip(head(features, labels), features, labels.tolist(), strict=True):
        torch.testing.assert_close(got, weight @ x + bias + table[label] @ x)


# spectral norm


def spectral_layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if is_parametrized(module, "weight")}


def test_every_weight_of_the_residual_discriminator_has_spectral_norm_one():
    net = ResNetDiscriminator(16, num_classes=5)
    layers = [name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding))]
    assert list(spectral_layers(net)) == layers and len(layers) == 4 * 2 + 2 + 2
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    with torch.no_grad():
        for module in spectral_layers(net).values():  # away from the initial weights, for which power iteration has run
            module.parametrizations.weight.original.normal_()
        for _ in range(200):
            net(images, labels)
        net.eval()
        for name, module in spectral_layers(net).items():
            largest = torch.linalg.svdvals(module.weight.flatten(1))[0].item()
            assert largest == pytest.approx(1, abs=1e-2), name


def glorot(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> None:
    """Asserts that a layer's weights are uniform as Glorot's are, and its bias zero."""
    positions = weight[0, 0].numel()
    fans = positions * (weight.shape[0] + weight.shape[1])
    bound = (6 / fans) ** 0.5
    assert weight.abs().max() <= bound
    # 2.7 is six times the standard error of a uniform's standard deviation, times root of n
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=2.7 / weight.numel() ** 0.5)
    assert not layer.bias.any()


def test_weights_under_spectral_norm_begin_as_glorot_s():
    net = ResNetDiscriminator(32)
    for module in spectral_layers(net).values():
        glorot(module, module.parametrizations.weight.original.detach())


def test_weights_of_the_residual_generator_begin_as_glorot_s():
    layers = [module for module in ResNetGenerator(LATENT_DIM, 16).modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 1 + 3 * 3 + 1
    for layer in layers:
        glorot(layer, layer.weight.detach())


# blocks


@pytest.mark.parametrize("classes", [0, 3])
def test_an_up_block_is_the_one_that_enlarges_first(classes):
    block, x, labels = UpsampleBlock(5, 7, classes).double(), torch.randn(4, 5, 4, 4).double(), torch.tensor([0, 1, 2, 1])
    twice = nn.Upsample(scale_factor=2, mode="nearest")
    main = block.conv1(twice(block.norm1(x, labels).relu()))
    expected = block.conv2(block.norm2(main, labels).relu()) + block.shortcut(twice(x))
    got = block(x, labels)
    assert got.shape == (4, 7, 8, 8)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("inputs", [3, 7])
def test_a_halving_block_is_the_one_that_pools_last(first, inputs):
    block, x = DownsampleBlock(inputs, 7, down=True, first=first).double().eval(), torch.randn(4, inputs, 8, 8).double()
    main = block.conv2(block.conv1(x if first else x.relu()).relu())
    got = block(x)
    assert got.shape == (4, 7, 4, 4)
    torch.testing.assert_close(got, F.avg_pool2d(main + block.shortcut(x), 2))


def test_a_block_that_keeps_its_shape_adds_its_input():
    block, x = DownsampleBlock(5, 5, down=False).double().eval(), torch.randn(4, 5, 8, 8).double()
    torch.testing.assert_close(block(x), x + block.conv2(block.conv1(x.relu()).relu()))


@pytest.mark.parametrize("training", [True, False])
def test_conditional_norm_is_batch_norm_with_the_label_s_own_scale_and_shift(training):
    norm, x, labels = ConditionalBatchNorm2d(3, 4).double(), 2 * torch.randn(8, 3, 5, 5).double() + 1, torch.arange(8) % 4
    torch.testing.assert_close(norm(x, labels), nn.BatchNorm2d(3).double()(x))  # which also gives it a history
    nn.init.normal_(norm.scale.weight)
    nn.init.normal_(norm.shift.weight)
    norm.train(training)
    plain = []
    for label in range(4):
        own = nn.BatchNorm2d(3).double()
        own.load_state_dict(norm.norm.state_dict() | {"weight": norm.scale.weight[label], "bias": norm.shift.weight[label]})
        plain.append(own.train(training)(x))  # the statistics are of all labels together
    expected = torch.stack([plain[label][i] for i, label in enumerate(labels.tolist())])
    torch.testing.assert_close(norm(x, labels), expected)


def test_without_classes_conditional_norm_is_batch_norm():
    norm, plain, x = ConditionalBatchNorm2d(3, 0), nn.BatchNorm2d(3), torch.randn(8, 3, 5, 5)
    torch.testing.assert_close(norm(x, None), plain(x))
    assert [name for name, _ in norm.named_parameters()] == ["norm.weight", "norm.bias"]


# initial weights


@pytest.mark.parametrize("net", [DCGANGenerator(LATENT_DIM, 32), DCGANDiscriminator(32)], ids=["generator", "discriminator"])
def test_dcgan_begins_with_narrow_gaussians(net):
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    assert len(layers) == 4
    for module in net.modules():
        if module in layers or isinstance(module, nn.BatchNorm2d):
            weight, mean = module.weight.detach(), float(isinstance(module, nn.BatchNorm2d))
            n = weight.numel()
            assert weight.mean().item() == pytest.approx(mean, abs=5 * 0.02 / n**0.5)
            assert weight.std().item() == pytest.approx(0.02, rel=4 / (2 * n) ** 0.5)
            assert module.bias is None or not module.bias.any()


def test_spectral_norm_takes_the_place_of_batch_norm():
    """All weights have a largest singular value of 1, and a image's logit does not depend on the others of its batch."""
    net = DCGANDiscriminator(8, num_classes=5, spectral=True)
    images, labels = torch.rand(6, 3, 32, 32) * 2 - 1, torch.arange(6) % 5
    for _ in range(300):  # one power iteration each
        net(images, labels)
    weights = [module.weight for module in net.modules() if isinstance(getattr(module, "weight", None), Tensor)]
    assert len(weights) == 5  # three convolutions, the head's linear layer and its labels
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    net.eval()
    alone = torch.cat([net(images[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(net(images, labels), alone)


def test_fourier_features_are_sines_and_cosines_of_each_coordinate():
    x, y = 0.3, -0.7
    found = fourier_features(torch.tensor([[x, y], [0.0, 0.0]]), 2)
    angles = [math.pi * x, 2 * math.pi * x, math.pi * y, 2 * math.pi * y]
    expected = [x, y, *map(math.sin, angles), *map(math.cos, angles)]
    torch.testing.assert_close(found, torch.tensor([expected, [0.0] * 6 + [1.0] * 4]))
    assert torch.equal(fourier_features(found, 0), found)


@pytest.mark.parametrize("octaves", [0, 2])
def test_points_pass_through_fourier_features_in_their_own_unit(octaves):
    points = torch.randn(5, 2)
    net = MLPDiscriminator(hidden_dim=8, fourier_octaves=octaves, data_std=2.0)
    expected = net.layers(fourier_features(points / 2, octaves)).squeeze(1)
    torch.testing.assert_close(net(points), expected)


def test_a_latent_code_is_selected_by_the_first_latent_dimension():
    """Each code has the same probability under the normal distribution, in order, and a row of the embedding."""
    z = torch.randn(4000, 3)
    generator = MLPGenerator(3, hidden_dim=8, num_latent_codes=4, data_std=2.0)
    quartiles = torch.tensor([-0.67449, 0.0, 0.67449])  # of the standard normal distribution
    code = torch.bucketize(z[:, 0].contiguous(), quartiles)
    rows = generator.codes.weight
    assert rows.shape == (4, CODE_DIM)
    expected = 2 * generator.layers(torch.cat([rows[code], z[:, 1:]], 1))
    torch.testing.assert_close(generator(z), expected)
    assert torch.bincount(code, minlength=4).min() > 900
    extreme = torch.tensor([[-40.0, 0.0, 0.0], [40.0, 0.0, 0.0]])  # where the distribution function is exactly 0 and 1
    expected = 2 * generator.layers(torch.cat([rows[[0, 3]], torch.zeros(2, 2)], 1))
    torch.testing.assert_close(generator(extreme), expected)


@pytest.mark.parametrize("classes", [0, 5])
def test_statistics_are_the_means_over_the_batches(classes):
    """Of the first layer's output, by hand, and through all layers: one batch's samples are those of training mode."""
    z, labels = torch.randn(60, LATENT_DIM), torch.arange(60) % 5 if classes else None
    net = DCGANGenerator(LATENT_DIM, 8, classes)
    net.layers[1].running_mean.fill_(7.0)  # of another time
    update_bn(net, z, torch.arange(60) % 5, batch_size=20)
    with torch.no_grad():
        inputs = z if labels is None else torch.cat([z, net.class_embedding(labels)], 1)
        channels = [net.layers[0](part[:, :, None, None]).transpose(0, 1).flatten(1) for part in inputs.split(20)]
    torch.testing.assert_close(net.layers[1].running_mean, torch.stack([c.mean(1) for c in channels]).mean(0))
    torch.testing.assert_close(net.layers[1].running_var, torch.stack([c.var(1) for c in channels]).mean(0))
    assert net.layers[1].momentum == 0.1 and not net.layers[1].training
    update_bn(net, z, torch.arange(60) % 5, batch_size=60)
    calibrated = net(z, labels)
    torch.testing.assert_close(calibrated, net.train()(z, labels), atol=2e-3, rtol=0)  # variances with n - 1 against n


def test_without_latent_codes_the_latent_vector_is_continuous():
    z = torch.randn(5, 3)
    generator = MLPGenerator(3, hidden_dim=8, data_std=2.0)
    torch.testing.assert_close(generator(z), 2 * generator.layers(z))
