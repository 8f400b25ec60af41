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
from projects.gan.augment import change
from projects.gan.data import GANData
from projects.gan.module import GANModule
from projects.gan.optim import average_player, follow

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
POINTS = {"sample_kind": "points", "class_count": 8, "noise": 4, "width": 16}


def fit(module, data, callback=None, **options):
    callbacks = [callback] if callback else []
    trainer = Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, callbacks=callbacks, **QUIET, **options)
    trainer.fit(module, datamodule=data)
    return trainer


def points_data(steps=5, d_steps=1, batch=12):
    return GANData("ring8", batch_size=batch, d_steps=d_steps, epoch_steps=steps, eval_samples=50)


class Batches(Callback):
    """Keeps the batches of a run."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch)


@pytest.fixture(autouse=True)
def usual_dtype():
    yield
    torch.set_default_dtype(torch.float32)


def plain_loop(start, batches, seed, d_steps, r1, r2, decay):
    """What `GANModule` does with the relativistic loss, R1 and R2, written out; returns all its networks."""
    generator, discriminator = copy.deepcopy(start.generator), copy.deepcopy(start.discriminator)
    average = copy.deepcopy(generator)
    g_adam = torch.optim.Adam(generator.parameters(), 1e-2, (0.5, 0.99))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-2, (0.5, 0.99))
    for step, batch in enumerate(batches):
        draws = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_000_003 % 2**63)
        for real in batch.samples.chunk(d_steps):
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
    data, batches = points_data(d_steps=3), Batches()
    module = GANModule(**POINTS, d_steps=3, r1=0.3, r2=0.2, lr=1e-2, d_lr=2e-2, ema=0.9).double()
    start = copy.deepcopy(module)
    trainer = fit(module, data, batches, precision="64-true")
    assert trainer.global_step == len(batches.seen) == 5
    assert all(len(batch.samples) == 36 for batch in batches.seen)
    found = module.generator, module.discriminator, module.averaged.module
    torch.set_default_dtype(torch.float64)
    expected = plain_loop(start, batches.seen, data.seed, 3, 0.3, 0.2, 0.9)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_rounds_in_one_step_are_steps_of_one_round():
    found = {}
    for rounds in (1, 5):
        torch.manual_seed(0)
        options = {"r1": 0.3, "penalty_every": 3, "blur": 0.5, "schedule": "linear", "ema": 0.9}
        module = GANModule(**POINTS, **options, d_steps=2, rounds=rounds)
        data = GANData("ring8", batch_size=12, d_steps=2, rounds=rounds, epoch_steps=10 // rounds, eval_samples=50)
        assert fit(module, data).global_step == 10 // rounds
        found[rounds] = module.state_dict()
    assert all(torch.equal(found[1][name], weight) for name, weight in found[5].items())


def test_a_lazy_penalty_falls_on_every_nth_step_and_weighs_n_times_as_much():
    found = {}
    for every in (1, 3):
        torch.manual_seed(0)
        module = GANModule(**POINTS, r1=0.3, penalty_every=every)
        weights = []
        original = module.discriminator_loss

        def watch(*args, original=original, weights=weights):
            weights.append(args[-1])
            return original(*args)

        module.discriminator_loss = watch
        fit(module, points_data())
        found[every] = weights
    assert found == {1: [1.0] * 5, 3: [3.0, 0.0, 0.0, 3.0, 0.0]}


def test_blur_falls_to_a_hundredth_and_then_to_nothing_for_real_and_fake_alike():
    module = GANModule(**POINTS, scale=2.0, blur=0.5, blur_until=0.5)
    found, spread = [], []
    original = module.judge

    def look(both, labels):
        found.append(module.current_blur())
        return original(both, labels)

    module.judge = look
    fit(module, points_data(steps=8))
    expected = [0.5 * 2.0 * 0.01 ** (step / 4) if step < 4 else 0.0 for step in range(8)]
    assert found[::2] == pytest.approx(expected) and found[1::2] == pytest.approx(expected)
    module.current_blur = lambda: 0.7
    for _ in range(2):
        blurred = module.seen(torch.ones(4000, 2), torch.Generator().manual_seed(len(spread)))
        spread.append(blurred.std(0))
        torch.testing.assert_close(blurred.mean(0), torch.ones(2), rtol=0, atol=0.05)
    torch.testing.assert_close(torch.stack(spread), torch.full((2, 2), 0.7), rtol=0.05, atol=0)


def test_a_player_learns_from_its_own_loss_alone():
    module = GANModule(**POINTS, lr=1e-2, ema=0.0)
    data = points_data(steps=1)
    before = copy.deepcopy(module)
    seen = {}

    def look(*args):
        seen["discriminator"] = [p.detach().clone() for p in module.discriminator.parameters()]
        seen["generator"] = [p.detach().clone() for p in module.generator.parameters()]
        return GANModule.generator_step(module, *args)

    module.generator_step = look
    fit(module, data)
    same_generator = zip(seen["generator"], before.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same_generator), "the discriminator's step moved the generator"
    after = zip(seen["discriminator"], module.discriminator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in after), "the generator's step moved the discriminator"
    assert all(p.requires_grad for p in module.discriminator.parameters())


def test_penalties_under_autocast_are_those_of_float32():
    module = GANModule(**POINTS, r1=1.0, r2=1.0, gradient_penalty=1.0)
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
    module = GANModule(**POINTS)
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
    for logits, images in zip(module.judge(both, labels), (real, fake), strict=True):
        torch.testing.assert_close(logits, twin(images))
    assert not torch.allclose(module.judge(both, labels)[0], twin(both)[:3], atol=1e-3)
    module = GANModule("pictures", network="resnet", width=8, noise=8).eval()
    calls = []
    module.discriminator.register_forward_hook(lambda net, inputs, output: calls.append(len(output)))
    for logits, images in zip(module.judge(both, labels), (real, fake), strict=True):
        torch.testing.assert_close(logits, module.discriminator(images))
    assert calls == [6, 3, 3]


def test_in_bfloat16_every_step_of_the_discriminator_sees_the_weights_of_the_last():
    module = GANModule(**POINTS, d_steps=3, lr=0.1)
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
    fit(module, points_data(steps=2, d_steps=3), precision="bf16-mixed")
    assert found == [True] * 8, "three steps of the discriminator and one of the generator, twice"
    after = zip(before, module.generator.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in after), "no weight of the generator may miss its gradient"


def test_the_average_is_that_of_torch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    ours, theirs = (AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for _ in range(2))
    for _ in range(3):
        with torch.no_grad():
            for tensor in (*net.parameters(), net[1].running_mean):
                tensor.normal_()
        follow(ours, net, 0.9)
        theirs.update_parameters(net)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())


def average_in_process(rank, folder):
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    torch.manual_seed(rank)
    net(torch.rand(4, 3, 8, 8)).square().sum().backward()
    own = [p.grad.clone() for p in net.parameters()], [b.clone() for b in net.buffers()]
    average_player(net, 2)
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
        module = GANModule(**POINTS)
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
    module = GANModule(**POINTS)
    with torch.no_grad():
        for p in module.averaged.parameters():
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
        module.averaged.train()
        expected = module(noise, labels)
        module.eval()
        for buffer in module.averaged.module.buffers():
            buffer.fill_(3)
        assert (module(noise, labels) - expected).abs().mean() > 0.01
        module.settle()
        assert (module(noise, labels) - expected).abs().mean() < 0.002
    assert all(map(torch.equal, trained, module.generator.buffers()))


def test_a_checkpoint_holds_everything_but_the_features():
    module = GANModule("pictures", network="resnet", width=8, noise=8)
    module.features.append(object())
    assert {key.split(".")[0] for key in module.state_dict()} == {"generator", "discriminator", "averaged"}


def test_overfitting_has_no_meaning_for_an_endless_loss():
    with pytest.raises(UserError, match="Wasserstein loss has no least value"):
        GANModule(**POINTS, loss="wasserstein").prepare_overfit()


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
def test_precisions_that_penalties_cannot_do_with_are_refused(precision):
    module = GANModule(**POINTS)
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
        ({"sample_kind": "pictures", "network": "dcgan", "r1": 1.0}, "batch norm mixes samples"),
        ({"ema": 1.0}, "--model.ema"),
        ({"lr": 0.0}, "lr and d_lr are above 0"),
        ({"d_steps": 0}, "d_steps"),
        ({"rounds": 0}, "rounds"),
        ({"r1": -1.0}, "r1"),
        ({"betas": (1.0, 0.9)}, "--model.betas"),
        ({"blur_until": 0.0}, "blur_until"),
        ({"schedule": "cosine"}, "--model.schedule cosine: use one of constant, linear"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, line):
    with pytest.raises(UserError, match=line):
        GANModule(**{**POINTS, **options})
