"""Tables of the GAN capstone: points, images, and the benchmark."""

from __future__ import annotations

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, hardware, markdown_table, percent

POINT_RECIPES = ["gan-grid25", "gan-ring8", "gan-classic"]
IMAGE_RECIPES = ["gan-cifar10", "gan-dcgan", "gan-sample"]
PRDC = ["precision", "recall", "density", "coverage"]


def results_table() -> str:
    """Covered modes and sample quality on each mixture of Gaussians."""
    header = ["recipe", "data", "modes", "high-quality samples", "reverse KL", "steps", "training time", "seeds", "hardware"]
    body = []
    for result in map(results.read_result, POINT_RECIPES):
        mean = result["mean"]
        row = [f"`{result['recipe']}`", f"`{result['data_source']}`", f"{mean['test/modes']:.1f}"]
        row += [percent(result, "test/high_quality"), f"{mean['test/reverse_kl']:.2f}", f"{result['steps']:,}"]
        body.append([*row, duration(mean["train_seconds"]), str(len(result["seeds"])), hardware(result)])
    return markdown_table(header, body)


def images_table() -> str:
    """Distance between generated and real images, then what each training took."""
    scores, cost = [], []
    for result in map(results.read_result, IMAGE_RECIPES):
        mean, metadata, recipe = result["mean"], result["metadata"], f"`{result['recipe']}`"
        features = "CIFAR-10 capstone" if "cifar10" in metadata["features"] else metadata["features"]
        scores.append([recipe, f"{mean['test/frechet_distance']:.4g}", features])
        scores[-1] += [f"{mean[f'test/{name}']:.2f}" for name in PRDC]
        cost.append([recipe, f"`{result['data_source']}`", f"{metadata['samples']:,}", str(result["epochs"])])
        cost[-1] += [duration(mean["train_seconds"]), hardware(result)]
    score_header = ["recipe", "Fréchet distance", "features", *PRDC]
    cost_header = ["recipe", "data", "images per side", "epochs", "training time", "hardware"]
    return markdown_table(score_header, scores) + "\n" + markdown_table(cost_header, cost)


def benchmark_table() -> str:
    """Results of `benchmarks/gan.py`."""
    result = results.read_result("gan-benchmark")
    body = [
        [
            f"training step on {kind}, iterations: {result[kind]['iterations_per_step']}, with all callbacks",
            "plain PyTorch loop",
            f"{result[kind]['trainer_step_ms']:.1f} ms",
            f"{result[kind]['plain_step_ms']:.1f} ms",
            f"{result[kind]['median_of_ratios']:.2f}",
        ]
        for kind in ("points", "images")
    ]
    memory = result["memory"]
    peak = f"{memory['extraction_mib']:.0f} + {memory['streaming_mib']:.0f} MiB"
    title = f"peak memory: Inception features, and the metrics of {memory['images']:,} images per side"
    body.append([title, "", peak, "", ""])
    return comparison_table(result, body)
