"""Tables of the GAN capstone: points, images, and the benchmark."""

from __future__ import annotations

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, hardware, markdown_table, percent

POINT_RECIPES = ["gan-grid25", "gan-ring8", "gan-classic"]
IMAGE_RECIPES = ["gan-cifar10", "gan-dcgan", "gan-sample"]
PRDC = ["precision", "recall", "density", "coverage"]


def results_table() -> str:
    """Modes, quality and spread on each mixture of Gaussians: means and worst seeds; then what each training took."""
    scores, cost = [], []
    for result in map(results.read_result, POINT_RECIPES):
        mean, worst = result["mean"], {name: min(values) for name, values in result["per_seed"].items()}
        recipe, of_data = f"`{result['recipe']}`", mean["test/sliced_wasserstein_data"]
        distances = (mean["test/sliced_wasserstein"], max(result["per_seed"]["test/sliced_wasserstein"]))
        scores.append([recipe, f"{mean['test/modes']:.1f}", f"{worst['test/modes']:.0f}"])
        scores[-1] += [percent(result, "test/high_quality"), f"{100 * worst['test/high_quality']:.1f} %"]
        scores[-1] += [f"{mean['test/spread_median']:.2f}", f"{worst['test/spread_min']:.2f}"]
        scores[-1] += [f"{distance / of_data:.2f}" for distance in distances]
        cost.append([recipe, f"`{result['data_source']}`", f"{result['steps']:,}", duration(mean["train_seconds"])])
        cost[-1] += [str(len(result["seeds"])), hardware(result)]
    score_header = ["recipe", "modes", "worst", "high quality", "worst", "spread", "worst mode", "sliced distance", "worst"]
    cost_header = ["recipe", "data", "steps", "training time", "seeds", "hardware"]
    return markdown_table(score_header, scores) + "\n" + markdown_table(cost_header, cost)


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
