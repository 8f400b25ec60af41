"""Progress: two commands at once, later and earlier versions of the course."""

import json

import pytest

from foundations import catalog
from foundations.progress import Entry, Progress, load_progress
from foundations.quiz import review


def test_two_commands_at_once_keep_what_the_other_saved(tmp_path):
    Progress(tmp_path, seed=7).save()
    first, second = load_progress(tmp_path), load_progress(tmp_path)
    first.entry("dataset").passed = "a"
    first.entry("stuck_loss").found += ["flow"]
    first.review.append(("predict_shapes", "f", 1))
    second.entry("vocabulary").passed = "b"
    second.entry("dataset").hints = 2
    second.entry("stuck_loss").found += ["frozen"]
    second.review.append(("predict_sizes", "g", 2))
    first.save()
    second.save()
    assert (
        load_progress(tmp_path).entries
        == second.entries
        == {
            "dataset": Entry(passed="a", hints=2),
            "vocabulary": Entry(passed="b"),
            "stuck_loss": Entry(found=["frozen", "flow"]),
        }
    )
    assert load_progress(tmp_path).review == [("predict_shapes", "f", 1), ("predict_sizes", "g", 2)]
    first.review.clear()
    first.entry("dataset").passed = ""
    first.save()
    assert load_progress(tmp_path).review == [("predict_sizes", "g", 2)] and load_progress(tmp_path).seed == 7
    assert load_progress(tmp_path).entry("dataset") == Entry(hints=2)


def test_what_a_later_version_knows_is_kept(tmp_path):
    progress = Progress(tmp_path)
    progress.entry("gather").hints = 1
    progress.save()
    path = tmp_path / ".progress.json"
    content = json.loads(path.read_text())
    content["entries"]["gather"]["stars"] = 5
    content["entries"]["of_a_later_version"] = {"passed": "c"}
    content["more"] = True
    path.write_text(json.dumps(content))
    progress = load_progress(tmp_path)
    assert progress.entry("gather") == Entry(hints=1)
    progress.entry("gather").hints = 2
    progress.save()
    content["entries"]["gather"]["hints"] = 2
    again = json.loads(path.read_text())
    assert again["entries"]["gather"] == content["entries"]["gather"] and again["more"] is True
    assert again["entries"]["of_a_later_version"]["passed"] == "c"


def write_entries(folder, entries, asked=()):
    (folder / ".progress.json").write_text(json.dumps({"entries": entries, "review": list(asked), "seed": 1}))


@pytest.mark.parametrize("there", ["", "stub", "written"])
def test_the_file_of_a_renamed_exercise_goes_with_its_progress(tmp_path, monkeypatch, there):
    from foundations.progress import digest
    from foundations.stubs import make_stub

    monkeypatch.setattr("foundations.progress.RENAMED", {"images": "dataset"})
    old, new = tmp_path / "data" / "images.py", tmp_path / "data" / "dataset.py"
    old.parent.mkdir()
    old.write_text("mine")
    if there:
        new.write_text(make_stub("dataset") if there == "stub" else "other")
    write_entries(tmp_path, {"images": {"passed": digest(old)}})
    assert load_progress(tmp_path).has_passed("dataset") == (there != "written")
    assert old.exists() == (there == "written") and new.read_text() == ("other" if there == "written" else "mine")


def test_questions_that_are_no_longer_there_are_forgotten(tmp_path, capsys):
    name = next(name for name in catalog.all_exercises() if catalog.is_prediction(name))
    write_entries(tmp_path, {}, [("predict_gone", "f", 1), ("gather", "f", 1), (name, "gone", 1)])
    progress = load_progress(tmp_path)
    assert progress.review == [(name, "gone", 1)]
    assert review(progress, []) == 0 and "No question waits" in capsys.readouterr().out
    assert json.loads((tmp_path / ".progress.json").read_text())["review"] == []
