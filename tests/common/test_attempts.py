"""A run that is requeued and dies each time at the same place is not started a fourth time."""

from __future__ import annotations

import pytest

from common.errors import Preempted, UserError
from common.io.attempts import attempt_watched, count_attempt
from common.io.run_dir import RunDir
from toy.module import ToyModule

RESUMED = ["--name", "x", "--resume", "allow", "--max_epochs", "4"]


@pytest.fixture
def dies(monkeypatch):
    """The training dies in the step with this number."""

    def set_step(number: int | None) -> None:
        def die(self, batch, batch_idx):
            if self.trainer.global_step + 1 == number:
                raise RuntimeError("as a defect or the system would end it")

        monkeypatch.setattr(ToyModule, "on_train_batch_start", die)

    return set_step


def test_a_run_that_dies_three_times_at_a_step_is_not_requeued(train, tmp_path, dies):
    train("--name", "x", "--max_epochs", "1")
    dies(4)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="defect"):
            train(*RESUMED)
    ended = train(*RESUMED)
    line = "runs/toy/x has died 3 times between step-00000002.ckpt and the next checkpoint, and is not started again; "
    assert ended.code == 2 and ended.error.startswith(line)
    dies(6)  # it comes further: a new count
    with pytest.raises(RuntimeError, match="defect"):
        train("--name", "x", "--resume", "auto", "--max_epochs", "4")
    dies(None)
    assert train(*RESUMED).code == 0 and not (tmp_path / "runs/toy/x/attempts.json").exists()


def test_one_that_dies_before_its_first_checkpoint_is_not_requeued_either(train, dies):
    dies(1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="defect"):
            train(*RESUMED)
    assert "between its beginning and the next checkpoint" in train(*RESUMED).error


@pytest.mark.parametrize(
    "kind, counts", [(Preempted(None), 0), (UserError("x"), 0), (KeyboardInterrupt(), 0), (OSError(), 1)]
)
def test_an_orderly_end_is_no_attempt(tmp_path, kind, counts):
    run_dir = RunDir(tmp_path)
    for _ in range(5):
        count_attempt(run_dir, requeued=False)
        with pytest.raises(type(kind)), attempt_watched(run_dir):
            raise kind
    assert (tmp_path / "attempts.json").exists() == counts


def test_a_damaged_count_begins_anew(tmp_path):
    (tmp_path / "attempts.json").write_text("[]")
    count_attempt(RunDir(tmp_path), requeued=True)
    assert (tmp_path / "attempts.json").read_text() == '{"its beginning": 1}'
