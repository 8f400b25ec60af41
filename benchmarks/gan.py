"""Our GAN's step beside a plain PyTorch loop of the same game, and what judging 50,000 pictures costs in memory.

`python -m benchmarks.gan` measures, and writes `results/gan-benchmark.json`:

1. the step of a Trainer run, with every callback and logger that `train` has, against a plain loop, both in turn in one
   process: of the default recipe, whose steps are as short as any, and of pictures;
2. how far the process's memory grows while the features of 50,000 real and as many generated pictures are compared.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from benchmarks.results import write_result
from benchmarks.twin import Twin
from common.cli.parser import CapstoneCLI
from common.nn.device import device_name
from common.run.run import run
from projects.gan.data import Batch
from projects.gan.evaluation import FeatureComparison
from projects.gan.features import FEATURE_BATCH
from projects.gan.losses import squared_slopes, zero_centred_penalty
from projects.gan.module import GANModule
from projects.gan.train import PROJECT

PICTURES = 50_000
WIDTH = 2048  # of Inception's features
WARMUP = 10


class PlainTwin(Twin):
    """A plain loop with its own networks and optimizers and the same kind of batches."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the twin."""
        assert isinstance(pl_module, GANModule)
        self.h, self.game = pl_module.hparams, pl_module.game
        left_out = {name: self.h[name] for name in ("gradient_penalty", "augment") if self.h[name]}
        if left_out or self.h["d_steps"] > 1 or self.h["penalty_every"] > 1:
            raise ValueError(f"the plain loop has no {left_out or 'd_steps and penalty_every'}")
        self.generator, self.discriminator = map(copy.deepcopy, (pl_module.generator, pl_module.discriminator))
        self.average = copy.deepcopy(pl_module.generator)
        rates = {"lr": self.h["lr"], "betas": self.h["betas"], "fused": True}
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **rates)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **rates)
        self.batches = forever(trainer.datamodule)  # type: ignore[attr-defined]
        self.autocast = trainer.precision != "32-true"

    def plain_step(self, device: torch.device) -> None:
        """As many rounds as a step of the Trainer has."""
        for batch in next(self.batches).parts(self.h["rounds"]):
            self.plain_round(batch)

    def plain_round(self, batch: Batch) -> None:
        """What people write by hand: the game of the recipe, with a blur of real and fake if it has one."""
        h = self.h
        labels = batch.labels if h["conditional"] else None
        twice = None if labels is None else labels.repeat(2)
        penalties = h["r1"] or h["r2"]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast), torch.no_grad():
            fake = self.generator(torch.randn(len(batch.labels), h["noise"]), labels).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast and not penalties):
            both = torch.cat([self.blurred(batch.samples), self.blurred(fake)]).requires_grad_(bool(penalties))
            real_logits, fake_logits = self.discriminator(both, twice).float().chunk(2)
            loss = self.game.discriminator(real_logits, fake_logits)
            if penalties:
                slopes = squared_slopes(torch.cat([real_logits, fake_logits]), both).chunk(2)
                loss = loss + h["r1"] * zero_centred_penalty(slopes[0]) + h["r2"] * zero_centred_penalty(slopes[1])
        self.d_optimizer.zero_grad()
        loss.backward()
        self.d_optimizer.step()
        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            fake = self.blurred(self.generator(torch.randn(len(fake), h["noise"]), labels).float())
            if self.game.compares_pairs:
                both = torch.cat([self.blurred(batch.samples), fake])
                real_logits, fake_logits = self.discriminator(both, twice).float().chunk(2)
            else:
                real_logits = fake_logits = self.discriminator(fake, labels).float()
            loss = self.game.generator(real_logits, fake_logits)
        self.g_optimizer.zero_grad()
        loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - h["ema"])

    def blurred(self, samples: Tensor) -> Tensor:
        """`samples` with noise of about the size that they have on the way."""
        return samples + 0.1 * torch.randn_like(samples) if self.h["blur"] else samples


def forever(data: Any) -> Iterator[Batch]:
    """Training batches without end."""
    while True:
        yield from data.train_dataloader()


def step_overhead(flags: list[str], steps: int) -> dict[str, float]:
    """The median step of the Trainer, of as many rounds as the recipe has in it, against the twin's."""
    twin = PlainTwin(WARMUP)
    flags = [*flags, "--accelerator", "cpu", "--name", "benchmark", "--max_steps", str(steps), "--max_epochs", "-1"]
    flags += ["--trainer.limit_test_batches", "0", "--trainer.limit_val_batches", "0", "--model.schedule", "constant"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run(CapstoneCLI(PROJECT, flags), extra_callbacks=[twin])
    return {"rounds_in_a_step": twin.h["rounds"], **twin.figures()}


@torch.inference_mode()
def comparison_memory() -> dict[str, float]:
    """How far resident memory rises while 50,000 pictures of both sides are compared, in MiB.

    Inception's own share, for as many pictures as it gets at once, is measured with weights that nobody has learned; the
    rest is what 50,000 rows as wide as its features leave behind.
    """
    net = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    images = torch.rand(FEATURE_BATCH, 3, 299, 299)
    with PeakMemory() as memory:
        net(images)
        extraction = memory.peak()
    with PeakMemory() as memory:
        comparison = FeatureComparison(WIDTH, torch.device("cpu"))
        for _ in range(PICTURES // 500):
            for real in (True, False):
                comparison.update(torch.randn(500, WIDTH), real)
        streaming = memory.peak()
    return {"pictures": PICTURES, "width": WIDTH, "extraction_mib": extraction, "streaming_mib": streaming}


class PeakMemory:
    """Watches resident memory from a thread of its own."""

    def __enter__(self) -> PeakMemory:
        self.before = self.highest = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.highest = max(self.highest, resident())

    def peak(self) -> float:
        """The highest so far above the start, in MiB."""
        return (self.highest - self.before) / 2**20

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def resident() -> int:
    """This process's memory, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    """Measures everything and writes the result."""
    parser = argparse.ArgumentParser(description="Measure our GAN's step and its judge's memory.")
    parser.add_argument("--steps", type=int, default=50, help="of training, timed one by one, of points and of pictures")
    arguments = parser.parse_args()
    recipes = Path(__file__).parents[1] / "projects" / "gan" / "recipes"
    figures = {
        "device": device_name(torch.device("cpu")),
        "memory": comparison_memory(),
        "points": step_overhead(["--config", str(recipes / "default.yaml")], arguments.steps),
        "pictures": step_overhead(["--config", str(recipes / "sample.yaml"), "--data.source", "sample"], arguments.steps),
    }
    print(write_result("gan-benchmark", figures))


if __name__ == "__main__":
    main()
