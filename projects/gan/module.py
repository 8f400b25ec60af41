"""The LightningModule: a game of two players, how it is scored, what steps each takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.errors import UserError
from common.trainer import no_sync, rank_and_world_size, should_log, training_steps
from projects.gan.augment import DRAWS, POLICIES, change
from projects.gan.data import Batch, as_bytes
from projects.gan.evaluation import FeatureComparison, gather
from projects.gan.features import FEATURE_BATCH, Features, load_features
from projects.gan.losses import GAMES, between, health, squared_slopes, unit_slope_penalty, zero_centred_penalty
from projects.gan.networks import (
    DCDiscriminator,
    DCGenerator,
    PointDiscriminator,
    PointGenerator,
    ResDiscriminator,
    ResGenerator,
    take_statistics,
)
from projects.gan.optim import adam, average_player, follow, gradient_norm, set_gradients, without_autocast_cache
from projects.gan.points import coverage

# of the noise that fakes are measured with: the same in every validation, so that curves are smooth, and other noise at test
EVAL_SEEDS = {"val": 20_000, "test": 20_001}
STATISTICS_SEED, STATISTICS_SAMPLES, STATISTICS_BATCH = 20_002, 5000, 250
PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class GANModule(LightningModule):
    """A generator and a discriminator that train each other.

    A round is `d_steps` of the discriminator and one of the generator, a step of training `rounds` of them: Lightning counts
    one for all. All noise follows from the seed and the round's number: a resumed game draws what the killed one would have
    drawn, and each process takes its own part of what one process would draw for all.

    Args:
        sample_kind: `points` or `pictures`; the data's.
        class_count: labels of the data.
        scale: the standard deviation of a point's coordinate; the data's.
        network: `mlp` for points; for pictures `dcgan`, `sndcgan` (the same with spectral norm in the discriminator) or
            `resnet`; unset, `mlp` or `resnet`.
        noise: numbers that a sample is made from.
        width: of hidden layers, in units or channels.
        pyramid: whether the residual pair has more channels where pictures are smaller.
        layers: hidden layers of the MLPs.
        octaves: waves through which the MLP's discriminator sees each coordinate; 0 for none.
        codes: of the MLP's generator: how many the first number of its noise chooses among; 0 for none.
        conditional: whether both players are told the class.
        loss: `non_saturating`, `hinge`, `least_squares`, `wasserstein` or `relativistic`; see `losses.py`.
        d_steps: steps of the discriminator for one of the generator.
        rounds: in a step of training. Nothing depends on how they are bundled but the time: a round of points is so short
            that what the Trainer does around each step shows.
        r1: weight of the penalty on the discriminator's slope at real samples, as it sees them.
        r2: the same at fakes.
        gradient_penalty: weight of the penalty that draws its slope between them towards 1.
        penalty_every: rounds between two penalties, each counting so many times more (Karras et al., arXiv 1912.04958).
        augment: changes that both real pictures and fakes go through before the discriminator: of `color`, `translation`,
            `cutout`.
        blur: standard deviation, in units of `scale`, of noise that is added to real samples and fakes alike at the start.
            It falls by the same factor in every round, to a hundredth when `blur_until` is reached, and is zero from there.
            The generator first learns where there are samples at all, while everything overlaps, and then the details
            (instance noise: Arjovsky and Bottou, arXiv 1701.04862, section 3).
        blur_until: share of the training.
        ema: weight of the old in the averaged generator, which is the one that is measured and kept; 0 for no average.
        lr: the generator's learning rate.
        d_lr: the discriminator's; unset, the same.
        betas: Adam's, for both.
        schedule: `constant`, or `linear`: constant for a quarter of the training, then falling to zero.
        features: what pictures are compared by: `pixels`, `inception`, or `PACKAGE.MODULE:FUNCTION`; see `features.py`.
        features_checkpoint: a file with their weights.
    """

    automatic_optimization = False
    overfit_steps = 1000  # for `--debug overfit`: a game's rates are small

    def __init__(
        self,
        sample_kind: str = "pictures",
        class_count: int = 10,
        scale: float = 1.0,
        network: str | None = None,
        noise: int = 128,
        width: int = 128,
        pyramid: bool = False,
        layers: int = 3,
        octaves: int = 0,
        codes: int = 0,
        conditional: bool = False,
        loss: str = "relativistic",
        d_steps: int = 1,
        rounds: int = 1,
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float = 0.0,
        penalty_every: int = 1,
        augment: list[str] | None = None,
        blur: float = 0.0,
        blur_until: float = 0.5,
        ema: float = 0.999,
        lr: float = 2e-4,
        d_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.99),
        schedule: str = "constant",
        features: str = "pixels",
        features_checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        networks = ("mlp",) if sample_kind == "points" else ("dcgan", "sndcgan", "resnet")
        network = network or networks[-1]
        for option, value, choices in [
            ("network", network, networks),
            ("loss", loss, tuple(GAMES)),
            ("schedule", schedule, ("constant", "linear")),
            *(("augment", name, POLICIES if sample_kind == "pictures" else ()) for name in augment or []),
        ]:
            if value not in choices:
                allowed = f"use one of {', '.join(choices)}" if choices else "points are not augmented"
                recipe = ", see recipes/images.yaml" if option == "network" and sample_kind == "pictures" else ""
                raise UserError(f"--model.{option} {value}: {allowed} (the data are {sample_kind}{recipe})")
        if min(noise, width, layers, d_steps, rounds, penalty_every) < 1 or min(r1, r2, gradient_penalty) < 0:
            raise UserError(
                "--model.noise, width, layers, d_steps, rounds and penalty_every are at least 1; "
                "r1, r2 and gradient_penalty at least 0"
            )
        if min(octaves, codes, blur) < 0 or not 0 < blur_until <= 1:
            raise UserError("--model.octaves, codes and blur are at least 0, blur_until above 0 and at most 1")
        if not 0 <= ema < 1 or lr <= 0 or (d_lr is not None and d_lr <= 0):
            raise UserError("--model.ema is 0 or more and below 1, lr and d_lr are above 0")
        betas = (betas[0], betas[1])
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError("--model.betas: each is 0 or more and below 1")
        self.save_hyperparameters()
        classes = class_count if conditional else 0
        self.generator: nn.Module
        self.discriminator: nn.Module
        if network == "mlp":
            self.generator = PointGenerator(noise, width, layers, classes, scale, codes)
            self.discriminator = PointDiscriminator(width, layers, classes, scale, octaves)
        elif network in ("dcgan", "sndcgan"):
            self.generator = DCGenerator(noise, width, classes)
            self.discriminator = DCDiscriminator(width, classes, spectral=network == "sndcgan")
        else:
            self.generator = ResGenerator(noise, width, classes, pyramid)
            self.discriminator = ResDiscriminator(width, classes, pyramid)
        if sample_kind == "pictures":
            self.generator.to(memory_format=torch.channels_last)
            self.discriminator.to(memory_format=torch.channels_last)
        has_batch_norm = any(isinstance(part, nn.BatchNorm2d) for part in self.discriminator.modules())
        if has_batch_norm and (r1 or r2 or gradient_penalty):
            raise UserError("--model.network dcgan: batch norm mixes samples, a penalty needs each slope alone; use sndcgan")
        self.both_at_once = not has_batch_norm  # batch norm would mix the statistics of real and fake
        self.averaged: AveragedModel | None = None
        if ema:
            self.averaged = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(ema))
            self.averaged.requires_grad_(False)
        self.game = GAMES[loss]
        self.features: list[Features] = []  # in a list, so that their weights are no part of this module's
        self.comparison: FeatureComparison
        self.fakes: list[Tensor] = []  # points of this evaluation
        self.logits: tuple[list[Tensor], list[Tensor]] = ([], [])  # of its real samples and of its fakes
        self.eval_noise: Tensor | None = None  # of all its fakes
        self.penalties: dict[str, Tensor] = {}  # the last ones, as not every step that is logged has any
        self.discriminator_alone = False  # see `prepare_overfit`
        self.round_number = 0  # rounds of the training that are over
        self.all_rounds = 0  # of the training, if it has an end
        self.metadata: dict[str, Any] = {}

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """noise (batch, noise) -> samples, by the averaged generator if there is one."""
        net = self.generator if self.averaged is None else self.averaged
        return net(noise, labels if self.hparams["conditional"] else None)

    def setup(self, stage: str) -> None:
        """Loads what pictures are compared by, before any time is spent on training."""
        if self.trainer.precision not in PRECISIONS:
            raise UserError(f"--precision {self.trainer.precision}: a GAN trains in {', '.join(PRECISIONS)}")
        if self.hparams["sample_kind"] == "pictures" and not self.features:
            found = load_features(self.hparams["features"], self.hparams["features_checkpoint"])
            found.net.to(self.trainer.strategy.root_device)
            self.features.append(found)
            self.metadata["features"] = found.name

    # ---- the game

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """`rounds` of the game, each on its own part of the batch."""
        g_optimizer, d_optimizer = cast(list[LightningOptimizer], self.optimizers())
        parts = batch.parts(self.hparams["rounds"])
        before = self.trainer.global_step * len(parts)
        with no_sync(self.trainer.strategy), without_autocast_cache(self.device):
            for i, part in enumerate(parts):
                self.round_number = 0 if self.discriminator_alone else before + i
                # Lightning's wrapper counts a step of training, and callbacks look at loss and gradients: the last round's
                counted = g_optimizer if part is parts[-1] else g_optimizer.optimizer
                logits, loss = self.play(part, counted, d_optimizer.optimizer)
        if should_log(self.trainer) and not self.discriminator_alone:
            losses = {"discriminator_loss": self.game.discriminator(*logits), "generator_loss": loss}
            figures = losses | health(*logits, self.game.boundary) | self.penalties
            figures = {f"train/{name}": value for name, value in figures.items()}
            players = [("generator", self.generator), ("discriminator", self.discriminator)]
            self.log_dict(figures | {f"grad/{name}": gradient_norm(net.parameters()) for name, net in players})

    def play(
        self, batch: Batch, g_optimizer: Any, d_optimizer: torch.optim.Optimizer
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """One round: `d_steps` of the discriminator, each on its own part of the batch, then one of the generator.

        Returns:
            The discriminator's last logits (batch,) of real samples and of fakes, and the generator's loss.
        """
        draws = self.round_draws()
        for part in batch.parts(self.hparams["d_steps"]):
            logits = self.discriminator_step(d_optimizer, part, draws)
        if self.discriminator_alone:
            return logits, torch.zeros(())
        loss = self.generator_step(g_optimizer, part, draws)
        for schedule in cast(list[LambdaLR], self.lr_schedulers()):
            schedule.step()
        if self.averaged is not None:
            follow(self.averaged, self.generator, self.hparams["ema"])
        return logits, loss

    def discriminator_step(
        self, optimizer: torch.optim.Optimizer, batch: Batch, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One step of the discriminator; returns its logits (batch,) of real samples and of fakes."""
        real, labels = batch.samples, batch.labels
        with torch.no_grad():
            fake = self.make(self.draw(torch.randn, len(real), self.hparams["noise"], draws), labels)
        loss, logits = self.discriminator_loss(real, fake, labels, draws, self.penalty_due())
        set_gradients(optimizer, loss, Tensor.backward)  # no gradient scaler in `PRECISIONS`: Lightning's would add nothing
        average_player(self.discriminator, self.trainer.world_size)
        optimizer.step()
        return logits

    def generator_step(self, optimizer: Any, batch: Batch, draws: torch.Generator) -> Tensor:
        """One step of the generator; returns its loss."""
        backward = self.manual_backward if isinstance(optimizer, LightningOptimizer) else Tensor.backward
        real, labels = batch.samples, batch.labels
        fake = self.make(self.draw(torch.randn, len(real), self.hparams["noise"], draws), labels)
        loss = self.generator_loss(real, fake, labels, draws)
        set_gradients(optimizer, loss, backward)
        average_player(self.generator, self.trainer.world_size)
        optimizer.step()
        return loss.detach()

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor, draws: torch.Generator, penalty_weight: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The discriminator's loss with its penalties times `penalty_weight`, and the logits behind it, without a gradient.

        With a penalty all of it is computed without autocast: the slope of a slope in bfloat16 would be noise.
        """
        h = self.hparams
        full = penalty_weight > 0
        with torch.autocast(self.device.type, enabled=False) if full else nullcontext():
            both = torch.cat([self.seen(real, draws), self.seen(fake.to(real.dtype), draws)])
            if full and not both.requires_grad:
                both.requires_grad_()
            real_logits, fake_logits = self.judge(both, labels)
            loss = self.game.discriminator(real_logits, fake_logits)
            penalties = {}
            if full and (h["r1"] or h["r2"]):
                at_real, at_fake = squared_slopes(torch.cat([real_logits, fake_logits]), both).chunk(2)
                penalties = {"r1": zero_centred_penalty(at_real), "r2": zero_centred_penalty(at_fake)}
            if full and h["gradient_penalty"]:
                share = self.draw(torch.rand, len(real), 1, draws).squeeze(1)
                real, fake_seen = both.chunk(2)
                points = between(real, fake_seen, share)
                points = points if fake.requires_grad else points.detach().requires_grad_()
                slopes = squared_slopes(self.discriminator(points, self.told(labels)), points)
                penalties["gradient_penalty"] = unit_slope_penalty(slopes)
            for name, penalty in penalties.items():
                if h[name]:
                    loss = loss + penalty_weight * h[name] * penalty
                self.penalties[f"penalty_{name}"] = penalty.detach()
        return loss, (real_logits.detach(), fake_logits.detach())

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """The generator's loss for fakes that its gradient flows to."""
        fake = self.seen(fake.to(real.dtype), draws)
        if self.game.compares_pairs:
            return self.game.generator(*self.judge(torch.cat([self.seen(real, draws), fake]), labels))
        logits = self.discriminator(fake, self.told(labels)).to(real.dtype)
        return self.game.generator(logits, logits)

    def make(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Samples by the generator that is being trained."""
        return self.generator(noise, self.told(labels))

    def told(self, labels: Tensor) -> Tensor | None:
        """What the players hear of the labels: fakes are made for those of the real samples beside them."""
        return labels if self.hparams["conditional"] else None

    def judge(self, both: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch,) of real samples and of fakes, the two halves of `both`, in their own number format."""
        told = self.told(labels)
        if self.both_at_once:
            logits = self.discriminator(both, None if told is None else told.repeat(2))
        else:
            logits = torch.cat([self.discriminator(half, told) for half in both.chunk(2)])
        real, fake = logits.to(both.dtype).chunk(2)
        return real, fake

    def seen(self, samples: Tensor, draws: torch.Generator) -> Tensor:
        """What the discriminator sees of `samples`."""
        if blur := self.current_blur():
            count = len(samples)
            noise = self.draw(torch.randn, count, samples.numel() // count, draws).view_as(samples)
            samples = samples + blur * noise.to(samples.dtype)
        policies = self.hparams["augment"]
        if not policies:
            return samples
        return change(samples, self.draw(torch.rand, len(samples), DRAWS, draws), policies)

    # ---- chance and time

    def round_draws(self) -> torch.Generator:
        """Where all random numbers of a round come from, the same in every process and after a resume."""
        seed = 0 if self._trainer is None else self.trainer.datamodule.seed  # type: ignore[attr-defined]
        return torch.Generator().manual_seed((seed * 1_000_003 + self.round_number) * 1_000_003 % 2**63)

    def draw(self, distribution: Callable[..., Tensor], count: int, width: int, draws: torch.Generator) -> Tensor:
        """This process's rows (count, width) of what `distribution` draws for all processes together."""
        rank, world_size = rank_and_world_size(self._trainer)
        drawn = distribution(world_size * count, width, generator=draws)
        return (drawn if world_size == 1 else drawn[rank * count :][:count]).to(self.device)

    def penalty_due(self) -> float:
        """What the penalties' weights are multiplied by in this round; 0 for none."""
        every = self.hparams["penalty_every"]
        weights = [self.hparams[name] for name in ("r1", "r2", "gradient_penalty")]
        if self.discriminator_alone or not any(weights) or not torch.is_grad_enabled():
            return 0.0
        return float(every) if self.round_number % every == 0 else 0.0

    def current_blur(self) -> float:
        """The standard deviation of the noise that samples have at this point of training, in the samples' own unit."""
        h = self.hparams
        if not h["blur"] or self._trainer is None or self.discriminator_alone:
            return 0.0
        done = self.round_number / self.all_rounds / h["blur_until"]
        return h["blur"] * h["scale"] * 0.01**done if done < 1 else 0.0

    # ---- looking at it without training it

    def prepare_overfit(self) -> None:
        """For `--debug overfit`: a game has no loss that ends near zero, but its discriminator alone has one.

        The generator and its noise stay as they are, so the discriminator can learn by heart which samples are fakes.
        """
        if self.hparams["loss"] == "wasserstein":
            raise UserError("--debug overfit: the Wasserstein loss has no least value; try --model.loss non_saturating")
        self.discriminator_alone = True

    def compute_loss(self, batch: Batch) -> Tensor:
        """Both players' losses together as a function of all weights (in training each sees its own), of a whole batch."""
        draws = self.round_draws()
        fake = self.make(self.draw(torch.randn, len(batch.labels), self.hparams["noise"], draws), batch.labels)
        loss, _ = self.discriminator_loss(batch.samples, fake, batch.labels, draws, self.penalty_due())
        return loss if self.discriminator_alone else loss + self.generator_loss(batch.samples, fake, batch.labels, draws)

    # ---- measuring

    def on_validation_start(self) -> None:
        """Forgets the last evaluation, and makes the generator ready for the next."""
        self.fakes, self.logits, self.eval_noise = [], ([], []), None
        self.settle()
        if self.features:
            self.comparison = FeatureComparison(self.features[0].width, self.device)

    on_test_start = on_validation_start

    def settle(self) -> None:
        """Gives the averaged generator the batch statistics of its own samples; those of the trained one are not its own."""
        if self.averaged is not None:
            h = self.hparams
            draws = torch.Generator().manual_seed(STATISTICS_SEED)
            noise = torch.randn(STATISTICS_SAMPLES, h["noise"], generator=draws)
            noise = noise.to(self.device, cast(torch.dtype, self.dtype))
            labels = torch.arange(STATISTICS_SAMPLES, device=self.device) % h["class_count"]
            take_statistics(self.averaged, noise, labels if h["conditional"] else None, STATISTICS_BATCH)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compares held-out samples with as many fakes."""
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same with test samples."""
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: str) -> None:
        """Makes a fake for each sample, from noise that depends on the sample's number alone, and takes both in."""
        if self.eval_noise is None:
            count = self.trainer.datamodule.eval_count(split)  # type: ignore[attr-defined]
            draws = torch.Generator().manual_seed(EVAL_SEEDS[split])
            self.eval_noise = torch.randn(count, self.hparams["noise"], generator=draws)
            self.metadata["samples"] = count
        fake = self(self.eval_noise[batch.number.cpu()].to(self.device), batch.labels).to(batch.samples.dtype)
        for side, logits in zip(self.logits, self.judge(torch.cat([batch.samples, fake]), batch.labels), strict=True):
            side.append(logits.float())
        if not self.features:
            self.fakes.append(fake)
            return
        with torch.autocast(self.device.type, enabled=False):
            for samples, real in [(batch.samples, True), (fake, False)]:
                for part in as_bytes(samples).split(FEATURE_BATCH):
                    self.comparison.update(self.features[0].net(part), real)

    def on_validation_epoch_end(self) -> None:
        """Logs all measures."""
        self.log_measures("val")

    def on_test_epoch_end(self) -> None:
        """Logs all measures."""
        self.log_measures("test")

    def log_measures(self, split: str) -> None:
        """Logs how good the fakes are and how well the discriminator knows them; the same figures in every process."""
        real_logits, fake_logits = (gather(torch.cat(side)) for side in self.logits)
        figures: dict[str, Any] = dict(health(real_logits, fake_logits, self.game.boundary))
        if self.features:
            measures = self.comparison.compute()
            figures |= {"distance": measures["frechet"], **measures}
        else:
            mixture = self.trainer.datamodule.mixture  # type: ignore[attr-defined]
            figures |= coverage(gather(torch.cat(self.fakes)), mixture)
        self.log(f"{split}/distance", float(figures.pop("distance")), prog_bar=True)
        self.log_dict({f"{split}/{name}": float(value) for name, value in figures.items()})

    # ---- the rest

    def configure_optimizers(self) -> Any:
        """Adam for each player, the generator's first; schedules are stepped by `play`."""
        h = self.hparams
        if h["schedule"] == "linear" or h["blur"]:
            self.all_rounds = training_steps(self.trainer) * h["rounds"]
        players = [(self.generator, h["lr"]), (self.discriminator, h["d_lr"] or h["lr"])]
        pairs = [adam(net.parameters(), lr, h["betas"], self.all_rounds, h["schedule"]) for net, lr in players]
        return [optimizer for optimizer, _ in pairs], [schedule for _, schedule in pairs]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what drawing samples needs beside the weights."""
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            checkpoint["class_names"] = list(data.class_names)
            checkpoint["data_source"] = data.source_label
