"""The training step of the LightningModule is the algorithm of the papers: it equals one plain loop."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer

from common.callbacks.gradients import GradientMonitor
from common.callbacks.resume import ResumeCheckpoints
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO
from projects.gan import module as gan_module
from projects.gan import optim as gan_optim
from projects.gan.augment import diff_augment
from projects.gan.config import DCGANConfig, MLPConfig, ResNetConfig
from projects.gan.data import GANData, as_uint8
from projects.gan.evaluation import Evaluator
from projects.gan.metrics import FeatureMetrics
from projects.gan.module import GANModule
from projects.gan.optim import average_over_processes

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
PLAIN = {"r1_weight": 0.0, "r2_weight": 0.0, "instance_noise_std": 0.0, "iterations_per_step": 1, "schedule": "constant"}
MLP = MLPConfig(hidden_dim=16, fourier_octaves=0, num_latent_codes=0)


def point_gan(cls=GANModule, data_std=1.0, **options):
    return cls("points", 8, data_std, **{"mlp": MLP, "latent_dim": 4, "lr": 2e-4, **PLAIN, **options})


def image_gan(network="resnet", **options):
    configs = {"dcgan": DCGANConfig(channels=8), "resnet": ResNetConfig(channels=8)}
    return GANModule("images", 10, 1.0, network, **{**configs, "latent_dim": 8, **PLAIN, **options})


def fit(module, data, callback=None, **options):
    callbacks = [callback] if callback else []
    trainer = Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, callbacks=callbacks, **QUIET, **options)
    trainer.fit(module, datamodule=data)
    return trainer


def points_data(steps=5, n_critic=1):
    return GANData("ring8", batch_size=12, n_critic=n_critic, steps_per_epoch=steps, eval_samples=50)


class Batches(Callback):
    """Keeps the batches of a run."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)


@pytest.fixture(autouse=True)
def usual_dtype():
    yield
    torch.set_default_dtype(torch.float32)


def plain_loop(start, batches, seed, n_critic, r1, r2, decay):
    """Training of `GANModule` with the relativistic loss, R1 and R2, written out."""
    generator, discriminator = copy.deepcopy(start.generator), copy.deepcopy(start.discriminator)
    average = copy.deepcopy(generator)
    g_adam = torch.optim.Adam(generator.parameters(), 1e-2, (0.5, 0.99))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-2, (0.5, 0.99))
    for step, batch in enumerate(batches):
        rng = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_000_003 % 2**63)
        for real in batch.samples.chunk(n_critic):
            fake = generator(torch.randn(len(real), 4, generator=rng)).detach()
            real, fake = real.clone().requires_grad_(), fake.requires_grad_()
            loss = F.softplus(discriminator(fake) - discriminator(real)).mean()
            for weight, samples in [(r1, real), (r2, fake)]:
                (gradient,) = torch.autograd.grad(discriminator(samples).sum(), samples, create_graph=True)
                loss = loss + weight / 2 * (gradient**2).sum(1).mean()
            d_adam.zero_grad()
            loss.backward()
            d_adam.step()
        fake = generator(torch.randn(len(real), 4, generator=rng))
        g_adam.zero_grad()
        F.softplus(discriminator(real) - discriminator(fake)).mean().backward()
        g_adam.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), generator.parameters(), strict=True):
                old.copy_(new if step == 0 else decay * old + (1 - decay) * new)
    return generator, discriminator, average


def test_training_is_the_plain_loop_and_counts_the_generators_steps():
    data, batches = points_data(n_critic=3), Batches()
    module = point_gan(n_critic=3, r1_weight=0.3, r2_weight=0.2, lr=1e-2, d_lr=2e-2, ema_decay=0.9).double()
    start = copy.deepcopy(module)
    trainer = fit(module, data, batches, precision="64-true")
    assert trainer.global_step == len(batches.batches) == 5
    assert all(len(batch.samples) == 36 for batch in batches.batches)
    found = module.generator, module.discriminator, module.ema_generator.module
    torch.set_default_dtype(torch.float64)
    expected = plain_loop(start, batches.batches, data.seed, 3, 0.3, 0.2, 0.9)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_iterations_in_one_step_are_steps_of_one_iteration():
    states = {}
    for iterations in (1, 5):
        torch.manual_seed(0)
        options = {"r1_weight": 0.3, "instance_noise_std": 0.5, "schedule": "annealed", "ema_decay": 0.9}
        module = point_gan(n_critic=2, iterations_per_step=iterations, **options)
        sizes = {"batch_size": 12, "n_critic": 2, "iterations_per_step": iterations, "eval_samples": 50}
        assert fit(module, GANData("ring8", steps_per_epoch=10 // iterations, **sizes)).global_step == 10 // iterations
        states[iterations] = module.state_dict()
    assert all(torch.equal(states[1][name], weight) for name, weight in states[5].items())


def test_instance_noise_is_annealed_and_then_zero_for_real_and_fake_alike():
    module = point_gan(data_std=2.0, instance_noise_std=0.5)
    module.total_iterations = 10
    spread = []
    for iteration in range(10):
        module.iteration = iteration
        noisy = module.augment(torch.ones(4000, 2), torch.Generator().manual_seed(iteration))
        torch.testing.assert_close(noisy.mean(0), torch.ones(2), rtol=0, atol=0.08)
        spread.append(noisy.std().item())
    expected = [max(0.03, (1 - iteration / 6) ** 2) if iteration < 6 else 0.0 for iteration in range(10)]
    assert spread == pytest.approx(expected, rel=0.05)
    calls = []
    original = module.augment
    module.augment = lambda samples, rng: calls.append((module.iteration, len(samples))) or original(samples, rng)
    fit(module, points_data(steps=2))
    assert calls == [(i, 12) for i in (0, 1) for _ in range(4)], "real and fake, for the discriminator and the generator"


def test_weights_of_r1_and_r2_fall_with_the_cube_of_instance_noise():
    weights = {"r1_weight": 0.3, "r2_weight": 0.2, "gp_weight": 0.1}
    module, still = (point_gan(instance_noise_std=std, **weights) for std in (0.5, 0.0))
    module.total_iterations = still.total_iterations = 10
    for iteration in range(10):
        module.iteration = still.iteration = iteration
        cube = max(0.03, (1 - min(iteration, 6) / 6) ** 2) ** 3
        found = [module.penalty_weight(name) for name in ("r1", "r2", "gp")]
        assert found == pytest.approx([0.3 * cube, 0.2 * cube, 0.1])
        assert [still.penalty_weight(name) for name in ("r1", "r2", "gp")] == [0.3, 0.2, 0.1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 11),
        ("linear", [1, 1, 1, 0.7 / 0.75, 0.8, 0.5 / 0.75, 0.4 / 0.75, 0.4, 0.2 / 0.75, 0.1 / 0.75, 0]),
        (
            "annealed",
            [1, 125 / 216, 64 / 216, 27 / 216, 8 / 216, *(0.03**1.5 * part for part in (1, 1, 0.75, 0.5, 0.25, 0))],
        ),
    ],
)
def test_learning_rate_of_each_schedule(schedule, expected):
    optimizer, scheduler = gan_optim.adam([torch.nn.Parameter(torch.zeros(1))], 0.2, (0.5, 0.9), 10, schedule)
    for factor in expected:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * factor, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_network_learns_from_its_own_loss_alone():
    module, before = point_gan(lr=1e-2, ema_decay=0.0), {}
    parts = {"generator": module.generator, "discriminator": module.discriminator}

    def weights():
        return {name: [p.detach().clone() for p in network.parameters()] for name, network in parts.items()}

    class Watch(Callback):
        """Compares the weights before the generator's update, and after."""

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            before["generator's update"] = weights()

        def on_train_batch_end(self, *args):
            before["end"] = weights()

    before["start"] = weights()
    fit(module, points_data(steps=1), Watch())
    start, middle, end = before["start"], before["generator's update"], before["end"]
    assert all(map(torch.equal, start["generator"], middle["generator"])), "the discriminator's update moved the generator"
    assert not any(map(torch.equal, start["discriminator"], middle["discriminator"]))
    assert all(map(torch.equal, middle["discriminator"], end["discriminator"])), "the generator's moved the discriminator"
    assert not any(map(torch.equal, middle["generator"], end["generator"]))


def test_penalties_under_autocast_are_those_of_float32():
    module = point_gan(r1_weight=1.0, r2_weight=1.0, gp_weight=1.0)
    real, fake, labels = torch.randn(12, 2), torch.randn(12, 2), torch.zeros(12, dtype=torch.long)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), module.penalty_precision():
            samples = [x.clone().requires_grad_() for x in (real, fake)]
            logits = module.discriminate(*samples, labels)
            penalties = module.gradient_penalties(*logits, *samples, labels, module.iteration_rng())
        results.append({name: value.item() for name, value in penalties.items()})
    assert results[0] == results[1] and results[0].keys() == {"r1", "r2", "gp"}
    module = point_gan(r1_weight=1.0)
    penalties = module.gradient_penalties(*module.discriminate(*samples, labels), *samples, labels, module.iteration_rng())
    assert penalties.keys() == {"r1"}


def test_images_are_augmented_by_the_policies_that_are_asked_for():
    module, images = image_gan(augment=("color", "translation")), torch.rand(4, 3, 32, 32)
    augmented = module.augment(images, torch.Generator().manual_seed(1))
    uniform = torch.rand(4, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(augmented, diff_augment(images, uniform, ("color", "translation")))
    assert not torch.equal(augmented, images)


def test_each_process_samples_its_own_rows(monkeypatch):
    module, parts = point_gan(), []
    for rank, world_size in [(0, 1), (0, 2), (1, 2)]:
        monkeypatch.setattr(gan_module, "rank_and_world_size", lambda trainer, r=rank, w=world_size: (r, w))
        parts.append(module.sample(torch.randn, 6 if world_size == 2 else 12, 4, module.iteration_rng()))
    assert not torch.equal(parts[1], parts[2])
    assert torch.equal(torch.cat(parts[1:]), parts[0])


def test_batch_norm_sees_real_and_fake_apart_and_other_networks_at_once():
    labels = torch.zeros(3, dtype=torch.long)
    real, fake = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32) - 1
    module = image_gan("dcgan")
    twin = copy.deepcopy(module.discriminator)
    logits = module.discriminate(real, fake, labels)
    for side, images in zip(logits, (real, fake), strict=True):
        torch.testing.assert_close(side, twin(images))
    assert not torch.allclose(logits[0], twin(torch.cat([real, fake]))[:3], atol=1e-3)
    module, calls = image_gan().eval(), []
    module.discriminator.register_forward_hook(lambda net, inputs, output: calls.append(len(output)))
    for side, images in zip(module.discriminate(real, fake, labels), (real, fake), strict=True):
        torch.testing.assert_close(side, module.discriminator(images))
    assert calls == [6, 3, 3]


def test_in_bfloat16_every_update_of_the_discriminator_sees_the_weights_of_the_last():
    module = point_gan(n_critic=3, lr=0.1)
    original, equal = module.discriminate, []

    def compare(real, fake, labels):
        logits = original(real, fake, labels)
        twin = copy.deepcopy(module.discriminator)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            fresh = twin(torch.cat([real, fake])).float().chunk(2)
        equal.append(all(map(torch.equal, logits, fresh)))
        return logits

    module.discriminate = compare
    before = [p.detach().clone() for p in module.generator.parameters()]
    fit(module, points_data(steps=2, n_critic=3), precision="bf16-mixed")
    assert equal == [True] * 8, "three updates of the discriminator and one of the generator, twice"
    after = zip(before, module.generator.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in after), "no weight of the generator may miss its gradient"


def test_gradients_and_running_statistics_are_averaged_over_processes(monkeypatch):
    """All of them, in one message; `all_reduce_mean` itself runs in the tests with two processes."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    net(torch.rand(4, 3, 8, 8)).square().sum().backward()
    messages = []
    monkeypatch.setattr(gan_optim, "all_reduce_mean", lambda tensors, world_size: messages.append((tensors, world_size)))
    average_over_processes(net, 1)
    assert not messages
    average_over_processes(net, 2)
    (tensors, world_size), statistics = messages[0], [net[1].running_mean, net[1].running_var]
    assert len(messages) == 1 and world_size == 2
    assert all(a is b for a, b in zip(tensors, [*(p.grad for p in net.parameters()), *statistics], strict=True))


def test_validation_and_test_use_different_latents():
    val, test = (Evaluator(split, 50, 4, None, None, torch.device("cpu")).latents for split in ("val", "test"))
    assert val.shape == (50, 4) and not torch.equal(val, test)


@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_of_points_are_those_counted_by_hand(split, monkeypatch):
    """Of a generator that reaches most modes, not all, with every second point."""
    module, data = point_gan(), GANData("ring8", eval_samples=101, eval_batch_size=30)
    data.setup("test")
    modes = data.mixture.modes

    def generate(self, z, labels):
        return modes[labels % 6] + z[:, :2] * torch.where(z[:, 2:3] > 0, 0.001, 1.0)

    monkeypatch.setattr(GANModule, "forward", generate)
    metrics = evaluate(module, data, split)
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    real, labels = (torch.cat(part) for part in list(zip(*loader, strict=True))[:2])
    fake = generate(module, Evaluator(split, 101, 4, None, None, torch.device("cpu")).latents, labels)
    inside = 1 - math.exp(-4.5)  # of a normal distribution in the plane, within three standard deviations
    near, inner = (torch.cdist(fake, modes) <= radius for radius in (0.03, 0.01 * math.sqrt(-2 * math.log(1 - inside / 2))))
    counts, halves = near.sum(0).double(), torch.cat([inner.sum(0), (near & ~inner).sum(0)]).double()
    fractions = torch.cat([halves / 101, (~near.any(1)).double().mean()[None]])
    target = torch.tensor([*[inside / 16] * 16, 1 - inside], dtype=torch.double)
    with torch.no_grad():
        real_logits, fake_logits = module.discriminator(real), module.discriminator(fake)
    boundary = float(real_logits.mean() + fake_logits.mean()) / 2  # of the relativistic loss
    expected = {
        "modes": 6,
        "high_quality": float(counts.sum() / 101),
        "total_variation": float((fractions - target).abs().sum() / 2),
        "accuracy_real": float((real_logits > boundary).double().mean()),
        "accuracy_fake": float((fake_logits <= boundary).double().mean()),
        "logit_gap": float(real_logits.mean() - fake_logits.mean()),
    }
    assert 0.3 < expected["high_quality"] < 0.7 and abs(expected["logit_gap"]) > 1e-3
    assert {name: metrics[f"{split}/{name}"] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_metrics_of_images_are_those_of_their_features(image_folder):
    module, data = image_gan(ema_decay=0.0), GANData(str(image_folder), eval_samples=60, eval_batch_size=25)
    metrics = evaluate(module, data, "val")
    images, labels = data.splits["val"].images, data.splits["val"].labels
    with torch.no_grad():
        z = Evaluator("val", 60, 8, None, None, torch.device("cpu")).latents
        real, fake = (module.features[0].net(x) for x in (images, as_uint8(module.eval()(z, labels))))
    comparison = FeatureMetrics(192, torch.device("cpu"))
    comparison.update(real, real=True)
    comparison.update(fake, real=False)
    expected = comparison.compute()
    assert expected["precision"] != expected["recall"] or expected["density"] != expected["coverage"]
    assert {name: metrics[f"val/{name}"] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-6)


def evaluate(module, data, split):
    trainer = Trainer(accelerator="cpu", **QUIET)
    (metrics,) = (trainer.validate if split == "val" else trainer.test)(module, datamodule=data, verbose=False)
    return metrics


class Diverging(GANModule):
    """A GAN whose logits are NaN from the sixth step on."""

    def discriminate(self, *args):
        real, fake = super().discriminate(*args)
        factor = float("nan") if self.trainer.global_step >= 5 else 1.0
        return real * factor, fake * factor


def test_a_diverged_run_stops_before_its_weights_are_saved(tmp_path):
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        limit_val_batches=0,
        callbacks=[GradientMonitor(tmp_path), ResumeCheckpoints(tmp_path, "gan", 2)],
        plugins=[AtomicCheckpointIO()],
        **{**QUIET, "enable_checkpointing": True},
    )
    with pytest.raises(
        UserError, match=r"stopped before step 6: the loss is nan; the last good checkpoint is .*step-00000004"
    ):
        trainer.fit(point_gan(Diverging), datamodule=points_data(steps=9))
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert [path.name for path in saved] == ["step-00000002.ckpt", "step-00000004.ckpt"]
    for path in saved:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values()), path


def test_evaluation_uses_the_ema_generator():
    module = point_gan()
    with torch.no_grad():
        for p in module.ema_generator.parameters():
            p.zero_()
    assert not module(torch.randn(3, 4)).any() and module.generator(torch.randn(3, 4)).any()


@pytest.mark.parametrize("conditional", [False, True])
def test_the_ema_generator_gets_the_statistics_of_its_own_samples(conditional):
    """Then it makes of a batch nearly what it makes in training mode; before, statistics are of no samples at all."""
    module = image_gan("dcgan", dcgan=DCGANConfig(8, spectral_norm=True), conditional=conditional).eval()
    z, labels = torch.randn(1000, 8), torch.arange(1000) % 10
    trained = [buffer.clone() for buffer in module.generator.buffers()]
    with torch.no_grad():
        module.ema_generator.train()
        expected = module(z, labels)
        module.eval()
        for buffer in module.ema_generator.module.buffers():
            buffer.fill_(3)
        assert (module(z, labels) - expected).abs().mean() > 0.01
        module.update_bn()
        assert (module(z, labels) - expected).abs().mean() < 0.002
    assert all(map(torch.equal, trained, module.generator.buffers()))


def test_a_checkpoint_holds_everything_but_the_features():
    module = image_gan()
    module.features.append(object())
    assert {key.split(".")[0] for key in module.state_dict()} == {"generator", "discriminator", "ema_generator"}


def test_overfitting_has_no_meaning_for_an_endless_loss():
    with pytest.raises(UserError, match="Wasserstein loss has no minimum"):
        point_gan(loss="wasserstein").prepare_overfit()


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_precisions_that_gradient_penalties_cannot_use_are_refused(precision):
    trainer = Trainer(max_epochs=1, accelerator="cpu", precision=precision, **QUIET)
    with pytest.raises(UserError, match=f"--precision {precision}: a GAN trains in 32-true"):
        trainer.fit(point_gan(), datamodule=points_data())


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: point_gan(network="dcgan"), "--model.network dcgan: the data are points; use mlp"),
        (lambda: point_gan(augment=("cutout",)), "--model.augment cutout: points are not augmented"),
        (lambda: point_gan(conditional=True), "--model.conditional true: the MLP pair is unconditional"),
        (lambda: image_gan("mlp"), "--model.network mlp: the data are images; use dcgan or resnet, see recipes/images.yaml"),
        (lambda: image_gan("dcgan", r1_weight=1.0), "batch norm mixes samples"),
    ],
)
def test_options_that_contradict_each_other_are_refused(make, line):
    with pytest.raises(UserError, match=line):
        make()
