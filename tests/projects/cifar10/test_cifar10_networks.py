"""The networks are what their docstrings say, held against torch's and torchvision's own layers."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn

from projects.cifar10.networks import BatchNorm2d, Normalize, ResNet18, SpeedNet, Whitening, dirac_conv, resize

ROOT = Path(__file__).resolve().parents[3]


def pictures(n: int, size: int = 32) -> Tensor:
    """Noise whose neighbours and colours go together, as those of real pictures do."""
    noise = F.interpolate(torch.rand(n, 3, size // 2, size // 2), (size, size), mode="bilinear")
    mixed = noise + 0.3 * torch.rand(n, 3, size, size) + noise.mean(1, keepdim=True)
    return (mixed / mixed.max() * 255).to(torch.uint8)


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
    deeper = SpeedNet((a, b, c), depths=(3, 2, 3), num_classes=7)
    more = 9 * (a * a + c * c) + 2 * (a + c)
    assert sum(p.numel() for p in deeper.parameters()) == whitening + filters + norms + 7 * c + more


@pytest.mark.parametrize("depths", [(2, 2, 2), (2, 2, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("height, width", [(32, 32), (9, 9), (20, 27)])
def test_speednet_maps_pictures_of_any_size_to_logits(depths, height, width):
    net = SpeedNet((8, 8, 8), depths, num_classes=5)
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    assert net(images).shape == (3, 5)
    assert shapes == [((height - 1) // d, (width - 1) // d) for d in (2, 4, 8)]


@pytest.mark.parametrize("depths", [(2, 2, 2), (2, 2, 3), (3, 3, 3)], ids=str)
def test_speednet_is_the_function_written_out(depths):
    net, images = SpeedNet((8, 12, 16), depths), pictures(6)
    net.fit_inputs(images)
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
    for block, depth in zip(net.blocks, depths, strict=True):
        x = F.max_pool2d(F.conv2d(x, block.convs[0].weight.double(), padding=1), 2)
        x = first = F.gelu(norm(x, block.norms[0].bias.double()))
        x = norm(F.conv2d(x, block.convs[1].weight.double(), padding=1), block.norms[1].bias.double())
        if depth == 3:
            x = norm(F.conv2d(F.gelu(x), block.convs[2].weight.double(), padding=1), block.norms[2].bias.double()) + first
        x = F.gelu(x)
    expected = x.amax((2, 3)) @ net.head.weight.double().T / 16
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-4)


def test_fit_inputs_makes_channels_standard():
    net, images = SpeedNet((8, 8, 8)), pictures(50)
    net.fit_inputs(images)
    x = net.normalize(images)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_normalize_takes_floats_of_the_same_range():
    normalize, images = Normalize(), pictures(2)
    assert torch.equal(normalize(images), normalize(images.float()))


@pytest.mark.parametrize("size", [16, 20, 24])
def test_resize_is_that_of_torchvision(size):
    from torchvision.transforms import v2  # here, as processes that `spawn` starts import this file and can do without

    images = pictures(4)
    expected = v2.functional.resize(images.float(), [size, size], antialias=True)
    torch.testing.assert_close(resize(images, size), expected)
    assert expected.min() >= 0 and expected.max() <= 255


def test_resize_to_the_same_size_is_nothing():
    images = pictures(2)
    assert resize(images, 32) is images


def test_outside_of_training_pictures_come_in_the_size_of_training():
    normalize, images = Normalize(), pictures(2)
    normalize.size = 20
    assert torch.equal(normalize(images), Normalize()(images)), "in training the size is the caller's affair"
    other = Normalize().eval()
    assert torch.equal(other(images), normalize(images))
    other.load_state_dict(normalize.state_dict())
    assert torch.equal(other(images), normalize(resize(images, 20))) and other(images).shape[-1] == 20


def test_whitened_patches_have_the_identity_as_covariance():
    whiten, x = Whitening(), Normalize()(pictures(400))
    x = x - x.mean((0, 2, 3), keepdim=True)
    whiten.fit(x)
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
    whiten, x = Whitening(), Normalize()(pictures(50))
    whiten.fit(x)
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


# batch normalisation


def norm_and_input(offset: float = 0.0) -> tuple[BatchNorm2d, Tensor, Tensor]:
    """A norm of four channels with a history, a batch (12, 4, 5, 3), and a direction to take the gradient along."""
    norm = BatchNorm2d(4, eps=1e-5, momentum=0.3)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.fill_(offset)
    return norm, torch.randn(12, 4, 5, 3) * torch.tensor([0.1, 1, 2, 5]).view(1, 4, 1, 1) + offset, torch.randn(12, 4, 5, 3)


def pass_through(norm: nn.Module, x: Tensor, along: Tensor) -> dict[str, Tensor]:
    """Output, gradients of (output * along).sum(), and state after one training step."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * along).sum().backward()
    gradients = {"x": x.grad, "to weight": norm.weight.grad, "to bias": norm.bias.grad}
    return {"out": out.detach(), **gradients, **norm.state_dict()}


def textbook(norm: BatchNorm2d) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    plain.load_state_dict(norm.state_dict())
    return plain


def test_batch_norm_of_one_process_is_that_of_torch():
    norm, x, along = norm_and_input()
    expected = pass_through(textbook(norm), x, along)
    for name, value in pass_through(norm, x, along).items():
        assert torch.equal(value, expected[name]), name
    norm.eval()
    plain = textbook(norm).eval()
    assert torch.equal(norm(x), plain(x))


def rank_of_batch_norm(rank: int, address: str, results: str) -> None:
    """One process of two, with 7 or 5 of the 12 pictures."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    for offset in (0.0, 1000.0):
        torch.manual_seed(0)
        norm, x, along = norm_and_input(offset)
        expected = pass_through(textbook(norm), x, along)
        share = torch.arange(12).split([7, 5])[rank]
        got = pass_through(copy.deepcopy(norm), x[share], along[share])
        for name in ("to weight", "to bias"):  # each process has the part of its own pictures
            dist.all_reduce(got[name])
        tolerance = {"rtol": 1e-5, "atol": 2e-5} if offset == 0 else {"rtol": 1e-3, "atol": 1e-3}
        for name, value in got.items():
            whole = expected[name][share] if name in ("out", "x") else expected[name]
            torch.testing.assert_close(value, whole, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        half = pass_through(copy.deepcopy(norm), x[share].bfloat16(), along[share])  # autocast
        assert half["out"].dtype == torch.bfloat16
        half = pass_through(copy.deepcopy(norm).bfloat16(), x[share].bfloat16(), along[share])
        assert half["out"].dtype == half["running_var"].dtype == torch.bfloat16
        double = copy.deepcopy(norm).double()
        expected = pass_through(textbook(norm).double(), x.double(), along.double())
        got = pass_through(double, x[share].double(), along[share].double())
        torch.testing.assert_close(got["out"], expected["out"][share], rtol=1e-9, atol=1e-9)
    constant = BatchNorm2d(2, eps=1e-12)
    out = constant(torch.tensor([3.3, 1e3]).view(1, 2, 1, 1).expand(7, 2, 5, 5))
    assert torch.isfinite(out).all(), "a channel that is constant has a variance of 0, not a negative one"
    norm.eval()
    if rank == 0:  # evaluation talks to nobody, so that one process may do it alone
        torch.testing.assert_close(norm(x), textbook(norm).eval()(x))
    Path(results, f"{rank}").touch()
    dist.barrier()
    dist.destroy_process_group()


def test_batch_norm_over_two_processes_is_that_of_torch_on_the_whole_batch(tmp_path):
    multiprocessing.spawn(rank_of_batch_norm, (str(tmp_path / "address"), str(tmp_path)), nprocs=2)
    assert all((tmp_path / str(rank)).exists() for rank in range(2))


# ResNet-18


def torchvision_twin(net: ResNet18) -> nn.Module:
    """torchvision's ResNet-18 with a 3x3 stem and no first pooling, with the weights of `net`."""
    from torchvision.models import resnet18  # here, for the same reason as above

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
    net, images = ResNet18(num_classes=6), pictures(3, 16)
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.fit_inputs(images)
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


def test_networks_need_torch_alone():
    code = (
        "import sys, projects.cifar10.networks as networks; "
        "networks.SpeedNet((8, 8, 8)); networks.ResNet18(); "
        "found = {name.partition('.')[0] for name in sys.modules}; "
        "print(sorted(found & {'lightning', 'torchvision', 'torchmetrics', 'datasets', 'PIL', 'common'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
