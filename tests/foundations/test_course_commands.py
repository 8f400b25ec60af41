"""Commands of the course, as a learner uses them."""

from pathlib import Path

import pytest

from foundations import catalog, cli
from foundations.catalog import CHAPTERS, load_exercise, solution_path
from foundations.outcome import Outcome
from foundations.progress import load_progress
from foundations.sandbox import SandboxResult
from foundations.stubs import make_stub

GATHER = "gather"


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start"]) == 0
    return tmp_path / "my_foundations"


def write_solution(folder, name, change=lambda text: text):
    path = folder / "tensors" / f"{name}.py"
    path.write_text(change(solution_path(name).read_text()))
    return path


def test_map_without_a_folder_says_how_to_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(len(catalog.all_exercises())) in lines[0] and any("start" in line for line in lines)
    assert all(chapter.name in "\n".join(lines) for chapter in CHAPTERS)


def test_start_never_overwrites(folder, capsys):
    path = folder / "tensors" / f"{GATHER}.py"
    path.write_text("mine")
    assert cli.main(["start"]) == 0
    assert path.read_text() == "mine" and "0 exercises written" in capsys.readouterr().out


def test_passed_stays_passed_until_the_file_changes(folder, capsys):
    path = write_solution(folder, GATHER)
    assert cli.main(["check", GATHER]) == 0
    out = capsys.readouterr().out
    assert "PASSED" in out and "Used in: policy_gradient_loss, projects/policy_gradient/losses.py:" in out
    assert load_progress(folder).has_passed(GATHER)
    path.write_text(path.read_text() + "# more\n")
    assert load_progress(folder).changed_since(GATHER)
    assert cli.main(["check"]) == 0 and load_progress(folder).has_passed(GATHER)
    path.write_text(path.read_text().replace("return ", "return 2 * "))
    assert cli.main(["check", GATHER]) == 1 and not load_progress(folder).has_passed(GATHER)


@pytest.mark.parametrize(
    "line, says",
    [
        ("import sys; sys.exit(0)", "sys.exit(0)"),
        ("import os; os._exit(0)", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("return torch.zeros(10**12)", "raises RuntimeError"),
        ("return (", "cannot be imported: SyntaxError"),
        ("print('x' * 10**7); return torch.zeros(2)", "FAILED"),
    ],
)
def test_whatever_the_code_does_the_check_survives(folder, capsys, line, says):
    write_solution(folder, GATHER, lambda text: text.partition("    return")[0] + f"    {line}\n")
    assert cli.main(["check", GATHER]) == 1
    out = capsys.readouterr().out
    assert says in out and len(out.splitlines()) <= 20


@pytest.mark.slow
def test_endless_loop_is_ended(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli, "SECONDS", {False: 6.0, True: 6.0})
    write_solution(folder, GATHER, lambda text: text.partition("    return")[0] + "    while True: pass\n")
    assert cli.main(["check", GATHER]) == 1
    assert "took longer than 6 s" in capsys.readouterr().out


def test_what_the_code_prints_is_shown_when_it_passes(folder, capsys):
    write_solution(folder, GATHER, lambda text: text + "\nprint('rows', 7)\n")
    assert cli.main(["check", GATHER]) == 0
    out = capsys.readouterr().out
    assert "PASSED" in out.splitlines()[0] and "  printed: rows 7" in out.splitlines()


def test_patched_torch_does_not_pass(folder, capsys):
    patch = "torch.equal = torch.allclose = torch.isclose = lambda *a, **k: torch.ones(1, dtype=torch.bool)\n"
    write_solution(folder, GATHER, lambda text: text.replace("return ", "return 2 * ") + patch)
    assert cli.main(["check", GATHER]) == 1


def test_hints_come_one_by_one_and_are_counted(folder, capsys):
    for count in (1, 2, 3, 3):
        assert cli.main(["hint", GATHER]) == 0
        assert len(capsys.readouterr().out.splitlines()) == count
    assert load_progress(folder).entry(GATHER).hints == 3


def test_solution_is_shown_after_passing_or_giving_up(folder, capsys):
    assert cli.main(["show", GATHER]) == 2
    assert cli.main(["show", GATHER, "--give_up"]) == 0
    assert "gather_scores" in capsys.readouterr().out and load_progress(folder).entry(GATHER).shown


def test_reset_keeps_what_was_written(folder):
    path = write_solution(folder, GATHER)
    assert cli.main(["reset", GATHER]) == 0
    assert "NotImplementedError" in path.read_text()
    assert path.with_suffix(".py.bak").read_text() == solution_path(GATHER).read_text()


def test_progress_survives_a_renamed_and_an_inserted_exercise(folder, monkeypatch):
    write_solution(folder, GATHER)
    assert cli.main(["check", GATHER]) == 0
    text = (folder / ".progress.json").read_text().replace(f'"{GATHER}"', '"gather_by_index"')
    (folder / ".progress.json").write_text(text)
    monkeypatch.setattr("foundations.progress.RENAMED", {"gather_by_index": GATHER})
    (folder / "tensors" / "masked_mean.py").unlink()  # as if it were new
    assert cli.main(["start"]) == 0
    assert load_progress(folder).has_passed(GATHER) and (folder / "tensors" / "masked_mean.py").exists()


def test_check_all_finds_out_what_is_solved(folder):
    write_solution(folder, GATHER)
    (folder / ".progress.json").unlink()
    assert cli.main(["check", "--all"]) == 0 and load_progress(folder).has_passed(GATHER)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["check", "gathr"], "did you mean gather?"),
        (["--folder", "nowhere", "list"], "no such folder"),
        (["frobnicate"], "invalid choice"),
        (["hint", "predict_shapes"], "no hints"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments, says):
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code == 2 and says in error and len(error.splitlines()) == 1


def test_damaged_progress_is_one_line_and_its_copy_takes_its_place(folder, capsys):
    assert cli.main(["hint", GATHER]) == 0
    for kept in (".progress.json.bak", ".progress.json.bak2"):
        (folder / ".progress.json").write_text("{")
        assert cli.main(["list"]) == 0
        error = capsys.readouterr().err
        assert kept in error and len(error.splitlines()) == 1 and (folder / kept).read_text() == "{"
        assert load_progress(folder).entry(GATHER).hints == 1


def test_damaged_progress_without_a_copy_says_what_is_lost(folder, capsys):
    (folder / ".progress.json").write_text('{"entries": {"gather": {"hints": "x"}}, "review": [], "seed": 1}')
    (folder / ".progress.copy.json").unlink()
    assert cli.main(["list"]) == 2
    error = capsys.readouterr().err
    assert "check --all" in error and "the answered predictions" in error and (folder / ".progress.json.bak").exists()
    assert cli.main(["start"]) == 0 and cli.main(["list"]) == 0


def test_start_leaves_a_gitignore_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("mine\n")
    assert cli.main(["start", "--to", "."]) == 0
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_an_unchanged_file_stays_passed_after_a_slow_check(folder, capsys, monkeypatch):
    path = write_solution(folder, GATHER)
    right = SandboxResult(Outcome(passed=["all"], link=load_exercise(GATHER).link, why="because"), "", "")
    slow = SandboxResult(None, "time", "")
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: right)
    assert cli.main(["check", GATHER]) == 0
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: slow)
    capsys.readouterr()
    assert cli.main(["check", GATHER]) == 1
    assert "it stays passed" in capsys.readouterr().out and load_progress(folder).has_passed(GATHER)
    path.write_text(path.read_text() + "# more\n")
    assert cli.main(["check", GATHER]) == 1
    assert "stays" not in capsys.readouterr().out and not load_progress(folder).has_passed(GATHER)


def test_untouched_stubs_are_unwritten_after_the_solution_has_changed(folder, capsys, monkeypatch):
    path = folder / "tensors" / f"{GATHER}.py"
    stub = path.read_text()
    later = folder.parent / "later.py"
    later.write_text(solution_path(GATHER).read_text().replace("Args:", "Of a later version.\n\n    Args:", 1))
    places = {GATHER: later}
    monkeypatch.setattr("foundations.stubs.solution_path", lambda name: places.get(name) or solution_path(name))
    assert make_stub(GATHER) != stub
    assert cli.main(["check"]) == 0 and "Nothing to check" in capsys.readouterr().out
    path.write_text(stub + "# mine\n")
    assert cli.is_written(load_progress(folder), GATHER)


def test_what_cannot_be_saved_is_one_line_after_the_outcome(folder, capsys, monkeypatch):
    slow = SandboxResult(None, "time", "")
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: slow)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert cli.main(["check", GATHER]) == 2
    captured = capsys.readouterr()
    assert "took longer" in captured.out and "No space left" in captured.err and len(captured.err.splitlines()) == 1
    assert not list(folder.glob("*.tmp"))


def test_a_slip_of_the_fingers_is_no_answer_and_a_question_mark_skips(folder, monkeypatch, capsys):
    typed = iter(["(4,", "b", ""] + ["?"] * 6)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert cli.main(["check", "predict_shapes"]) == 1
    assert capsys.readouterr().out.count("Not an answer to") == 3 and next(typed, None) is None
    assert cli.main(["check", "predict_shapes", "--answers", "b"]) == 2
    assert "is no answer to" in capsys.readouterr().err


def test_a_challenge_alone_is_not_said_to_complete_the_chapter(folder, capsys):
    write_solution(folder, "patchify")
    assert cli.main(["check", "patchify"]) == 0
    out = capsys.readouterr().out
    assert "COMPLETE" not in out and "its challenge is solved" in out and "Open in it: predict_shapes" in out


@pytest.mark.parametrize("name", ["slicing", "scatter_add", "gan_step"])
def test_source_names_the_file_that_holds_the_code(name, capsys):
    assert cli.main(["source", name]) == 0
    out = capsys.readouterr().out
    path, _, line = out.splitlines()[0].rpartition(", ")[2].rpartition(":")
    shown = next(text for text in out.splitlines()[1:] if text.strip())
    assert shown.strip().split(maxsplit=1)[1] == Path(path).read_text().splitlines()[int(line) - 1].strip()


def test_after_the_last_hint_comes_the_solution(folder, capsys):
    for _ in range(4):
        cli.main(["hint", GATHER])
    assert cli.main(["check", GATHER]) == 1
    assert "show gather --give_up" in capsys.readouterr().out
