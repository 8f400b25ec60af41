"""Generative adversarial network (GAN): the LightningModule with its training step, evaluation and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.nn.device import full_float32
from common.options import Fraction, as_dataclass
from common.trainer import attached_trainer, no_sync, rank_and_world_size, should_log, training_steps
from projects.gan.augment import NUM_RANDOM, Policy, annealing, diff_augment, instance_noise_schedule
from projects.gan.config import DCGANConfig, MLPConfig, ResNetConfig
from projects.gan.data import GANBatch
from projects.gan.evaluation import Evaluator
from projects.gan.features import FeatureExtractor, load_features
from projects.gan.losses import (
    LOSSES,
    interpolate_samples,
    squared_gradient_norms,
    wgan_gp_penalty,
    zero_centered_gradient_penalty,
)
from projects.gan.metrics import discriminator_metrics
from projects.gan.networks import build_networks
from projects.gan.optim import adam, autocast_without_cache, update, update_bn, update_ema

BN_SEED, BN_SAMPLES, BN_BATCH_SIZE = 20_002, 5000, 250  # of the fakes that batch-norm statistics are computed from
PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class GANModule(LightningModule):
    """GAN: a generator and a discriminator that train each other.

    An iteration is `n_critic` discriminator updates and one generator update; a training step is `iterations_per_step`
    iterations, which Lightning counts as one. All randomness follows from the seed and the iteration's number: a resumed run
    samples what the killed one would have sampled, and each process its own part of what one process would for all.

    Args:
        data_kind: `points` or `images`; taken from the data.
        num_classes: Number of classes; taken from the data.
        data_std: Standard deviation of a point's coordinate; taken from the data.
        network: Architecture of both networks: `mlp` for points; `dcgan` or `resnet` for images.
        mlp: Options of the MLP pair.
        dcgan: Options of the DCGAN pair.
        resnet: Options of the ResNet pair.
        latent_dim: Dimension of the latent vector z ~ N(0, I).
        conditional: Class-conditional generator and discriminator.
        loss: Adversarial loss; see `losses.py`.
        n_critic: Discriminator updates for one generator update.
        iterations_per_step: Iterations in a training step. Nothing depends on it but the time: an MLP iteration takes less
            than the Trainer's overhead per step.
        r1_weight: Weight gamma of R1, half the mean squared gradient norm of D at real samples (Mescheder et al., arXiv
            1801.04406). With instance noise it is the weight at the start, and falls with the cube of the noise.
        r2_weight: Weight of R2, the same at fakes.
        gp_weight: Weight lambda of the WGAN-GP penalty, which pulls D's gradient norm between them to 1 (Gulrajani et al.,
            arXiv 1704.00028).
        augment: DiffAugment policies for real images and fakes: of `color`, `translation`, `cutout`.
        instance_noise_std: Initial standard deviation of instance noise, in units of `data_std`; it is annealed in
            the first 60 % of the training, and is then zero (Arjovsky and Bottou, arXiv 1701.04862).
        ema_decay: Decay of the exponential moving average (EMA) of the generator, which is evaluated and kept; 0 for none.
        lr: Learning rate of the generator.
        d_lr: Learning rate of the discriminator; unset, the same.
        betas: Adam's betas, of both.
        schedule: Learning-rate schedule: `constant`; `linear`: constant for a quarter of the training, then to zero;
            `annealed`: falls like instance noise to the power of 1.5, then to zero.
        features: Feature extractor of image metrics: `pixels`, `inception`, or `PACKAGE.MODULE:FUNCTION`; see `features.py`.
        features_checkpoint: File with the feature extractor's weights.
    """

    automatic_optimization = False
    overfit_steps = 1000  # for `--debug overfit`: a GAN's learning rates are small

    def __init__(
        self,
        data_kind: Literal["points", "images"],
        num_classes: int,
        data_std: float,
        network: Literal["mlp", "dcgan", "resnet"] = "mlp",
        mlp: MLPConfig = MLPConfig(),
        dcgan: DCGANConfig = DCGANConfig(),
        resnet: ResNetConfig = ResNetConfig(),
        latent_dim: PositiveInt = 3,
        conditional: bool = False,
        loss: Literal["non_saturating", "hinge", "least_squares", "wasserstein", "relativistic"] = "relativistic",
        n_critic: PositiveInt = 1,
        iterations_per_step: PositiveInt = 20,
        r1_weight: NonNegativeFloat = 1.0,
        r2_weight: NonNegativeFloat = 1.0,
        gp_weight: NonNegativeFloat = 0.0,
        augment: tuple[Policy, ...] = (),
        instance_noise_std: NonNegativeFloat = 0.3,
        ema_decay: Fraction = 0.99,
        lr: PositiveFloat = 0.002,
        d_lr: PositiveFloat | None = None,
        betas: tuple[Fraction, Fraction] = (0.5, 0.99),
        schedule: Literal["constant", "linear", "annealed"] = "annealed",
        features: str = "pixels",
        features_checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        mlp, dcgan = as_dataclass(MLPConfig, mlp), as_dataclass(DCGANConfig, dcgan)
        resnet = as_dataclass(ResNetConfig, resnet)
        check_options(data_kind, network, conditional, augment)
        self.save_hyperparameters()
        configs: dict[str, MLPConfig | DCGANConfig | ResNetConfig] = {"mlp": mlp, "dcgan": dcgan, "resnet": resnet}
        networks = build_networks(configs[network], latent_dim, num_classes if conditional else 0, data_std)
        self.generator, self.discriminator = networks
        self.has_batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in self.discriminator.modules())
        if self.has_batch_norm and self.penalized:
            raise UserError(
                "--model.network dcgan: batch norm mixes samples, a gradient penalty needs each one's gradient alone; "
                "add --model.dcgan.spectral_norm true"
            )
        self.ema_generator: AveragedModel | None = None
        if ema_decay:
            self.ema_generator = AveragedModel(self.generator)
            self.ema_generator.requires_grad_(False)
        self.loss = LOSSES[loss]
        self.features: list[FeatureExtractor] = []  # in a list, so that its weights are no part of this module's
        self.evaluator: Evaluator
        self.discriminator_only = False  # see `prepare_overfit`
        self.iteration = 0  # number of the iteration at hand
        self.total_iterations = 0  # of the training, where a schedule needs it
        self.metadata: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        if self.trainer.precision not in PRECISIONS:
            raise UserError(f"--precision {self.trainer.precision}: a GAN trains in {', '.join(PRECISIONS)}")
        if self.hparams["data_kind"] == "images" and not self.features:
            extractor = load_features(self.hparams["features"], self.hparams["features_checkpoint"])
            extractor.net.to(self.trainer.strategy.root_device)
            self.features.append(extractor)
            self.metadata["features"] = extractor.name
            self.check_eval_samples(extractor.num_features)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latent vectors (batch, latent_dim), labels (batch,) -> samples, by the EMA generator if there is one."""
        return (self.generator if self.ema_generator is None else self.ema_generator)(z, labels)

    def training_step(self, batch: GANBatch, batch_idx: int) -> None:
        """`iterations_per_step` iterations: `n_critic` discriminator updates, one generator update, EMA of the generator."""
        h: Any = self.hparams
        opt_g, opt_d = cast(list[LightningOptimizer], self.optimizers())
        first = self.trainer.global_step * h.iterations_per_step
        with no_sync(self.trainer.strategy), autocast_without_cache(self.device):
            for i, images in enumerate(batch.split(h.iterations_per_step)):
                self.iteration = 0 if self.discriminator_only else first + i
                rng = self.iteration_rng()  # the same in every process and after a resume

                for real, labels, _ in images.split(h.n_critic):
                    z = self.sample(torch.randn, len(real), h.latent_dim, rng)  # (B, latent_dim)
                    with torch.no_grad():
                        fake = self.generator(z, labels).to(real.dtype)
                    real_aug, fake_aug = (self.augment(x, rng).detach().requires_grad_(self.penalized) for x in (real, fake))
                    with self.penalty_precision():
                        real_logits, fake_logits = self.discriminate(real_aug, fake_aug, labels)  # (B,), (B,)
                        d_loss = self.loss.discriminator(real_logits, fake_logits)
                        penalties = self.gradient_penalties(real_logits, fake_logits, real_aug, fake_aug, labels, rng)
                        penalty = sum(self.penalty_weight(name) * value for name, value in penalties.items())
                        update(opt_d.optimizer, self.discriminator, d_loss + penalty, self.trainer.world_size)
                if self.discriminator_only:
                    continue

                z = self.sample(torch.randn, len(real), h.latent_dim, rng)
                fake_aug = self.augment(self.generator(z, labels).to(real.dtype), rng)
                if self.loss.relativistic:
                    logits = self.discriminate(self.augment(real, rng), fake_aug, labels)
                else:
                    logits = (fake_logits, self.discriminator(fake_aug, labels).to(real.dtype))
                g_loss = self.loss.generator(*logits)
                if i + 1 < h.iterations_per_step:
                    update(opt_g.optimizer, self.generator, g_loss, self.trainer.world_size)
                else:  # by its own wrapper Lightning counts a training step, and callbacks see loss and gradients
                    update(opt_g, self.generator, g_loss, self.trainer.world_size, self.manual_backward)
                for scheduler in cast(list[LambdaLR], self.lr_schedulers()):
                    scheduler.step()
                if self.ema_generator is not None:
                    update_ema(self.ema_generator, self.generator, h.ema_decay, is_first=not self.iteration)
        if should_log(self.trainer) and not self.discriminator_only:
            self.log_training({"d_loss": d_loss, "g_loss": g_loss, **penalties}, real_logits, fake_logits)

    def sample(self, distribution: Callable[..., Tensor], rows: int, columns: int, rng: torch.Generator) -> Tensor:
        """This process's rows (rows, columns) of what `torch.randn` or `torch.rand` samples for all processes together."""
        rank, world_size = rank_and_world_size(attached_trainer(self))
        return distribution(world_size * rows, columns, generator=rng, device=self.device)[rank * rows :][:rows]

    def iteration_rng(self) -> torch.Generator:
        """Generator on the device of all random numbers of an iteration, seeded by the run's seed and its number."""
        trainer = attached_trainer(self)
        seed = 0 if trainer is None else trainer.datamodule.seed  # type: ignore[attr-defined]
        return torch.Generator(self.device).manual_seed((seed * 1_000_003 + self.iteration) * 1_000_003 % 2**63)

    def augment(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """Samples as the discriminator sees them, real or fake: with instance noise and DiffAugment."""
        h: Any = self.hparams
        if h.instance_noise_std and self.total_iterations:
            progress = self.iteration / self.total_iterations
            if std := instance_noise_schedule(h.instance_noise_std * h.data_std, progress):
                noise = self.sample(torch.randn, len(samples), samples[0].numel(), rng).view_as(samples)
                samples = samples + std * noise.to(samples.dtype)
        if not h.augment:
            return samples
        return diff_augment(samples, self.sample(torch.rand, len(samples), NUM_RANDOM, rng), h.augment)

    def discriminate(self, real: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch,) of real samples and of as many fakes, in the samples' dtype."""
        if self.has_batch_norm:  # which would mix the statistics of real and fake
            return self.discriminator(real, labels).to(real.dtype), self.discriminator(fake, labels).to(real.dtype)
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), labels.repeat(2)).to(real.dtype).chunk(2)
        return real_logits, fake_logits

    def penalty_weight(self, name: str) -> float:
        """Weight of a penalty in this iteration: that of R1 and R2 falls with the cube of the instance noise.

        As the noise falls, the discriminator must tell closer points apart, for which its gradient has to grow.
        """
        h: Any = self.hparams
        annealed = name in ("r1", "r2") and h.instance_noise_std and self.total_iterations
        return h[f"{name}_weight"] * (annealing(self.iteration / self.total_iterations) ** 3 if annealed else 1.0)

    @property
    def networks_to_compile(self) -> list[nn.Module]:
        """Networks for `--compile`: of the discriminators DCGAN's with batch norm alone.

        A compiled one has no gradient of its gradient, which penalties take; and of spectral normalization, compiled by
        inductor, the gradients are off in the third digit, also in float64.
        """
        return [self.generator, self.discriminator] if self.has_batch_norm else [self.generator]

    @property
    def penalized(self) -> bool:
        """Whether the discriminator's loss has a gradient penalty."""
        return any(self.hparams[name] for name in ("r1_weight", "r2_weight", "gp_weight"))

    def penalty_precision(self) -> AbstractContextManager[Any]:
        """Float32 where there is a gradient penalty: in bfloat16 the gradient of a gradient would be noise."""
        return full_float32(self.device) if self.penalized else nullcontext()

    def gradient_penalties(
        self, real_logits: Tensor, fake_logits: Tensor, real: Tensor, fake: Tensor, labels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Penalties R1, R2 and WGAN-GP (gp) that have a weight, unweighted; `real` and `fake` require a gradient."""
        h: Any = self.hparams
        penalties = {}
        if h.r1_weight or h.r2_weight:
            norms = squared_gradient_norms(torch.cat([real_logits, fake_logits]), real, fake)
            penalties = {"r1": zero_centered_gradient_penalty(norms[0]), "r2": zero_centered_gradient_penalty(norms[1])}
        if h.gp_weight:
            weight = self.sample(torch.rand, len(real), 1, rng).squeeze(1)
            between = interpolate_samples(real, fake, weight)
            penalties["gp"] = wgan_gp_penalty(*squared_gradient_norms(self.discriminator(between, labels), between))
        return {name: penalty for name, penalty in penalties.items() if h[f"{name}_weight"]}

    def log_training(self, losses: dict[str, Tensor], real_logits: Tensor, fake_logits: Tensor) -> None:
        """Logs losses and penalties, discriminator metrics and gradient norms of the last iteration."""
        metrics = losses | discriminator_metrics(real_logits, fake_logits, self.loss.boundary)
        self.log_dict({f"train/{name}": value.detach() for name, value in metrics.items()})
        for name, network in [("generator", self.generator), ("discriminator", self.discriminator)]:
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            self.log(f"grad/{name}", torch.nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> Any:
        """Adam of the generator, then of the discriminator; `training_step` steps their schedules each iteration."""
        h: Any = self.hparams
        if h.schedule != "constant" or h.instance_noise_std:
            self.total_iterations = training_steps(self.trainer) * h.iterations_per_step
        networks = [(self.generator, h.lr), (self.discriminator, h.d_lr or h.lr)]
        pairs = [adam(net.parameters(), lr, h.betas, self.total_iterations, h.schedule) for net, lr in networks]
        return [optimizer for optimizer, _ in pairs], [scheduler for _, scheduler in pairs]

    # ---- evaluation

    def check_eval_samples(self, num_features: int) -> None:
        """Says, here and in the summary, if the Fréchet distance's covariances are of too few samples."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        count = min(data.num_eval_samples(split) for split in ("val", "test"))
        if count <= num_features:
            note = f"{count} evaluation samples for {num_features} features: the Fréchet distance's covariances are singular"
            print_rank_zero(f"NOTE: {note}; compare it with those of as many samples alone")
            self.metadata["note"] = note

    def start_evaluation(self, split: str) -> None:
        """A new evaluation, after the EMA generator has got batch-norm statistics of its own."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.update_bn()
        features = self.features[0] if self.features else None
        num_samples = self.metadata["samples"] = data.num_eval_samples(split)
        self.evaluator = Evaluator(split, num_samples, self.hparams["latent_dim"], data.mixture, features, self.device)

    def update_bn(self) -> None:
        """Batch-norm statistics of the EMA generator from its own samples; those it has are the trained generator's."""
        if self.ema_generator is not None:
            rng = torch.Generator().manual_seed(BN_SEED)
            z = torch.randn(BN_SAMPLES, self.hparams["latent_dim"], generator=rng)
            labels = torch.arange(BN_SAMPLES, device=self.device) % self.hparams["num_classes"]
            update_bn(self.ema_generator, z.to(self.device, cast(torch.dtype, self.dtype)), labels, BN_BATCH_SIZE)

    def evaluate(self, batch: GANBatch) -> None:
        """A fake for each real sample, from a latent vector that depends on the sample's index alone."""
        fake = self(self.evaluator.latents[batch.indices], batch.labels).to(batch.samples.dtype)
        self.evaluator.update(batch, fake, self.discriminate(batch.samples, fake, batch.labels))

    def log_evaluation(self, split: str) -> None:
        """Logs all metrics of the evaluation, the monitored one in the progress bar."""
        for name, value in self.evaluator.compute(self.loss.boundary).items():
            self.log(f"{split}/{name}", value, prog_bar=name in ("total_variation", "frechet_distance"))

    def on_validation_start(self) -> None:
        self.start_evaluation("val")

    def validation_step(self, batch: GANBatch, batch_idx: int) -> None:
        self.evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self.log_evaluation("val")

    def on_test_start(self) -> None:
        self.start_evaluation("test")

    def test_step(self, batch: GANBatch, batch_idx: int) -> None:
        self.evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    # ---- checkpoints and `--debug`

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what sampling needs beside the weights."""
        trainer = attached_trainer(self)
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            checkpoint["class_names"], checkpoint["trained_labels"] = list(data.class_names), data.trained_labels
            checkpoint["data_source"] = data.source_label

    def prepare_overfit(self) -> None:
        """For `--debug overfit`: trains the discriminator alone, as an adversarial loss does not end near zero.

        The generator and its latent vectors stay as they are, so the discriminator can memorize which samples are fakes.
        """
        if self.hparams["loss"] == "wasserstein":
            raise UserError("--debug overfit: the Wasserstein loss has no minimum; try --model.loss non_saturating")
        self.discriminator_only = True
        self.hparams.update(r1_weight=0.0, r2_weight=0.0, gp_weight=0.0, instance_noise_std=0.0)

    def compute_loss(self, batch: GANBatch) -> Tensor:
        """For `--debug`: the sum of both losses as a function of all weights (in training each network has its own)."""
        real, labels, _ = batch
        rng = self.iteration_rng()
        fake = self.generator(self.sample(torch.randn, len(real), self.hparams["latent_dim"], rng), labels).to(real.dtype)
        real_aug, fake_aug = self.augment(real, rng).detach().requires_grad_(self.penalized), self.augment(fake, rng)
        logits = self.discriminate(real_aug, fake_aug, labels)
        loss = self.loss.discriminator(*logits)
        if self.discriminator_only:
            return loss
        if torch.is_grad_enabled():
            penalties = self.gradient_penalties(*logits, real_aug, fake_aug, labels, rng)
            loss = loss + sum(self.penalty_weight(name) * value for name, value in penalties.items())
        return loss + self.loss.generator(*logits)


def check_options(data_kind: str, network: str, conditional: bool, augment: Sequence[str]) -> None:
    """Raises UserError for options that contradict the data or each other."""
    if (network == "mlp") != (data_kind == "points"):
        use = "mlp" if data_kind == "points" else "dcgan or resnet, see recipes/images.yaml"
        raise UserError(f"--model.network {network}: the data are {data_kind}; use {use}")
    if augment and data_kind == "points":
        raise UserError(f"--model.augment {','.join(augment)}: points are not augmented; leave it out")
    if conditional and network == "mlp":
        raise UserError("--model.conditional true: the MLP pair is unconditional; leave it out")
