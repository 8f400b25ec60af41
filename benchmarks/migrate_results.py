"""Migration of `results/*.json` to renamed metrics, metadata, options and modules.

`python -m benchmarks.migrate_results` renames the keys of each result and the flags, values and modules in its commands, as
`RENAMES` lists them. Values and their order stay; a metric that was stored under two names is kept once. A migrated result
has `"schema": 2` and is left alone by a second run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from benchmarks.results import RESULTS, SCHEMA


@dataclass(frozen=True)
class Renames:
    """Renames of the results whose names match a pattern; all at once, so that two names can be swapped.

    Args:
        keys: Keys of the JSON file: metrics, metadata, and what a benchmark measured.
        flags: Flags in commands, without `--`; with a value behind a space if that value is renamed too.
        words: Other words of commands: modules, names of results, and the first part of `module:function`.
    """

    keys: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def in_both_splits(metrics: dict[str, str]) -> dict[str, str]:
    """Renames of `val/` and `test/` metrics."""
    return {f"{split}/{old}": f"{split}/{new}" for split in ("val", "test") for old, new in metrics.items()}


RENAMES = {
    "*": Renames(
        keys={"notes": "metadata", "deviation": "std", "each": "per_seed"},
        flags={"rounds": "repeats"},
    ),
    "cifar10-*": Renames(
        keys={
            "test/accuracy": "test/accuracy_tta",
            "test/accuracy_plain": "test/accuracy",
            "test/loss": "test/loss_tta",
            "test/calibration_error": "test/calibration_error_tta",
            "rounds": "repeats",
        },
        flags={
            "model.widths": "model.speednet.block_channels",
            "model.depths": "model.speednet.convs_per_block",
            "model.resolutions": "model.progressive_resizing",
            "data.share": "data.subset_fraction",
            "data.test_on": "data.test_split",
        },
    ),
    "seq2seq-*": Renames(
        keys={
            "val/bleu": "val/bleu_greedy_lc",
            "val/exact_match": "val/exact_match_greedy",
            "test/bleu_lower": "test/bleu_lc",
            "test/bleu_tokenized": "test/bleu_moses_lc",
            "test/chrf_lower": "test/chrf_lc",
            "test/bleu_1-8_words": "test/bleu_lc_1-8_words",
            "test/bleu_9-12_words": "test/bleu_lc_9-12_words",
            "test/bleu_13-16_words": "test/bleu_lc_13-16_words",
            "test/bleu_17-20_words": "test/bleu_lc_17-20_words",
            "test/bleu_21+_words": "test/bleu_lc_21+_words",
            "bleu_lower": "bleu_lc",
            "bleu_tokenized": "bleu_moses_lc",
            "chrf_lower": "chrf_lc",
            "decoding_shared": "decoding_parallel",
            "decoding_early_stop": "decoding_early_stopping",
            "neighbours": "knn",
            "count": "k",
            "share": "interpolation",
            "read_seconds": "build_seconds",
        },
        flags={
            "data.batch_tokens": "data.max_tokens",
            "model.length_penalty": "model.decoding.length_penalty",
            "model.positions": "model.transformer.position_embedding",
        },
        words={"benchmarks.neighbours": "benchmarks.knn", "seq2seq-neighbours": "seq2seq-knn"},
    ),
    "bert_sentiment-*": Renames(keys=in_both_splits({"calibrated_error": "calibration_error_scaled"})),
    "gan-*": Renames(
        words={"projects.cifar10.predict": "projects.cifar10.inference"},
        keys={
            **in_both_splits({"frechet": "frechet_distance", "kernel": "kernel_distance"}),
            "rounds_in_a_step": "iterations_per_step",
        },
    ),
    **{
        f"gan-{points}": Renames(keys=in_both_splits({"distance": "total_variation"}))
        for points in ("grid25", "ring8", "classic")
    },
    # the monitored distance was stored under two names
    **{
        f"gan-{images}": Renames(keys=in_both_splits({"distance": "frechet_distance"}))
        for images in ("cifar10", "dcgan", "sample")
    },
    "gan-benchmark": Renames(keys={"pictures": "images", "width": "num_features"}),
    "policy_gradient-*": Renames(
        keys={
            **in_both_splits(
                {
                    "return": "return_mean",
                    "deviation": "return_std",
                    "lowest": "return_min",
                    "length": "episode_length",
                }
            ),
            "envs": "num_envs",
            "hidden": "hidden_dims",
            "rounds": "repeats",
        },
    ),
}
FILES = {"seq2seq-neighbours": "seq2seq-knn"}


def migrate(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Result `name` with its keys and commands renamed; the same object if it is migrated already.

    Raises:
        ValueError: Two keys of one object become the same, but their values differ.
    """
    if result.get("schema", 1) >= SCHEMA:
        return result
    return {"schema": SCHEMA, **renamed(result, renames_of(name))}


def renames_of(name: str) -> Renames:
    """All renames of a result; those of a later pattern override."""
    merged = Renames()
    for pattern, renames in RENAMES.items():
        if fnmatch(name, pattern):
            merged.keys.update(renames.keys)
            merged.flags.update(renames.flags)
            merged.words.update(renames.words)
    return merged


def renamed(value: Any, renames: Renames) -> Any:
    """Part of a result with its keys and commands renamed."""
    if isinstance(value, list):
        return [renamed(item, renames) for item in value]
    if isinstance(value, str):
        return rename_command(value, renames) if value.startswith("python -m ") else value
    if not isinstance(value, dict):
        return value
    new: dict[str, Any] = {}
    for old_key, old in value.items():
        key, item = str(renames.keys.get(old_key, old_key)), renamed(old, renames)
        if new.setdefault(key, item) != item:
            raise ValueError(f"two values of {key}: {new[key]} and {item}")
    return new


def rename_command(command: str, renames: Renames) -> str:
    """Command with its flags, their values, and other words renamed."""
    words = command.split(" ")
    for i, word in enumerate(words):
        if not word.startswith("--"):
            head, colon, tail = word.partition(":")
            words[i] = renames.words.get(head, head) + colon + tail
            continue
        flag, equals, value = word.removeprefix("--").partition("=")
        if (pair := f"{flag} {''.join(words[i + 1 : i + 2])}") in renames.flags:
            words[i], words[i + 1] = f"--{renames.flags[pair]}".split(" ")
        else:
            words[i] = f"--{renames.flags.get(flag, flag)}{equals}{value}"
    return " ".join(words)


def main() -> None:
    """Migrates all results."""
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        migrated = migrate(path.stem, result)
        if migrated is not result:
            target = path.with_stem(FILES.get(path.stem, path.stem))
            target.write_text(json.dumps(migrated, indent=2) + "\n")
            if target != path:
                path.unlink()
            print(target.name)


if __name__ == "__main__":
    main()
