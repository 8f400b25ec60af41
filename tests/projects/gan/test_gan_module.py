"""The game inside the LightningModule is the game of the papers: one plain loop, step by step, says so."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.callbacks.gradients import GradientMonitor
from common.callbacks.resume import ResumeCheckpoints
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO
from projects.gan import module as gan_module
from projects.gan.data import GANData
from projects.gan.module import GANModule
from projects.gan.optim import average_over_processes

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
POINTS = {"sample_kind": "points", "class_count": 8, "noise": 4, "width": 16}


def fit(module, data, callback=None, **options):
    callbacks = [callback] if callback else []
    trainer = Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, callbacks=callbacks, **QUIET, **options)
    trainer.fit(module, datamodule=data)
    return trainer


def points_data(steps=5, n_critic=1, batch=12):
    return GANData("ring8", batch_size=batch, n_critic=n_critic, steps_per_epoch=steps, eval_samples=50)


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
    """What `GANModule` does with the relativistic loss, R1 and R2, written out; returns all its networks."""
    generator, discriminator = copy.deepcopy(start.generator), copy.deepcopy(start.discriminator)
    average = copy.deepcopy(generator)
    g_adam = torch.optim.Adam(generator.parameters(), 1e-2, (0.5, 0.99))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-2, (0.5, 0.99))
    for step, batch in enumerate(batches):
        draws = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_000_003 % 2**63)
        for real in batch.samples.chunk(n_critic):
            fake = generator(torch.randn(len(real), 4, generator=draws)).detach()
            real, fake = real.clone().requires_grad_(), fake.requires_grad_()
            loss = F.softplus(discriminator(fake) - discriminator(real)).mean()
            for weight, samples in [(r1, real), (r2, fake)]:
                (slope,) = torch.autograd.grad(discriminator(samples).sum(), samples, create_graph=True)
                loss = loss + weight / 2 * (slope**2).sum(1).mean()
            d_adam.zero_grad()
            loss.backward()
            d_adam.step()
        fake = generator(torch.randn(len(real), 4, generator=draws))
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


def test_iterations_per_step_in_one_step_are_steps_of_one_round():
    found = {}
    for iterations_per_step in (1, 5):
        torch.manual_seed(0)
        options = {"r1_weight": 0.3, "instance_noise_std": 0.5, "schedule": "linear", "ema_decay": 0.9}
        module = point_gan(**options, n_critic=2, iterations_per_step=iterations_per_step)
        data = GANData("ring8", batch_size=12, n_critic=2, iterations_per_step=iterations_per_step, steps_per_epoch=10 // iterations_per_step, eval_samples=50)
        assert fit(module, data).global_step == 10 // iterations_per_step
        found[iterations_per_step] = module.state_dict()
    assert all(torch.equal(found[1][name], weight) for name, weight in found[5].items())


def test_instance_noise_falls_to_a_hundredth_and_then_to_nothing_for_real_and_fake_alike():
    module = point_gan(data_std=2.0, instance_noise_std=0.5)
    module.total_iterations = 10
    spread = []
    for iteration in range(10):
        module.iteration = iteration
        noisy = module.augment(torch.ones(4000, 2), torch.Generator().manual_seed(iteration))
        torch.testing.assert_close(noisy.mean(0), torch.ones(2), rtol=0, atol=0.08)
        spread.append(noisy.std().item())
    expected = [0.5 * 2.0 * 0.01 ** (iteration / 7) if iteration < 7 else 0.0 for iteration in range(10)]
    assert spread == pytest.approx(expected, rel=0.05)
    calls = []
    original = module.augment
    module.augment = lambda samples, rng: calls.append((module.iteration, len(samples))) or original(samples, rng)
    fit(module, points_data(steps=2))
    assert calls == [(i, 12) for i in (0, 1) for _ in range(4)], "real and fake, for the discriminator and the generator"


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
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = module.discriminator_loss(real, fake.clone(), labels, module.round_draws(), 1.0)
        found.append({"loss": loss.item(), **{name: float(value) for name, value in module.penalties.items()}})
    assert found[0] == found[1]
    assert {"penalty_r1", "penalty_r2", "penalty_gradient_penalty"} <= found[0].keys()


def test_real_and_fake_pass_through_the_same_kind_of_changes():
    module = GANModule("pictures", network="resnet", width=8, noise=8, augment=["color", "translation"])
    images = torch.rand(4, 3, 32, 32)
    draws, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    seen = module.seen(images, draws)
    torch.testing.assert_close(seen, change(images, torch.rand(4, 7, generator=again), ("color", "translation")))
    assert not torch.equal(seen, images)


def test_each_process_takes_its_own_part_of_the_noise(monkeypatch):
    module = point_gan()
    parts = []
    for rank, world_size in [(0, 1), (0, 2), (1, 2)]:
        monkeypatch.setattr(gan_module, "rank_and_world_size", lambda trainer, r=rank, w=world_size: (r, w))
        parts.append(module.draw(torch.randn, 6 if world_size == 2 else 12, 4, module.round_draws()))
    assert not torch.equal(parts[1], parts[2])
    assert torch.equal(torch.cat(parts[1:]), parts[0])


def test_batch_norm_sees_real_and_fake_apart_and_other_networks_at_once():
    labels = torch.zeros(3, dtype=torch.long)
    real, fake = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32) - 1
    module = GANModule("pictures", network="dcgan", width=8, noise=8)
    twin = copy.deepcopy(module.discriminator)
    both = torch.cat([real, fake])
    for logits, images in zip(module.discriminate(both, labels), (real, fake), strict=True):
        torch.testing.assert_close(logits, twin(images))
    assert not torch.allclose(module.discriminate(both, labels)[0], twin(both)[:3], atol=1e-3)
    module = GANModule("pictures", network="resnet", width=8, noise=8).eval()
    calls = []
    module.discriminator.register_forward_hook(lambda net, inputs, output: calls.append(len(output)))
    for logits, images in zip(module.discriminate(both, labels), (real, fake), strict=True):
        torch.testing.assert_close(logits, module.discriminator(images))
    assert calls == [6, 3, 3]


def test_in_bfloat16_every_step_of_the_discriminator_sees_the_weights_of_the_last():
    module = point_gan(n_critic=3, lr=0.1)
    original, found = module.judge, []

    def look(both, labels):
        logits = original(both, labels)
        twin = copy.deepcopy(module.discriminator)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            fresh = twin(both).float().chunk(2)
        found.append(all(torch.equal(a, b) for a, b in zip(logits, fresh, strict=True)))
        return logits

    module.judge = look
    before = [p.detach().clone() for p in module.generator.parameters()]
    fit(module, points_data(steps=2, n_critic=3), precision="bf16-mixed")
    assert found == [True] * 8, "three steps of the discriminator and one of the generator, twice"
    after = zip(before, module.generator.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in after), "no weight of the generator may miss its gradient"


def average_in_process(rank, folder):
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    torch.manual_seed(rank)
    net(torch.rand(4, 3, 8, 8)).square().sum().backward()
    own = [p.grad.clone() for p in net.parameters()], [b.clone() for b in net.buffers()]
    average_over_processes(net, 2)
    torch.save((own, ([p.grad for p in net.parameters()], list(net.buffers()))), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gradients_and_running_statistics_are_averaged_over_processes(tmp_path):
    torch.multiprocessing.spawn(average_in_process, (str(tmp_path),), 2)
    (own0, new0), (own1, new1) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for part in (0, 1):
        for a, b, x, y in zip(own0[part], own1[part], new0[part], new1[part], strict=True):
            assert torch.equal(x, y)
            torch.testing.assert_close(x, (a + b) / 2 if a.is_floating_point() else a)
    assert not torch.equal(own0[0][0], own1[0][0]) and not torch.equal(own0[1][0], own1[1][0])


def test_validation_and_test_use_different_noise():
    found = {}
    for split in ("val", "test"):
        module = point_gan()
        module._trainer = SimpleNamespace(datamodule=points_data())
        module.on_validation_start()
        batch = module._trainer.datamodule.eval_batch(split)
        module.evaluate(batch, split)
        found[split] = module.fakes[0], module.eval_noise
    assert found["val"][1].shape == (50, 4) and not torch.equal(found["val"][1], found["test"][1])


class Diverging(GANModule):
    """A game whose discriminator's loss is no number from the sixth step on."""

    def discriminator_loss(self, *args):
        loss, logits = super().discriminator_loss(*args)
        return (loss * float("nan") if self.trainer.global_step >= 5 else loss), logits


def test_a_diverged_game_stops_before_its_weights_are_saved(tmp_path):
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
        trainer.fit(Diverging(**POINTS), datamodule=points_data(steps=9))
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert [path.name for path in saved] == ["step-00000002.ckpt", "step-00000004.ckpt"]
    for path in saved:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values()), path


def test_evaluation_uses_the_averaged_generator():
    module = point_gan()
    with torch.no_grad():
        for p in module.ema_generator.parameters():
            p.zero_()
    assert not module(torch.randn(3, 4)).any() and module.generator(torch.randn(3, 4)).any()


@pytest.mark.parametrize("conditional", [False, True])
def test_the_averaged_generator_gets_the_statistics_of_its_own_samples(conditional):
    """Then it makes of a batch nearly what it makes in training mode; before, statistics are of no samples at all."""
    options = {"network": "sndcgan", "width": 8, "noise": 8, "conditional": conditional}
    module = GANModule("pictures", 10, **options).eval()
    noise, labels = torch.randn(1000, 8), torch.arange(1000) % 10
    trained = [buffer.clone() for buffer in module.generator.buffers()]
    with torch.no_grad():
        module.ema_generator.train()
        expected = module(noise, labels)
        module.eval()
        for buffer in module.ema_generator.module.buffers():
            buffer.fill_(3)
        assert (module(noise, labels) - expected).abs().mean() > 0.01
        module.update_bn()
        assert (module(noise, labels) - expected).abs().mean() < 0.002
    assert all(map(torch.equal, trained, module.generator.buffers()))


def test_a_checkpoint_holds_everything_but_the_features():
    module = GANModule("pictures", network="resnet", width=8, noise=8)
    module.features.append(object())
    assert {key.split(".")[0] for key in module.state_dict()} == {"generator", "discriminator", "ema_generator"}


def test_overfitting_has_no_meaning_for_an_endless_loss():
    with pytest.raises(UserError, match="Wasserstein loss has no least value"):
        point_gan(loss="wasserstein").prepare_overfit()


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
def test_precisions_that_penalties_cannot_do_with_are_refused(precision):
    module = point_gan()
    module._trainer = SimpleNamespace(precision=precision)
    with pytest.raises(UserError, match=f"--precision {precision}: a GAN trains in 32-true"):
        module.setup("fit")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"network": "dcgan"}, "--model.network dcgan: use one of mlp"),
        ({"augment": ["cutout"]}, "points are not augmented"),
        ({"loss": "minimax"}, "--model.loss minimax: use one of non_saturating"),
        (
            {"sample_kind": "pictures", "network": "mlp"},
            "use one of dcgan, sndcgan, resnet .the data are pictures",
        ),
        ({"sample_kind": "pictures", "network": "dcgan", "r1_weight": 1.0}, "batch norm mixes samples"),
        ({"ema_decay": 1.0}, "--model.ema"),
        ({"lr": 0.0}, "lr and d_lr are above 0"),
        ({"n_critic": 0}, "n_critic"),
        ({"iterations_per_step": 0}, "iterations_per_step"),
        ({"r1_weight": -1.0}, "r1"),
        ({"betas": (1.0, 0.9)}, "--model.betas"),
        ({"blur_until": 0.0}, "blur_until"),
        ({"schedule": "cosine"}, "--model.schedule cosine: use one of constant, linear"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, line):
    with pytest.raises(UserError, match=line):
        GANModule(**{**POINTS, **options})
