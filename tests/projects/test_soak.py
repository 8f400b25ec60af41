"""Runs of all capstones that are killed and resumed, see `tests/soak.py`."""

from __future__ import annotations

import pytest

from tests.soak import FLAGS, soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.mark.parametrize("victim, kills", [("run", 50), ("rank", 10), ("launcher", 10)])
def test_runs_that_are_killed_end_like_runs_without_a_kill(tmp_path, victim, kills):
    tried = soak(kills, seed=0, victim=victim, projects=sorted(FLAGS), folder=tmp_path)
    assert tried["kills"] == kills and all(tried[project] == kills // 5 for project in FLAGS)
