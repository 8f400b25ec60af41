"""Tables of the CIFAR-10 capstone: results, benchmark, and the experiments behind the recipe."""

from __future__ import annotations

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, markdown_table, percent

# run of results/cifar10-ideas.json -> what it tests, in the order of the table
IDEAS = {
    "idea-start": "start: 20×20 throughout, batch size 500, channels 64/256/256, Muon lr 0.12 and momentum 0.6",
    "idea-momentum": "Muon momentum 0.85, as SGD's",
    "idea-narrow": "channels 64/128/256, more epochs for nine tenths of the compute",
    "i-base": "the start, an epoch longer",
    "i-ls1": "label smoothing 0.1 instead of 0.2, compared to the line above",
}
# the same of results/cifar10-narrow.json
NARROW = {
    "narrow-start": "start: channels 32/128/128, progressive resizing 20, 24, 28",
    "narrow-third": "a third convolution in the last block",
    "narrow-share": "hard-example selection: the 30 % with the highest loss and 30 % at random, equal steps",
    "narrow-both": "both of these",
    "narrow-full": "both, progressive resizing 20, 24, 28, 32 and a quarter fewer steps: the recipe",
}
# result -> its recipe
RECIPES = {
    "cifar10-previous": "previous recipe: all images in every epoch, progressive resizing 20, 24, 28",
    "cifar10-smoothing": "the same with label smoothing 0.1 instead of 0.2",
    "cifar10-default": "the recipe",
}


def results_table() -> str:
    """Test metrics of the default recipe."""
    result = results.read_result("cifar10-default")
    mean, std = result["mean"], result["std"]
    body = [
        ["test accuracy, six-view TTA", percent(result, "test/accuracy_tta")],
        ["test accuracy", percent(result, "test/accuracy")],
        ["expected calibration error, six-view TTA", percent(result, "test/calibration_error_tta")],
        ["training time", f"{mean['train_seconds']:.0f} ± {std['train_seconds']:.0f} s"],
        ["images per second", f"{mean['samples_per_second']:.0f}"],
    ]
    return markdown_table([f"`{result['data_source']}`, {len(result['seeds'])} seeds, {result['device']}", ""], body)


def benchmark_table() -> str:
    """Results of `benchmarks/cifar10.py`."""
    result = results.read_result("cifar10-benchmark")
    step, data = result["step"], result["data_path"]
    body = [
        [
            "training step with all callbacks",
            "plain PyTorch loop",
            f"{step['trainer_step_ms']:.0f} ms",
            f"{step['plain_step_ms']:.0f} ms",
            f"{step['median_of_ratios']:.3f}",
        ],
        [
            "augmented images per second",
            f"DataLoader, torchvision v2, {data['workers']} workers",
            f"{data['ours_images_per_second']:,.0f}",
            f"{data['dataloader_images_per_second']:,.0f}",
            f"{data['ratio']:.0f}×",
        ],
    ]
    return comparison_table(result, body)


def ideas_table() -> str:
    """Experiments with one run each: trained on 45,000 images, validated on the other 5,000."""
    runs = results.read_result("cifar10-ideas")["runs"]
    body = []
    for name, idea in IDEAS.items():
        run, best = runs[name], runs[name]["best_validation"]
        body.append([idea, str(run["epochs"]), f"{100 * best['val/accuracy']:.1f} %", f"{best['val/loss']:.3f}"])
    return markdown_table(["experiment", "epochs", "validation accuracy", "validation loss"], body)


def narrow_table() -> str:
    """Experiments with a narrow network, one run each: trained on 40,000 images, validated on the other 10,000."""
    runs = results.read_result("cifar10-narrow")["runs"]
    body = []
    for name, idea in NARROW.items():
        metrics = runs[name]["test"]
        accuracies = [f"{100 * metrics[key]:.2f} %" for key in ("test/accuracy_tta", "test/accuracy")]
        body.append([idea, str(runs[name]["steps"]), *accuracies, f"{metrics['test/loss_tta']:.3f}"])
    return markdown_table(["experiment", "steps", "validation accuracy, TTA", "without TTA", "loss, TTA"], body)


def recipes_table() -> str:
    """Test metrics of whole recipes: the previous one, with another label smoothing, and the present one."""
    body = []
    for name, recipe in RECIPES.items():
        result = results.read_result(name)
        mean = result["mean"]
        row = [recipe, str(len(result["seeds"])), duration(mean["train_seconds"])]
        row += [f"{100 * mean[key]:.2f} %" for key in ("test/accuracy_tta", "test/accuracy")]
        body.append([*row, f"{100 * mean['test/calibration_error_tta']:.1f} %"])
    return markdown_table(["recipe", "seeds", "training time", "test accuracy, TTA", "without TTA", "ECE, TTA"], body)
