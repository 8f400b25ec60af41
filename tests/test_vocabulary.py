"""Vocabulary: words that have a standard term in the field stay out of code, texts and tests (see CONTRIBUTING.md)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    path
    for path in map(Path, subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines())
    if path.suffix in (".py", ".md", ".yaml", ".toml") and path != Path(__file__).relative_to(ROOT)
]
# what is replaced -> the term; each is a regular expression for whole words, in which an underscore separates words too
REPLACED = {
    r"pictures?": "image (data), plot (what a run draws)",
    r"shares?": "fraction of a whole, shard of the data of a process",
    r"slopes?": "gradient",
    r"rooms?": "file, module, package",
    r"by heart": "memorize, overfit",
    r"octaves? of waves|(?:squared|unit)_slopes?": "Fourier features, gradient norm",
    r"players?|judged?|judges|rounds_": "network, discriminate, iteration",
    r"told": "the thing itself: class_labels, action_history",
    r"tame\w*|settle[sd]?": "average_and_clip_gradients, update_bn",
    r"zero_centred|centred|centre[sd]?|colou?red_ground|colours?|coloured|grey": "American spelling: centered, color, gray",
    r"\w*normalis\w*|\w*standardis\w*|\w*optimis\w*|\w*initialis\w*|labelled|neighbours?\w*|licence": "American spelling",
    r"means_sample|holds_a_run|find_good|newest_first|is_log_step|take_in|without_ddp_sync|share_out|quicken_dropout": "see CONTRIBUTING.md",
    r"clip_ratio|value_weight|clip_norm|likeliest action|RunningScale|following_values": "CleanRL's names",
    r"OwnHead|renew\w*|calibrated_error|accuracy_plain|batch_tokens|with_room|around_attention": "see CONTRIBUTING.md",
}
# where a word of the list is right in its own field
ALLOWED = re.compile(
    r"shares? (?:memory|weights|a|the|one|its|all|them|their|nothing)|(?:can|must|to|that|they|all) shares?\b", re.IGNORECASE
)


@pytest.mark.parametrize("words", REPLACED, ids=lambda words: words[:24])
def test_a_replaced_word_does_not_come_back(words):
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9])", re.IGNORECASE)
    found = []
    for path in FILES:
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if pattern.search(ALLOWED.sub("", line)):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert not found, f"say {REPLACED[words]!r}:\n" + "\n".join(found[:40])
