"""Plain install: hides what only the extras bring, then runs every command.

`python tests/plain_install.py` in an empty folder; `test_plain_install.py` starts it.
"""

from __future__ import annotations

import ast
import importlib.machinery
import io
import re
import runpy
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import walk_packages

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CPU = "--config plain.yaml --accelerator cpu --precision 32-true --max_epochs 1 --trainer.limit_train_batches 1"
CPU += " --trainer.limit_val_batches 1 --trainer.limit_test_batches 1 --data.source sample"
TRAIN = f"{CPU} --name x"
TINY_BERT = "--model.checkpoint tiny --model.encoder.model_type bert --model.encoder.hidden_size 8"
TINY_BERT += " --model.encoder.num_hidden_layers 1 --model.encoder.num_attention_heads 2"
EXTRA = 'run `pip install "lightning-capstones[{}]"`'
# every command of the projects and of common: its module, arguments, exit code, and what it prints
COMMANDS = [
    ("projects.blank.train", TRAIN, 0, "test/r2"),
    ("projects.blank.evaluate", "--checkpoint BLANK --accelerator cpu", 0, "test/r2"),
    ("projects.blank.predict", "rows.csv --checkpoint BLANK", 0, ""),
    ("projects.cifar10.train", f"{TRAIN} --model.speednet.block_channels [8,8,8] --data.batch_size 8", 0, "test/accuracy"),
    ("projects.cifar10.evaluate", "--checkpoint CIFAR10 --accelerator cpu", 0, "test/accuracy"),
    ("projects.cifar10.predict", "image.png --checkpoint CIFAR10", 0, "%"),
    ("projects.gan.train", f"{TRAIN.replace('sample', 'ring8')} --model.mlp.hidden_dim 8", 0, "test/"),
    ("projects.gan.evaluate", "--checkpoint GAN --accelerator cpu", 0, "test/"),
    ("projects.gan.generate", "--checkpoint GAN", 0, "samples.png"),
    ("projects.policy_gradient.train", f"{TRAIN} --data.eval_episodes 2 --data.test_episodes 2", 0, "test/return_mean"),
    ("projects.policy_gradient.evaluate", "--checkpoint POLICY_GRADIENT --accelerator cpu", 0, "test/return_mean"),
    ("projects.policy_gradient.play", "--checkpoint POLICY_GRADIENT --episodes 1", 0, ""),
    ("projects.policy_gradient.plots", "runs/policy_gradient/x", 0, "curves.png"),
    ("projects.seq2seq.train", f"{TRAIN} --model.recurrent.hidden_dim 8 --model.decoding.max_length 5", 0, "test/bleu"),
    ("projects.seq2seq.evaluate", "--checkpoint SEQ2SEQ --accelerator cpu", 0, "test/bleu"),
    ("projects.seq2seq.translate", "rows.csv --checkpoint SEQ2SEQ --max_length 5", 0, ""),
    ("projects.bert_sentiment.train", f"{TRAIN} {TINY_BERT}", 0, "test/accuracy"),
    ("projects.bert_sentiment.evaluate", "--checkpoint BERT_SENTIMENT --accelerator cpu", 0, "test/accuracy"),
    ("projects.bert_sentiment.predict", "good --checkpoint BERT_SENTIMENT", 0, "%"),
    *(
        (f"projects.{name}.export", f"--to of_{name} --checkpoint {name.upper()} --weights_only", 0, f"written to of_{name}")
        for name in ("blank", "cifar10", "gan", "policy_gradient", "seq2seq", "bert_sentiment")
    ),
    ("common.compare", "runs", 0, "seq2seq"),
    ("common.scaffold", "my_task --from blank --to new", 0, "my_task"),
    ("common.multirun", "blank --seeds 0 1 --dry_run", 0, "projects.blank.train"),
    # what needs an extra says which
    ("common.multirun", "blank --search recipes/sweep.yaml --trials 1", 2, EXTRA.format("search")),
    ("projects.bert_sentiment.export", "--to onnx --checkpoint BERT_SENTIMENT", 2, EXTRA.format("onnx")),
    ("projects.seq2seq.export", "--to engine --checkpoint SEQ2SEQ", 2, EXTRA.format("ctranslate2")),
    ("projects.bert_sentiment.train", f"{CPU} --model.checkpoint tiny --model.lora_rank 2", 2, EXTRA.format("lora")),
    ("projects.bert_sentiment.train", f"{CPU} --model.checkpoint minilm", 2, EXTRA.format("minilm")),
    ("projects.seq2seq.translate", "rows.csv --checkpoint SEQ2SEQ --datastore sample", 2, EXTRA.format("knn")),
    ("projects.policy_gradient.train", CPU.replace("sample", "LunarLander-v3"), 2, EXTRA.format("box2d")),
    ("projects.cifar10.demo", "--checkpoint CIFAR10", 2, EXTRA.format("demo")),
    ("projects.seq2seq.demo", "--checkpoint SEQ2SEQ", 2, EXTRA.format("demo")),
    ("projects.bert_sentiment.demo", "--checkpoint BERT_SENTIMENT", 2, EXTRA.format("demo")),
    ("projects.gan.demo", "--checkpoint GAN", 2, EXTRA.format("demo")),
    ("projects.policy_gradient.demo", "--checkpoint POLICY_GRADIENT", 2, EXTRA.format("demo")),
    ("projects.demo", "--no_browser", 2, EXTRA.format("demo")),
    (
        "projects.gan.train",
        "--config recipes/images.yaml --data.source sample --data.eval_samples 9 --model.features inception"
        " --model.features_checkpoint rows.csv",
        2,
        EXTRA.format("fid"),
    ),
]


def base_distributions() -> set[str]:
    """Distributions that `pip install -e .` brings, without extras."""
    return installed(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def installed(requirements: list[str]) -> set[str]:
    """Distributions that pip installs for `requirements`, as far as they are here."""
    todo = [Requirement(line) for line in requirements]
    seen: set[str] = set()
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            requires = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(canonicalize_name(requirement.name))
        extras = ["", *requirement.extras]
        lines = map(Requirement, requires)
        todo += [line for line in lines if line.marker is None or any(line.marker.evaluate({"extra": e}) for e in extras)]
    return found


def top_level_imports(body: list[ast.stmt]) -> Iterator[str]:
    """Packages that a module imports when it is imported itself."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
        elif not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            yield from top_level_imports([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


class PlainFinder(importlib.machinery.PathFinder):
    """Finder that does not find what the extras bring, modules or metadata."""

    base = base_distributions()
    owners = metadata.packages_distributions()  # of each importable package

    @classmethod
    def has(cls, package: str) -> bool:
        """Whether a package is there without extras too."""
        return any(canonicalize_name(owner) in cls.base for owner in cls.owners.get(package, ()))

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        package = fullname.partition(".")[0]
        return super().find_spec(fullname, path, target) if package not in cls.owners or cls.has(package) else None

    @classmethod
    def find_distributions(cls, *args, **options):
        return (found for found in super().find_distributions(*args, **options) if canonicalize_name(found.name) in cls.base)


def hide_extras() -> None:
    """Hides the packages of the extras from all imports of this process."""
    sys.meta_path[:] = [PlainFinder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]


def run(module: str, arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m module`; words in capitals stand for a project's best checkpoint."""
    checkpoints = {path.parts[1].upper(): str(path) for path in Path("runs").glob("*/x/checkpoints/best-*.ckpt")}
    sys.argv = [module, *(checkpoints.get(word, word) for word in arguments.split())]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, output.getvalue()


def main() -> int:
    """Runs all commands; returns the number of those that went wrong."""
    from PIL import Image

    hide_extras()
    Path("plain.yaml").write_text("seed: 0\n")
    Path("rows.csv").write_text("0.5,0.5\n")
    Image.new("RGB", (32, 32)).save("image.png")
    wrong = 0
    for module, arguments, expected, text in COMMANDS:
        code, output = run(module, arguments)
        errors = re.findall("^error: .*", output, re.MULTILINE)
        if code != expected or text not in output or (expected and len(errors) != 1):
            print(f"python -m {module} {arguments}: exit code {code}, not {expected} with {text!r}\n{output}")
            wrong += 1
    packages = [import_module(name) for name in ("common", "projects")]
    for package in packages:
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
