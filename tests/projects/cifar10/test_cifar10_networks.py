"""The networks compute what their docstrings state, compared with torch's and torchvision's own layers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from projects.cifar10 import batch_norm, networks
from projects.cifar10.batch_norm import BatchNorm2d
from projects.cifar10.networks import Normalize, SpeedNet, Whitening, dirac_conv, resize
from projects.cifar10.resnet import ResNet18


def correlated_images(n: int, size: int = 32) -> Tensor:
    """Noise whose adjacent pixels and colors are correlated, as those of real images do."""
    noise = F.interpolate(torch.rand(n, 3, size // 2, size // 2), (size, size), mode="bilinear")
    mixed = noise + 0.3 * torch.rand(n, 3, size, size) + noise.mean(1, keepdim=True)
    return (mixed / mixed.max() * 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [[0], [0, 1, 2]], ids=["one channel", "all"])
@pytest.mark.parametrize("new_net", [lambda: SpeedNet((8, 8, 8)), ResNet18], ids=["speednet", "resnet18"])
def test_constant_channels_are_normalized_by_one(new_net, channels):
    images, net = correlated_images(8), new_net()
    images[:, channels] = 77
    net.init_input_stats(images)
    assert (net.normalize.std[channels] == 1).all() and (net.normalize.std > 0).all()
    net(images).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


# the speed network


def test_speednet_has_the_parameters_counted_by_hand():
    a, b, c = 16, 32, 24
    net = SpeedNet((a, b, c), num_classes=7)
    whitening = 24 * (3 * 2 * 2) + 24
    filters = 9 * (24 * a + a * a + a * b + b * b + b * c + c * c)
    norms = 2 * 2 * (a + b + c)  # two norms in each block, with a weight and a bias for each channel
    assert sum(p.numel() for p in net.parameters()) == whitening + filters + norms + 7 * c
    frozen = 24 * 12 + norms // 2
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == frozen
    deeper = SpeedNet((a, b, c), convs_per_block=(3, 2, 3), num_classes=7)
    more = 9 * (a * a + c * c) + 2 * (a + c)
    assert sum(p.numel() for p in deeper.parameters()) == whitening + filters + norms + 7 * c + more


@pytest.mark.parametrize("convs", [(2, 2, 2), (2, 2, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("height, width", [(32, 32), (9, 9), (20, 27)])
def test_speednet_maps_images_of_any_size_to_logits(convs, height, width):
    net = SpeedNet((8, 8, 8), convs, num_classes=5)
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    assert net(images).shape == (3, 5)
    assert shapes == [((height - 1) // d, (width - 1) // d) for d in (2, 4, 8)]


@pytest.mark.parametrize("convs", [(2, 2, 2), (2, 2, 3), (3, 3, 3)], ids=str)
def test_speednet_is_the_function_written_out(convs):
    net, images = SpeedNet((8, 12, 16), convs), correlated_images(6)
    net.init_input_stats(images)
    with torch.no_grad():
        net.whiten.bias.normal_()
        for block in net.blocks:
            for norm in block.norms:
                norm.bias.normal_()
    got = net(images)

    def norm(x: Tensor, bias: Tensor) -> Tensor:  # with the statistics of the batch
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-12).sqrt() + bias.view(1, -1, 1, 1)

    x = (images.double() / 255 - net.normalize.mean.double()) / net.normalize.std.double()
    x = F.gelu(F.conv2d(x, net.whiten.weight.double(), net.whiten.bias.double()))
    for block, depth in zip(net.blocks, convs, strict=True):
        x = F.max_pool2d(F.conv2d(x, block.convs[0].weight.double(), padding=1), 2)
        x = first = F.gelu(norm(x, block.norms[0].bias.double()))
        x = norm(F.conv2d(x, block.convs[1].weight.double(), padding=1), block.norms[1].bias.double())
        if depth == 3:
            x = norm(F.conv2d(F.gelu(x), block.convs[2].weight.double(), padding=1), block.norms[2].bias.double()) + first
        x = F.gelu(x)
    expected = x.amax((2, 3)) @ net.head.weight.double().T / 16
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-4)


def test_init_input_stats_makes_channels_standard():
    net, images = SpeedNet((8, 8, 8)), correlated_images(50)
    net.init_input_stats(images)
    x = net.normalize(images)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_normalize_takes_floats_of_the_same_range():
    normalize, images = Normalize(), correlated_images(2)
    assert torch.equal(normalize(images), normalize(images.float()))


@pytest.mark.parametrize("size", [16, 20, 24])
def test_resize_is_that_of_torchvision(size):
    images = correlated_images(4)
    expected = v2.functional.resize(images.float(), [size, size], antialias=True)
    torch.testing.assert_close(resize(images, size), expected)
    assert expected.min() >= 0 and expected.max() <= 255


def test_resize_to_the_same_size_is_nothing():
    images = correlated_images(2)
    assert resize(images, 32) is images


def test_outside_of_training_images_come_in_the_size_of_training():
    normalize, images = Normalize(), correlated_images(2)
    normalize.size = 20
    assert torch.equal(normalize(images), Normalize()(images)), "in training the size is the caller's affair"
    other = Normalize().eval()
    assert torch.equal(other(images), normalize(images))
    other.load_state_dict(normalize.state_dict())
    assert torch.equal(other(images), normalize(resize(images, 20))) and other(images).shape[-1] == 20


@pytest.mark.parametrize("bf16", [False, True])
def test_gray_images_train(bf16):
    """Their gradients are of the size of other images', though two of three color directions have no variance."""
    images = torch.nn.functional.interpolate(torch.rand(200, 1, 8, 8), size=32, mode="bilinear").mul(255).to(torch.uint8)
    net = SpeedNet([32, 64, 64], [2, 2, 3], 0.4, 10)
    net.init_input_stats(images.expand(-1, 3, -1, -1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(net(images[:64].expand(-1, 3, -1, -1)), torch.arange(64) % 10)
    loss.backward()
    assert max(p.grad.abs().max() for p in net.parameters() if p.grad is not None) < 1


def test_whitened_patches_have_the_identity_as_covariance():
    whiten, x = Whitening(), Normalize()(correlated_images(400))
    x = x - x.mean((0, 2, 3), keepdim=True)
    whiten.init_filters(x)
    out = whiten(x)[:, :12].transpose(0, 1).flatten(1).double()  # (12, batch * height * width)
    covariance = out @ out.T / out.shape[1]
    patches = F.unfold(x, 2).transpose(0, 1).flatten(1).double()
    eigenvalues = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1]).flip(0)
    assert eigenvalues[0] > 10 * eigenvalues[-1], "patches that are white already would prove nothing"
    # eps keeps the weakest directions a little below 1: each variance is v / (v + eps)
    expected = torch.diag(eigenvalues / (eigenvalues + 5e-4))
    torch.testing.assert_close(covariance, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.double), atol=0.05, rtol=0)


def test_the_other_half_of_the_whitening_filters_is_its_negative():
    whiten, x = Whitening(), Normalize()(correlated_images(50))
    whiten.init_filters(x)
    out = whiten(x)
    torch.testing.assert_close(out[:, 12:], -out[:, :12])
    assert not whiten.weight.requires_grad and whiten.bias.requires_grad and not whiten.bias.any()


@pytest.mark.parametrize("channels_in, channels_out", [(5, 8), (8, 8), (8, 5)])
def test_dirac_convolutions_start_as_the_identity_on_the_first_channels(channels_in, channels_out):
    conv, x = dirac_conv(channels_in, channels_out), torch.randn(2, channels_in, 6, 7)
    same = min(channels_in, channels_out)
    assert torch.equal(conv(x)[:, :same], x[:, :same])
    if channels_out > channels_in:
        assert conv(x)[:, same:].std() > 0.1
    assert conv.bias is None


# ResNet-18


def torchvision_twin(net: ResNet18) -> nn.Module:
    """torchvision's ResNet-18 with a 3x3 stem and no first pooling, with the weights of `net`."""
    twin = resnet18(num_classes=net.head.out_features)
    twin.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    twin.maxpool = nn.Identity()
    parts = {"norm1": "bn1", "norm2": "bn2", "shortcut": "downsample"}
    state = {}
    for key, value in net.state_dict().items():
        words = key.split(".")
        if words[0] == "blocks":
            layer, block = divmod(int(words[1]), 2)
            words = [f"layer{layer + 1}", str(block), parts.get(words[2], words[2]), *words[3:]]
        elif words[0] != "normalize":
            words[0] = {"conv": "conv1", "norm": "bn1", "head": "fc"}[words[0]]
        if words[0] != "normalize":
            state[".".join(words)] = value.clone()
    twin.load_state_dict(state)
    return twin


def test_resnet18_is_that_of_torchvision_behind_another_stem():
    net, images = ResNet18(num_classes=6), correlated_images(3, 16)
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.init_input_stats(images)
    twin = torchvision_twin(net)
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_173_962
    for training in (True, False):
        got, expected = net.train(training)(images), twin.train(training)(net.normalize(images))
        torch.testing.assert_close(got, expected)
    F.cross_entropy(net.train()(images), torch.tensor([0, 1, 2])).backward()
    F.cross_entropy(twin.train()(net.normalize(images)), torch.tensor([0, 1, 2])).backward()
    gradients, expected = dict(net.named_parameters()), dict(twin.named_parameters())
    assert len(gradients) == len(expected)
    for name, other in [("conv.weight", "conv1.weight"), ("head.bias", "fc.bias"), ("norm.weight", "bn1.weight")]:
        torch.testing.assert_close(gradients[name].grad, expected[other].grad, rtol=1e-3, atol=1e-5)
    down = gradients["blocks.4.shortcut.0.weight"].grad
    torch.testing.assert_close(down, expected["layer3.0.downsample.0.weight"].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("module", [networks, batch_norm])
def test_networks_need_torch_alone(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    allowed = {"torch", "__future__", "itertools", "typing", "projects"}
    assert {name.partition(".")[0] for name in imported} <= allowed
    assert {name for name in imported if name.startswith("projects")} <= {"projects.cifar10.batch_norm"}
