"""The tables of the READMEs, made from `results/*.json`: `python -m benchmarks.tables` writes them anew.

A table stands in a README between `<!-- table: NAME -->` and `<!-- end of table -->`; a test fails if it says anything else.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results import RESULTS, read_result

ROOT = RESULTS.parent
READMES = [ROOT / "README.md", *sorted((ROOT / "projects").glob("*/README.md"))]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

# what the runs of results/cifar10-ideas.json are tests of, in the order of the table
CIFAR10_IDEAS = {
    "idea-start": "start: 20×20 throughout, batch 500, widths 64/256/256, Muon rate 0.12 and momentum 0.6",
    "idea-momentum": "Muon momentum 0.85, as SGD's",
    "idea-narrow": "widths 64/128/256, more epochs for nine tenths of the work",
    "i-base": "the start, an epoch longer",
    "i-ls1": "label smoothing 0.1 instead of 0.2, against the line above",
}
# the same of results/cifar10-narrow.json
CIFAR10_NARROW = {
    "narrow-start": "start: widths 32/128/128, sizes 20, 24, 28",
    "narrow-third": "a third convolution in the last block",
    "narrow-share": "epochs of the hardest 30 % and 30 % others, for the same number of steps",
    "narrow-both": "both of these",
    "narrow-full": "both, sizes 20, 24, 28, 32 and a quarter fewer steps: the recipe",
}


def rows(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


BERT_SENTIMENT_RUNS = ["bert_sentiment-minilm", "bert_sentiment-sample"]
GAN_RUNS = ["gan-grid25", "gan-ring8", "gan-classic"]
GAN_PICTURE_RUNS = ["gan-cifar10", "gan-dcgan", "gan-sample"]
POLICY_GRADIENT_RUNS = ["default", "reinforce", "acrobot", "lunarlander", "pendulum"]
SEARCH_SECONDS = "search_seconds_without", "search_seconds"
SEQ2SEQ_RUNS = ["seq2seq-recurrent", "seq2seq-transformer", "seq2seq-transformer-back", "seq2seq-sample"]


def percent(result: dict[str, Any], key: str) -> str:
    """Mean and deviation of a share, in per cent; of a single run the share alone."""
    if len(result["seeds"]) == 1:
        return f"{100 * result['mean'][key]:.2f} %"
    return f"{100 * result['mean'][key]:.2f} ± {100 * result['deviation'][key]:.2f} %"


def minutes(seconds: float) -> str:
    """Seconds as minutes."""
    return f"{seconds / 60:.1f} min"


def machine(result: dict[str, Any]) -> str:
    """The device that a figure is from; with the number of processes before it if there were several."""
    processes = result.get("devices", 1)
    return result["device"] if processes == 1 else f"{processes} × {result['device']}"


def shown_command(result: dict[str, Any]) -> str:
    """What a figure is made with, for others to repeat where their data and runs are; further seeds in brackets."""
    command = result["commands"][0] if "commands" in result else result["command"]
    command = without_repetitions(re.sub(r" --name \S+", "", command))
    command = re.sub(r"(--data(?:\.source)?) \S*/\S*", r"\1 FOLDER", command)
    command = re.sub(r" runs/\S+", " RUN_FOLDER", command)
    command = re.sub(r"(--(?:model\.features_)?checkpoint) \S+", r"\1 PATH", command)
    command = re.sub(r"--config projects/\w+/recipes/", "--config recipes/", command)
    others = ", ".join(str(seed) for seed in result.get("seeds", [])[1:])
    return f"`{command}`" + (f" ({others})" if others else "")


def without_repetitions(command: str) -> str:
    """`command` without the flags that say what its recipe, as it is now, says too."""
    if not (recipe := re.search(r"--config (projects/\S+)", command)):
        return command
    settings = yaml.safe_load((ROOT / recipe[1]).read_text())
    for found in re.finditer(r" --(?:(\w+)\.)?(\w+) (\S+)", command):
        section, key, value = settings.get(found[1] or "trainer", {}), found[2], yaml.safe_load(found[3])
        if key in section and section[key] == value:
            command = command.replace(found[0], "", 1)
    return command


def front_row(project: str, figure: str, value: str, result: dict[str, Any]) -> list[str]:
    """A line of the front page's table; `project` is empty where it is that of the line above."""
    trained = "commands" in result
    return [
        f"[`{project}`](projects/{project}/README.md)" if project else "",
        figure,
        value,
        f"`{result['data_source']}`" if "data_source" in result else "",
        machine(result),
        minutes(result["mean"]["train_seconds"]) if trained else "",
        str(len(result["seeds"])) if trained else "",
        shown_command(result),
    ]


def front() -> str:
    """A few lines for each capstone that has been measured."""
    pictures, pictures_benchmark = read_result("cifar10-default"), read_result("cifar10-benchmark")
    translations = {name: read_result(f"seq2seq-{name}") for name in ("recurrent", "transformer")}
    neighbours = read_result("seq2seq-neighbours")
    sentiment, tuning = read_result("bert_sentiment-minilm"), read_result("bert_sentiment-benchmark")
    points, fakes, textbook = (read_result(f"gan-{name}") for name in ("grid25", "cifar10", "dcgan"))
    distances = [result["mean"]["test/frechet"] for result in (fakes, textbook)]
    schedule, path = pictures_benchmark["time_to_accuracy"]["ratio"], pictures_benchmark["data_path"]["ratio"]
    body = [
        front_row("cifar10", "test accuracy", f"**{percent(pictures, 'test/accuracy')}**", pictures),
        front_row(
            "", "against ResNet-18's 200-epoch schedule, projected", f"**{schedule:.0f}×** as fast", pictures_benchmark
        ),
        front_row(
            "", "data path against DataLoader + torchvision v2", f"**{path:.0f}×** the pictures a second", pictures_benchmark
        ),
        *(
            front_row(
                "seq2seq" if name == "recurrent" else "",
                f"BLEU en-de, lower case, {name}",
                f"**{translation['mean']['test/bleu_tokenized']:.2f}**",
                translation,
            )
            for name, translation in translations.items()
        ),
        front_row(
            "",
            "the same, Transformer that looks up its training pairs",
            f"**{neighbours['neighbours']['test']['test/bleu_tokenized']:.2f}**",
            {key: value for key, value in neighbours.items() if key != "commands"},  # its own and not the run's
        ),
        front_row(
            "bert_sentiment",
            "SST-2 accuracy, MiniLM of 22.6 M parameters",
            f"**{percent(sentiment, 'test/accuracy')}**",
            sentiment,
        ),
        front_row(
            "",
            "fine-tuning against `transformers.Trainer`",
            f"**{tuning['fine_tuning']['ratio']:.1f}×** the sentences a second",
            tuning,
        ),
        front_row(
            "gan",
            "modes found of 25, and points of high quality",
            f"**{points['mean']['test/modes']:.1f}**, {percent(points, 'test/high_quality')}",
            points,
        ),
        front_row(
            "",
            "Fréchet distance of 32×32 pictures; DCGAN's",
            f"**{distances[0]:.4g}**; {distances[1]:.4g}",
            fakes,
        ),
        *(
            front_row(
                "policy_gradient" if recipe == "default" else "",
                f"mean return on {agents['data_source']}, worst seed",
                f"**{agents['mean']['test/return']:.1f}**, {min(agents['each']['test/return']):.1f}",
                agents,
            )
            for recipe, agents in ((name, policy_gradient_runs(name)) for name in ("default", "lunarlander"))
        ),
    ]
    return rows(["capstone", "figure", "value", "data", "on", "training", "seeds", "command"], body)


def cifar10_figures() -> str:
    """The default recipe's figures."""
    result = read_result("cifar10-default")
    keys = {
        "test accuracy, six views": "test/accuracy",
        "test accuracy, plain": "test/accuracy_plain",
    }
    body = [[name, percent(result, key)] for name, key in keys.items()]
    error = result["mean"]["test/calibration_error"], result["deviation"]["test/calibration_error"]
    body.append(["expected calibration error, six views", f"{100 * error[0]:.1f} ± {100 * error[1]:.1f} points"])
    seconds = result["mean"]["train_seconds"], result["deviation"]["train_seconds"]
    body.append(["training", f"{seconds[0]:.0f} ± {seconds[1]:.0f} s"])
    body.append(["pictures a second", f"{result['mean']['samples_per_second']:.0f}"])
    return rows([f"`{result['data_source']}`, {len(result['seeds'])} seeds, {result['device']}", ""], body)


def cifar10_benchmark() -> str:
    """What `benchmarks/cifar10.py` measured."""
    result = read_result("cifar10-benchmark")
    step, data, time = result["step"], result["data_path"], result["time_to_accuracy"]
    return rows(
        ["side by side", "ours", "theirs", "ratio"],
        [
            [
                "a Trainer step with all callbacks, plain PyTorch loop",
                f"{step['trainer_step_ms']:.0f} ms",
                f"{step['plain_step_ms']:.0f} ms",
                f"{step['median_of_ratios']:.3f}",
            ],
            [
                f"augmented pictures a second, DataLoader with torchvision v2 and {data['workers']} workers",
                f"{data['ours_images_per_second']:,.0f}",
                f"{data['dataloader_images_per_second']:,.0f}",
                f"{data['ratio']:.0f}×",
            ],
            [
                f"training, ResNet-18 for {time['resnet18_epochs']} epochs (projected from measured steps)",
                minutes(time["ours_seconds"]),
                f"{time['resnet18_epochs'] * time['resnet18_seconds_per_epoch'] / 3600:.0f} h",
                f"{time['ratio']:.0f}×",
            ],
            ["epochs that ResNet-18 gets through in 15 times our time", "", f"{time['resnet18_epochs_at_15x']:.0f}", ""],
        ],
    )


def seq2seq_figures() -> str:
    """Test scores of each recipe and direction."""
    header = ["recipe", "direction", "BLEU, lower case, tokenised", "sacreBLEU", "in lower case", "chrF", "exact"]
    header += ["epochs", "training", "on", "parameters", "data"]
    body = []
    for result in map(read_result, SEQ2SEQ_RUNS):
        mean = result["mean"]
        scores = [f"{mean[f'test/{name}']:.2f}" for name in ("bleu_tokenized", "bleu", "bleu_lower", "chrf")]
        scores.append(f"{100 * mean['test/exact_match']:.1f} %")
        if result["notes"].get("lowercase") == "both":  # what such a translator has of the case says nothing
            scores[1], scores[3], scores[4] = "", f"{mean['test/chrf_lower']:.2f} in lower case", ""
        size = f"{result['parameters'] / 1e6:.1f} M"
        row = [f"`{result['recipe']}`", result["notes"]["direction"], *scores, str(result["epochs"])]
        body.append([*row, minutes(mean["train_seconds"]), machine(result), size, f"`{result['data_source']}`"])
    return rows(header, body)


def seq2seq_signatures() -> str:
    """What sacreBLEU calls each score."""
    columns = {
        "bleu_tokenized": "BLEU, lower case, tokenised",
        "bleu": "sacreBLEU",
        "bleu_lower": "in lower case",
        "chrf": "chrF",
        "chrf_lower": "chrF in lower case",
    }
    signatures: dict[str, str] = {}
    for result in map(read_result, SEQ2SEQ_RUNS):
        signatures = result["notes"]["signatures"] | signatures  # the first translator's language stays
    named = [(title, signatures[name].replace("|", "\\|")) for name, title in columns.items() if name in signatures]
    return rows(["score", "signature"], [[title, f"`{signature}`"] for title, signature in named])


def seq2seq_neighbours() -> str:
    """What `benchmarks/neighbours.py` measured."""
    result = read_result("seq2seq-neighbours")
    found = result["neighbours"]
    body = [
        [title, *(f"{found[part][f'test/{name}']:.2f}" for part in ("test_without", "test"))]
        for title, name in [
            ("BLEU, lower case, tokenised", "bleu_tokenized"),
            ("BLEU in lower case", "bleu_lower"),
            ("chrF in lower case", "chrf_lower"),
        ]
    ]
    body.append(["training", *[minutes(result["mean"]["train_seconds"])] * 2])
    body.append(["reading the training pairs again", "", f"{found['read_seconds']:.0f} s"])
    body.append(["the test set's thousand sentences, beam 5", *(f"{found[key]:.0f} s" for key in SEARCH_SECONDS)])
    return rows(
        [f"`{result['recipe']}`, {result['notes']['direction']}, {machine(result)}", "alone", "with neighbours"], body
    )


def seq2seq_benchmark() -> str:
    """What `benchmarks/seq2seq.py` measured."""
    result = read_result("seq2seq-benchmark")
    bucketing, step = result["bucketing"], result["decoder_step"]
    searches = [
        (result["decoding"], 'until no better one can come; `generate` with the same weights and `early_stopping="never"`'),
        (result["decoding_shared"], "the same, with the batches of `generate` dealt out to the cores as ours are"),
        (result.get("decoding_bfloat16"), "as in the first line, both in bfloat16"),
        (result["decoding_early_stop"], "with `early_stop`; `generate` with the same weights as it stops by default"),
    ]
    return rows(
        [f"side by side, {result['device']}", "ours", "theirs", "ratio"],
        [
            *(
                [
                    f"sentences a second, beam 5, {title}",
                    f"{max(decoding['ours_sentences_per_second'].values()):.0f}",
                    f"{max(decoding['generate_sentences_per_second'].values()):.0f}",
                    f"{decoding['ratio']:.1f}×",
                ]
                for decoding, title in searches
                if decoding is not None  # a processor without bfloat16 has no such row
            ),
            [
                "real target tokens a second in training, padded random batches of as many sentences",
                f"{bucketing['ours_tokens_per_second']:,.0f}",
                f"{bucketing['random_tokens_per_second']:,.0f}",
                f"{bucketing['ratio']:.1f}×",
            ],
            [
                "a step of the recurrent decoder, forward and back, the loop that tutorials show",
                f"{step['ours_step_ms']:.0f} ms",
                f"{step['naive_step_ms']:.0f} ms",
                f"{step['ratio']:.1f}×",
            ],
        ],
    )


def bert_sentiment_figures() -> str:
    """Test figures of each recipe."""
    header = ["recipe", "encoder", "test accuracy", "F1", "calibration error", "with temperature"]
    header += ["training", "seeds", "on", "data"]
    body = []
    for result in map(read_result, BERT_SENTIMENT_RUNS):
        errors = [f"{100 * result['mean'][f'test/{name}']:.1f} points" for name in ("calibration_error", "calibrated_error")]
        figures = [percent(result, "test/accuracy"), percent(result, "test/f1"), *errors]
        row = [f"`{result['recipe']}`", f"`{result['notes']['encoder']}`", *figures]
        row += [minutes(result["mean"]["train_seconds"]), str(len(result["seeds"]))]
        body.append([*row, machine(result), f"`{result['data_source']}`"])
    return rows(header, body)


def bert_sentiment_benchmark() -> str:
    """What `benchmarks/bert_sentiment.py` measured."""
    result = read_result("bert_sentiment-benchmark")
    tuning, precise = result["fine_tuning"], "bfloat16" if result["precision"] == "bf16-mixed" else "float32"
    body = [
        [name, f"{tuning['ours_sentences_per_second']:.0f}", f"{tuning[theirs]:.0f}", f"{tuning[ratio]:.2f}×"]
        for name, theirs, ratio in [
            ("fine-tuning, `transformers.Trainer`", "trainer_sentences_per_second", "ratio"),
            (
                "fine-tuning, the same with `group_by_length`",
                "group_by_length_sentences_per_second",
                "ratio_to_group_by_length",
            ),
        ]
    ]
    for number, key in {precise: "prediction", "float32": "prediction_float32"}.items():
        found = result[key]
        sides = [f"{found[f'{side}_sentences_per_second']:.0f}" for side in ("ours", "pipeline")]
        body.append([f"prediction in {number}, `pipeline(batch_size=32)`", *sides, f"{found['ratio']:.2f}×"])
    return rows([f"sentences a second, {result['device']}", "ours", "theirs", "ratio"], body)


def gan_figures() -> str:
    """How much of each mixture was found, by how good points."""
    header = ["recipe", "data", "modes", "of high quality", "reverse KL", "steps", "training", "seeds", "on"]
    body = []
    for result in map(read_result, GAN_RUNS):
        mean = result["mean"]
        row = [f"`{result['recipe']}`", f"`{result['data_source']}`", f"{mean['test/modes']:.1f}"]
        row += [percent(result, "test/high_quality"), f"{mean['test/reverse_kl']:.2f}", f"{result['steps']:,}"]
        body.append([*row, minutes(mean["train_seconds"]), str(len(result["seeds"])), machine(result)])
    return rows(header, body)


def gan_pictures() -> str:
    """How far generated pictures are from real ones."""
    measures = ["precision", "recall", "density", "coverage"]
    header = ["recipe", "data", "Fréchet distance", *measures, "pictures of each side", "epochs", "training", "on"]
    body = []
    for result in map(read_result, GAN_PICTURE_RUNS):
        mean, notes = result["mean"], result["notes"]
        features = "the CIFAR-10 capstone's features" if "cifar10" in notes["features"] else notes["features"]
        row = [f"`{result['recipe']}`", f"`{result['data_source']}`", f"{mean['test/frechet']:.4g} in {features}"]
        row += [f"{mean[f'test/{name}']:.2f}" for name in measures]
        row += [f"{notes['samples']:,}", str(result["epochs"])]
        body.append([*row, minutes(mean["train_seconds"]), machine(result)])
    return rows(header, body)


def gan_benchmark() -> str:
    """What `benchmarks/gan.py` measured."""
    result = read_result("gan-benchmark")
    body = [
        [
            f"step of {kind} (rounds: {result[kind]['rounds_in_a_step']}) with all callbacks, plain PyTorch loop",
            f"{result[kind]['trainer_step_ms']:.1f} ms",
            f"{result[kind]['plain_step_ms']:.1f} ms",
            f"{result[kind]['median_of_ratios']:.2f}",
        ]
        for kind in ("points", "pictures")
    ]
    memory = result["memory"]
    peak = f"{memory['extraction_mib']:.0f} + {memory['streaming_mib']:.0f} MiB"
    body.append([f"memory: Inception's features, and comparing {memory['pictures']:,} of each side", peak, "", ""])
    return rows([f"side by side, {result['device']}", "ours", "theirs", "ratio"], body)


def policy_gradient_runs(recipe: str) -> dict[str, Any]:
    """The runs of a recipe, one for each seed; they stop when their task is solved, so their steps differ."""
    runs = list(read_result(f"policy_gradient-{recipe}")["runs"].values())
    figures: dict[str, list[float]] = {}
    for run in runs:
        for key, value in {**run["test"], "train_seconds": run["train_seconds"], "steps": run["steps"]}.items():
            figures.setdefault(key, []).append(value)
    return {
        "data_source": runs[0]["data_source"],
        "device": runs[0]["device"],
        "commands": [run["command"] for run in runs],
        "seeds": [int(run["command"].partition("--seed ")[2].split()[0]) for run in runs],
        "each": figures,
        "mean": {key: statistics.mean(values) for key, values in figures.items()},
        "deviation": {key: statistics.stdev(values) if len(values) > 1 else 0.0 for key, values in figures.items()},
    }


def policy_gradient_figures() -> str:
    """Returns and what they took, over seeds."""
    header = ["recipe", "environment", "mean return", "worst seed", "environment steps", "at most", "training", "at most"]
    header += ["seeds", "on"]
    body = []
    for recipe in POLICY_GRADIENT_RUNS:
        result = policy_gradient_runs(recipe)
        data = yaml.safe_load((ROOT / f"projects/policy_gradient/recipes/{recipe}.yaml").read_text())["data"]
        mean, each, size = result["mean"], result["each"], data["envs"] * data["steps"]
        row = [f"`{recipe}`", f"`{result['data_source']}`"]
        row += [f"{mean['test/return']:.1f} ± {result['deviation']['test/return']:.1f}", f"{min(each['test/return']):.1f}"]
        row += [f"{size * steps / 1000:,.0f}k" for steps in (mean["steps"], max(each["steps"]))]
        row += [f"{seconds:.0f} s" for seconds in (mean["train_seconds"], max(each["train_seconds"]))]
        body.append([*row, str(len(result["seeds"])), machine(result)])
    return rows(header, body)


def policy_gradient_benchmark() -> str:
    """What `benchmarks/policy_gradient.py` measured."""
    result = read_result("policy_gradient-benchmark")
    body = []
    for task, name in [("cartpole", "CartPole"), ("lunarlander", "LunarLander")]:
        found = result[task]
        for side, ratio, what in [
            ("ours", "ratio", "from rollouts of 128 steps"),
            ("ours_short", "short_ratio", "from rollouts of 5, as A2C has them"),
        ]:
            figures = [f"{found[side]:,.0f}", f"{found['a2c']:,.0f}", f"{found[ratio]:.1f}×"]
            body.append(
                [f"{name}, environment steps a second of training, {what}; A2C, {found['envs']} environments", *figures]
            )
    time, loop = result["time_to_475"], result["loop"]
    seconds = [f"{time[side]['median_seconds']:.1f} s" for side in ("ours", "ppo")]
    reached = ", ".join(f"{time[side]['reached']} of {time['seeds']}" for side in ("ours", "ppo"))
    body.append(
        [
            f"CartPole, training until {time['target']:.0f}, median of the seeds ({reached}); PPO",
            *seconds,
            f"{time['ratio']:.1f}×",
        ]
    )
    steps = [f"{loop[side]:.1f} ms" for side in ("trainer_step_ms", "plain_step_ms")]
    body.append(
        [
            "a rollout and its update in the Trainer with all callbacks; a plain loop",
            *steps,
            f"{loop['median_of_ratios']:.3f}",
        ]
    )
    return rows([f"side by side, {result['device']}", "ours", "theirs", "ratio"], body)


def cifar10_ideas() -> str:
    """What each idea changed, by one run each on 45,000 pictures, judged on the 5,000 others."""
    runs = read_result("cifar10-ideas")["runs"]
    body = []
    for name, idea in CIFAR10_IDEAS.items():
        run = runs[name]
        best = run["best_validation"]
        body.append([idea, str(run["epochs"]), f"{100 * best['val/accuracy']:.1f} %", f"{best['val/loss']:.3f}"])
    return rows(["idea", "epochs", "validation accuracy, plain", "validation loss"], body)


def cifar10_narrow() -> str:
    """What each idea changed in a narrow network, by one run each on 40,000 pictures, judged on the 10,000 others."""
    runs = read_result("cifar10-narrow")["runs"]
    body = []
    for name, idea in CIFAR10_NARROW.items():
        run = runs[name]
        accuracies = [f"{100 * run['test'][key]:.2f} %" for key in ("test/accuracy", "test/accuracy_plain")]
        body.append([idea, str(run["steps"]), *accuracies, f"{run['test']['test/loss']:.3f}"])
    return rows(["idea", "steps", "validation accuracy, six views", "plain", "loss, six views"], body)


def cifar10_recipes() -> str:
    """Whole recipes on test: the one before, with another label smoothing, and the present one."""
    recipes = {
        "cifar10-previous": "the recipe before: all pictures in every epoch, sizes 20, 24, 28",
        "cifar10-smoothing": "the same with label smoothing 0.1 instead of 0.2",
        "cifar10-default": "the recipe",
    }
    body = []
    for name, recipe in recipes.items():
        result = read_result(name)
        time = f"{result['mean']['train_seconds']:.0f} s"
        error = f"{100 * result['mean']['test/calibration_error']:.1f} points"
        accuracies = [f"{100 * result['mean'][key]:.2f} %" for key in ("test/accuracy", "test/accuracy_plain")]
        body.append([recipe, str(len(result["seeds"])), time, *accuracies, error])
    return rows(["recipe", "seeds", "training", "test accuracy, six views", "plain", "calibration error"], body)


TABLES = {
    "bert_sentiment-benchmark": bert_sentiment_benchmark,
    "bert_sentiment-figures": bert_sentiment_figures,
    "cifar10-narrow": cifar10_narrow,
    "cifar10-recipes": cifar10_recipes,
    "front": front,
    "gan-benchmark": gan_benchmark,
    "gan-figures": gan_figures,
    "gan-pictures": gan_pictures,
    "cifar10-figures": cifar10_figures,
    "cifar10-benchmark": cifar10_benchmark,
    "cifar10-ideas": cifar10_ideas,
    "policy_gradient-benchmark": policy_gradient_benchmark,
    "policy_gradient-figures": policy_gradient_figures,
    "seq2seq-benchmark": seq2seq_benchmark,
    "seq2seq-figures": seq2seq_figures,
    "seq2seq-neighbours": seq2seq_neighbours,
    "seq2seq-signatures": seq2seq_signatures,
}


def with_tables(text: str) -> str:
    """A README's text with every table as the results have it."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def main() -> None:
    """Writes the tables of all READMEs."""
    for path in READMES:
        path.write_text(with_tables(path.read_text()))
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
