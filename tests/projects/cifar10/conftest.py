"""What the CIFAR-10 tests share: a small folder of pictures, and runs of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from commands import CPU, Command, commands

WIDTHS = [8, 8, 8]
# rates at which a network this small learns
TINY = ["--model.widths", str(WIDTHS), "--model.head_lr", "1.0", "--model.bias_lr", "0.05"]


# SGD: Muon's bfloat16 turns the last bit of a gradient into the third digit of a step, and no two sums agree to the last bit
PLAIN_RUN = ["--max_epochs", "2", "--data.val_size", "60", "--trainer.log_every_n_steps", "1"]
PLAIN_RUN += ["--model.optimizer", "sgd", "--model.lr", "0.03", "--model.lookahead", "true"]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "cifar10", [*TINY, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def plain_run(command, picture_folder) -> Command:
    """A finished run of one process: `runs/cifar10/one`, two epochs of five steps of 40 pictures each."""
    run = command("train", "--name", "one", "--data.source", str(picture_folder), *PLAIN_RUN, "--data.batch_size", "40")
    run.wait()
    return run


@pytest.fixture(scope="session")
def plain_flags(picture_folder) -> list[str]:
    """The flags of `plain_run` but for its name and batch."""
    return ["--data.source", str(picture_folder), *PLAIN_RUN]
