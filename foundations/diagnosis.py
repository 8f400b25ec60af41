"""What `common.debug` and `common.callbacks` report of a broken training: the second look at a case."""

from __future__ import annotations

import copy
from typing import Any

from common.errors import UserError
from foundations.faults import Case
from foundations.running import data_of, data_seed, quiet


def report_lines(exercise: str, case: Case, run: Any) -> list[str]:
    """What the gradient norm, the dead units, `--debug overfit`, `shapes` and `gradients` say of a broken training."""
    import torch

    try:
        from common.callbacks.activations import RECTIFIERS, dead_fraction
    except ImportError:
        return ["it needs Lightning: pip install lightning"]
    norms = [step.norm for step in run.steps]
    picked = [norms[i * (len(norms) - 1) // 9] for i in range(10)]
    layers = ", ".join(f"{name} {norm:.2g}" for name, norm in run.first_norms.items() if name.endswith("weight"))
    lines = [
        f"grad/norm over the training: {' '.join(f'{norm:.2g}' for norm in picked)}",
        f"gradient norms, first step: {layers}",
    ]
    dead: list[str] = []
    model = copy.deepcopy(run.beginning)
    for name, module in model.named_modules():
        if isinstance(module, RECTIFIERS):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: dead.append(f"{name} {dead_fraction(output.detach()):.0%}")
            )
    x = data_of(exercise, data_seed(exercise, case))[0]
    with torch.no_grad():
        output = model(x[run.steps[0].rows])
    lines += [f"act/dead at the start: {', '.join(dead)}"] if dead else []
    lines.append(f"outputs of the first batch: {tuple(output.shape)}, from {output.min():.2g} to {output.max():.2g}")
    if exercise == "too_good":
        lines.append(f"the last validation again, one measurement at a time: {validation_again(exercise, case, run):.2f}")
    if exercise in ("wont_generalize", "two_faults"):
        reported = list(run.history.values())[1][-1]
        again = validation_in_eval_mode(exercise, case, run)
        lines.append(f"the last validation: {reported:.2f}; again, with the same model in evaluation mode: {again:.2f}")
    return [*lines, *debug_lines(exercise, case, run)]


def validation_again(exercise: str, case: Case, run: Any) -> float:
    """Accuracy on the rows of the validation, each asked alone."""
    import torch

    x, y = data_of(exercise, data_seed(exercise, case))[:2]
    rows = torch.cat([rows for rows, _ in run.evaluations]).unique()
    with torch.no_grad():
        answers = torch.cat([run.model(row).argmax(1) for row in x[rows].split(1)])
    return (answers == y[rows]).float().mean().item()


def validation_in_eval_mode(exercise: str, case: Case, run: Any) -> float:
    """What the training's own validation says of the model in evaluation mode: an error, or an accuracy."""
    import torch

    from foundations.trainings import load_training

    training, data = load_training(exercise, case.changes), data_of(exercise, data_seed(exercise, case))
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad():
        if exercise == "two_faults":
            return (model(data[2]).argmax(1) == data[3]).float().mean().item()
        x, y = training.make_pairs(*data)
        cut = len(x) * 3 // 4
        return (training.predict(model, x[cut:]) - y[cut:]).square().mean().item()


def debug_lines(exercise: str, case: Case, run: Any) -> list[str]:
    """What the three checks of `--debug` print, of the model before its first step."""
    from common.debug.gradients import check_gradients
    from common.debug.overfit import overfit_one_batch
    from common.debug.shapes import layer_shapes, shape_text

    module, data = lightning_module(exercise, case, run)
    lines = []
    with quiet() as printed:
        rows = layer_shapes(module, data.batch)
        shapes = [shape_text(rows[0].inputs), *(shape_text(row.outputs) for row in rows)]
        lines.append("--debug shapes: " + " -> ".join(shapes))
        try:
            checks = check_gradients(module, data.batch)
            worst = checks[0]
            count = len(list(module.parameters()))
            lines.append(
                f"--debug gradients: {len(checks)} of {count} parameters are trainable; "
                f"worst relative error {worst.relative_error:.1e} ({worst.parameter})"
            )
        except UserError as error:
            lines.append(str(error))
        try:
            options = {"accelerator": "cpu", "devices": 1}
            overfit_one_batch(module, data, options, steps=200)
            lines.append("--debug overfit: " + printed.getvalue().strip().splitlines()[-1])
        except UserError as error:
            lines.append(f"--debug overfit: {error}")
    return lines


def lightning_module(exercise: str, case: Case, run: Any) -> tuple[Any, Any]:
    """The model before its first step, with its loss and optimizer as a LightningModule, and the first batch as its data."""
    import torch
    from lightning.pytorch import LightningDataModule, LightningModule

    from foundations.trainings import load_training

    training = load_training(exercise, case.changes)
    x, y = data_of(exercise, data_seed(exercise, case))[:2]
    if exercise == "wont_generalize":
        x, y = training.make_pairs(x, y)
    rows = run.steps[0].rows.clamp(max=len(x) - 1)
    optimizer, defaults = run.optimizer
    names = {name for name, p in run.beginning.named_parameters() if p.requires_grad}

    class Module(LightningModule):
        """The model before its first step."""

        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(run.beginning)

        def compute_loss(self, batch: Any) -> torch.Tensor:
            """Loss of a batch."""
            return training.compute_loss(self.net, *batch)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.compute_loss(batch)

        def configure_optimizers(self) -> Any:
            return optimizer([p for name, p in self.net.named_parameters() if name in names], **defaults)

    class Data(LightningDataModule):
        """The first batch."""

        batch = (x[rows], y[rows])

        def train_dataloader(self) -> Any:
            return [self.batch]

    return Module(), Data()
