"""GAN training compared to a plain PyTorch loop, alternately in one process, and the memory of the image metrics.

`python -m benchmarks.gan` writes `results/gan-benchmark.json`:

1. a training step of a Trainer run with all its callbacks and loggers, and the same step in a plain loop: of the default
   recipe, whose steps are as short as any, and of images;
2. growth of the process's memory while the features of 50,000 real and as many generated images are compared.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.plain_loop import PlainLoopCallback, endless, train
from benchmarks.results import write_result
from common.cli.command import OneLineParser, positive
from common.errors import UserError
from common.nn.device import device_name
from projects.gan.data import GANBatch
from projects.gan.features import FEATURE_BATCH_SIZE
from projects.gan.losses import squared_gradient_norms, zero_centered_gradient_penalty
from projects.gan.metrics import FeatureMetrics
from projects.gan.module import GANModule
from projects.gan.train import PROJECT

RECIPES = PROJECT.folder / "recipes"
NUM_IMAGES = 50_000
NUM_FEATURES = 2048  # of Inception
WARMUP_STEPS = 10


class GANPlainLoop(PlainLoopCallback):
    """Plain training loop with its own networks and optimizers, on batches of the same loader."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GANModule)
        hparams: Any = pl_module.hparams
        self.h = hparams
        self.loss = pl_module.loss
        if self.h.n_critic > 1 or self.h.gp_weight or self.h.augment:
            raise UserError("the plain loop has no n_critic, gp_weight and augment; take another recipe")
        self.generator, self.discriminator = map(copy.deepcopy, (pl_module.generator, pl_module.discriminator))
        self.ema_generator = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(self.h.ema_decay))
        adam: dict[str, Any] = {"lr": self.h.lr, "betas": self.h.betas, "fused": True}
        self.opt_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.opt_d = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.batches = endless(trainer.datamodule)  # type: ignore[attr-defined]
        self.autocast = trainer.precision != "32-true"

    def plain_step(self, device: torch.device) -> None:
        for batch in next(self.batches).split(self.h.iterations_per_step):
            self.update_discriminator(batch)
            self.update_generator(batch)
            self.ema_generator.update_parameters(self.generator)

    def update_discriminator(self, batch: GANBatch) -> None:
        """Gradient step of the discriminator, with R1 and R2 if the recipe has them."""
        h, penalized = self.h, bool(self.h.r1_weight or self.h.r2_weight)
        with torch.no_grad():
            fake = self.sample_fakes(batch)
        real, fake = (self.add_noise(x).detach().requires_grad_(penalized) for x in (batch.samples, fake))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast and not penalized):
            real_logits, fake_logits = self.discriminate(real, fake, batch.labels)
            loss = self.loss.discriminator(real_logits, fake_logits)
            if penalized:
                norms = squared_gradient_norms(torch.cat([real_logits, fake_logits]), real, fake)
                r1, r2 = map(zero_centered_gradient_penalty, norms)
                loss = loss + h.r1_weight * r1 + h.r2_weight * r2
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()

    def update_generator(self, batch: GANBatch) -> None:
        """Gradient step of the generator."""
        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            fake = self.add_noise(self.sample_fakes(batch))
            if self.loss.relativistic:
                real_logits, fake_logits = self.discriminate(self.add_noise(batch.samples), fake, batch.labels)
            else:
                real_logits = fake_logits = self.discriminator(fake, batch.labels).float()
            loss = self.loss.generator(real_logits, fake_logits)
        self.opt_g.zero_grad()
        loss.backward()
        self.opt_g.step()
        self.discriminator.requires_grad_(True)

    def sample_fakes(self, batch: GANBatch) -> Tensor:
        """A fake for each sample of the batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            z = torch.randn(len(batch.labels), self.h.latent_dim)
            return self.generator(z, batch.labels).float()

    def discriminate(self, real: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch,) of real samples and of fakes."""
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), labels.repeat(2)).float().chunk(2)
        return real_logits, fake_logits

    def add_noise(self, samples: Tensor) -> Tensor:
        """Samples with instance noise, if the recipe has it, of about its mean standard deviation."""
        return samples + 0.1 * torch.randn_like(samples) if self.h.instance_noise_std else samples


def step_overhead(flags: list[str], steps: int) -> dict[str, float]:
    """Training step of the Trainer and of the plain loop."""
    callback = GANPlainLoop(WARMUP_STEPS)
    flags = [*flags, "--accelerator", "cpu", "--max_steps", str(steps), "--max_epochs", "-1"]
    train(PROJECT, [*flags, "--model.schedule", "constant"], callback)
    return {"iterations_per_step": callback.h.iterations_per_step, **callback.result()}


@torch.inference_mode()
def metrics_memory() -> dict[str, float]:
    """Growth of resident memory in MiB while 50,000 images of each side are compared.

    Inception's own memory, for a batch of images, is measured with random weights; the rest with as many rows of as many
    random features.
    """
    net = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    images = torch.rand(FEATURE_BATCH_SIZE, 3, 299, 299)
    with PeakMemory() as memory:
        net(images)
        extraction = memory.peak()
    with PeakMemory() as memory:
        metrics = FeatureMetrics(NUM_FEATURES, torch.device("cpu"))
        for _ in range(NUM_IMAGES // 500):
            for real in (True, False):
                metrics.update(torch.randn(500, NUM_FEATURES), real)
        streaming = memory.peak()
    return {
        "images": NUM_IMAGES,
        "num_features": NUM_FEATURES,
        "extraction_mib": extraction,
        "streaming_mib": streaming,
    }


class PeakMemory:
    """Peak resident memory of this process, sampled by a thread."""

    def __enter__(self) -> PeakMemory:
        self.start = self.highest = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.highest = max(self.highest, resident_bytes())

    def peak(self) -> float:
        """Peak so far above the start, in MiB."""
        return (self.highest - self.start) / 2**20

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def resident_bytes() -> int:
    """Resident memory of this process."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="GAN training compared to a plain PyTorch loop, and the memory of the image metrics.")
    parser.add_argument("--steps", type=positive, default=50, help="Training steps of points and of images.")
    arguments = parser.parse_args()
    result = {
        "device": device_name(torch.device("cpu")),
        "memory": metrics_memory(),
        "points": step_overhead(["--config", str(RECIPES / "default.yaml")], arguments.steps),
        "images": step_overhead(["--config", str(RECIPES / "sample.yaml"), "--data.source", "sample"], arguments.steps),
    }
    print(write_result("gan-benchmark", result))


if __name__ == "__main__":
    main()
