"""Vocabulary: words that have a standard term in the field stay out of code, texts and tests (see CONTRIBUTING.md)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# the migration of results names what was renamed
# and the synthetic translations speak of pictures (Bilder)
EXCEPT = {
    ROOT / "projects/seq2seq/synthetic.py",
    Path(__file__).resolve(),
    ROOT / "benchmarks/migrate_results.py",
    ROOT / "tests/benchmarks/test_migrate_results.py",
}
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
FILES = [
    path for path in map(ROOT.joinpath, TRACKED) if path.suffix in (".py", ".md", ".yaml", ".toml") and path not in EXCEPT
]
# what is replaced -> the term; each is a regular expression for whole words, in which an underscore separates words too
REPLACED = {
    r"pictures?": "image (data), plot (what a run draws)",
    r"(?:val|test|data|rank|train)_shares?|shares? of": "fraction of a whole, shard of the data of a process",
    r"slopes?": "gradient",
    r"rooms": "file, module, package",
    r"by heart": "memorize, overfit",
    r"players?|judge[sd]?|told": "network, discriminate, the thing itself",
    r"tame|tames|settle[sd]?": "average_and_clip, update_bn",
    r"cent(?:re|red|res)|colou?red_ground|colours?|coloured|grey|labelled|neighbours?|licence": "American spelling",
    r"\w*(?:normalis|standardis|optimis|initialis|generalis|regularis)\w*": "American spelling: -ize",
    r"means_sample|holds_a_run|find_good|newest_first|is_log_step|take_in|share_out|quicken_dropout": "see CONTRIBUTING.md",
    r"clip_ratio|value_weight|clip_norm|likeliest action|RunningScale|following_values": "CleanRL's names",
    r"OwnHead|renewed_layers|calibrated_error|accuracy_plain|batch_tokens|with_room": "see CONTRIBUTING.md",
}


@pytest.mark.parametrize("words", REPLACED, ids=lambda words: words[:24])
def test_a_replaced_word_does_not_come_back(words):
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9])", re.IGNORECASE)
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, f"say {REPLACED[words]!r}:\n" + "\n".join(found[:40])
