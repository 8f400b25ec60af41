"""Image of the front page: what each of the five capstones does, by one finished run of each.

`python -m benchmarks.front_page runs/cifar10/NAME runs/seq2seq/NAME runs/bert_sentiment/NAME runs/gan/NAME
runs/policy_gradient/NAME` writes `docs/capstones.png`; the run of the GAN is one of points.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.cli.command import OneLineParser, report_errors
from common.data.synthetic_images import render_images
from common.errors import UserError
from common.plots.images import draw_images, prediction_title
from common.plots.video import add_caption

OUTPUT = Path(__file__).parents[1] / "docs" / "capstones.png"
WIDTH, GAP, HEADING = 1800, 24, 26  # pixels
RESAMPLING = Image.Resampling.LANCZOS
IMAGE_SEED = 7  # of images that no split of the sample has
SENTENCE = "Anna kommt heute, weil sie am Freitag zwei Lampen kaufen kann."
TEXTS = ("the script is not wonderful , although i found the music lovely", "nobody could call the hero dull")


def draw_cifar10(checkpoint: Path, path: Path) -> Path:
    """New images of the sample with their predictions."""
    from projects.cifar10.inference import load

    pipeline = load(checkpoint)
    images, labels = render_images(8, IMAGE_SEED)
    confidence, predicted = pipeline(images).max(1)
    rows = list(zip(predicted.tolist(), confidence.tolist(), labels.tolist(), strict=True))
    titles = [prediction_title(pipeline.class_names[p], q, pipeline.class_names[label]) for p, q, label in rows]
    return draw_images(images, titles, path, 4, wrong=[p != label for p, _, label in rows])


def draw_seq2seq(checkpoint: Path, path: Path) -> Path:
    """Attention of a translation."""
    from projects.seq2seq.inference import load
    from projects.seq2seq.plots import attention_maps, draw_attention

    pipeline = load(checkpoint)
    sources = pipeline.encode([SENTENCE])
    ((best, *_),) = pipeline.hypotheses(sources, attention=True)
    tokenizers = pipeline.source_tokenizer, pipeline.target_tokenizer
    return draw_attention(attention_maps(sources, [best], tokenizers), path)


def draw_bert_sentiment(checkpoint: Path, path: Path) -> Path:
    """Texts with their attributions."""
    from projects.bert_sentiment.attribution import word_attributions
    from projects.bert_sentiment.inference import load
    from projects.bert_sentiment.plots import draw_attributions
    from projects.bert_sentiment.predict import describe

    classifier = load(checkpoint)
    probabilities = classifier(TEXTS)
    rows = [
        (describe(row, classifier.class_names, False), *word_attributions(classifier, text))
        for text, row in zip(TEXTS, probabilities, strict=True)
    ]
    return draw_attributions(rows, path, width=6.0)


def draw_gan(checkpoint: Path, path: Path) -> Path:
    """Generated points over the modes of their mixture."""
    from projects.gan.inference import load
    from projects.gan.plots import NUM_POINTS, fixed_samples, plot_points
    from projects.gan.synthetic import MIXTURES

    pipeline = load(checkpoint)
    if pipeline.data_source not in MIXTURES:
        raise UserError(f"{checkpoint}: a GAN of images; name a run of points")
    return plot_points(fixed_samples(pipeline, NUM_POINTS), MIXTURES[pipeline.data_source](), "Generated points", path)


def draw_policy_gradient(checkpoint: Path, path: Path) -> Path:
    """An untrained and a trained agent, some time after the same initial state."""
    from projects.policy_gradient.inference import load
    from projects.policy_gradient.video import record_agent

    with Image.open(record_agent(load(checkpoint), path.with_suffix(".gif"), untrained=True)) as film:
        film.seek(getattr(film, "n_frames", 1) // 3)
        film.convert("RGB").save(path)
    return path


# capstone -> how it is drawn, and the metric above it with its format
PANELS: dict[str, tuple[Callable[[Path, Path], Path], str, str]] = {
    "cifar10": (draw_cifar10, "accuracy", "accuracy {val:.1%} in validation, {test:.1%} in test"),
    "bert_sentiment": (draw_bert_sentiment, "accuracy", "accuracy {val:.1%} in validation, {test:.1%} in test"),
    "policy_gradient": (draw_policy_gradient, "return_mean", "mean return {test:.0f} of 100 test episodes"),
    "seq2seq": (draw_seq2seq, "bleu", "test BLEU {test:.1f}"),
    "gan": (draw_gan, "high_quality", "{test:.1%} of the points in a mode"),
}
COLUMNS = [["cifar10", "bert_sentiment", "policy_gradient"], ["seq2seq", "gan"]]


def draw_panel(run: Path, folder: Path) -> tuple[str, Image.Image, str]:
    """Name of a run's capstone, its plot, and a heading."""
    try:
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
        name, checkpoint = summary["project"], run / "checkpoints" / summary["checkpoint"]
        draw, metric, text = PANELS[name]
        data = "embedded sample" if summary["data_source"] == "sample" else summary["data_source"]
        test, val = summary["test"][f"test/{metric}"], summary["best_validation"].get(f"val/{metric}")
        heading = f"{name}, {data}: {text.format(test=test, val=val)}"
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run}: no finished run of one of {', '.join(PANELS)}") from error
    with Image.open(draw(checkpoint, folder / f"{name}.png")) as image:
        return name, image.convert("RGB").copy(), heading


def compose(columns: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """Columns of panels below their headings, as wide as it takes for all columns to be of one height."""
    images_width = WIDTH - GAP * (len(columns) + 1)
    heights = [sum(image.height / image.width for image, _ in column) for column in columns]  # of a column one unit wide
    widths = [round(images_width / height / sum(1 / other for other in heights)) for height in heights]
    panels = [
        [
            add_caption(image.resize((width, round(width * image.height / image.width)), RESAMPLING), text, HEADING)
            for image, text in column
        ]
        for width, column in zip(widths, columns, strict=True)
    ]
    total = GAP + max(sum(panel.height + GAP for panel in column) for column in panels)
    page, x = Image.new("RGB", (WIDTH, total), "white"), GAP
    for column, width in zip(panels, widths, strict=True):
        y = GAP
        for panel in column:
            page.paste(panel, (x, y))
            y += panel.height + GAP
        x += width + GAP
    return page


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = OneLineParser(prog="python -m benchmarks.front_page", description="Image of all capstones, for the README.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folders of finished runs, one of each capstone.")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="PNG", help=f"Default: docs/{OUTPUT.name}.")
    options = parser.parse_args(args)
    return report_errors(lambda: draw_page(options.runs, options.output))


def draw_page(runs: Sequence[Path], output: Path) -> None:
    """Draws the panels of `runs`, writes the image and prints its path."""
    with tempfile.TemporaryDirectory() as folder:
        panels = {name: (image, heading) for name, image, heading in (draw_panel(run, Path(folder)) for run in runs)}
    if missing := [name for name in PANELS if name not in panels]:
        raise UserError(f"RUN: none is of {', '.join(missing)}")
    compose([[panels[name] for name in column] for column in COLUMNS]).save(output)
    print(output)


if __name__ == "__main__":
    sys.exit(main())
