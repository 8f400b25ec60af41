"""Broken trainings: every case has its faults and no other change, is caught, and its file can be mended."""

import ast
import random

import pytest

from foundations import cases, cli
from foundations.catalog import CASES, ROOT, load_exercise, solution_path
from foundations.diagnosis import report_lines, validation_again, validation_in_eval_mode
from foundations.faults import NAMES, PLANTS, SIZES, all_cases, draw_case, faults_to_find, find_case, number_in, plant
from foundations.outcome import Outcome
from foundations.progress import Progress, load_progress
from foundations.running import data_of, data_seed, run_case
from foundations.sandbox import SandboxResult, run_sandboxed
from foundations.signs import CURVES, REPORTS
from foundations.stubs import make_stub
from foundations.trainings import Seen, load_training, observe

EVERY = [(name, case.number) for name in sorted(CASES) for case in all_cases(name)]


def test_the_triples_hold_the_twelve_faults():
    triples = [set(PLANTS[name]) for name in CASES - {"two_faults"}]
    assert all(len(faults) == 3 for faults in triples) and set().union(*triples) == set(NAMES) and len(NAMES) == 12
    assert set(CURVES) == set(REPORTS) == set(NAMES) and set(PLANTS["two_faults"]) <= set(NAMES)


@pytest.mark.parametrize("name, number", EVERY)
def test_a_broken_file_is_the_solution_but_for_its_faults(name, number):
    case = all_cases(name)[number - 1]
    text = make_stub(name, number)
    assert find_case(name, text) == case
    title, _, code = text.partition("\n# %%\n")
    solution = solution_path(name).read_text().partition('"""\n\n')[2]
    compile(code, name, "exec")
    removed, added = set(solution.splitlines()) - set(code.splitlines()), set(code.splitlines()) - set(solution.splitlines())
    assert 0 < len(removed | added) <= 16, "the faults and a size"
    assert "#" not in code and not any(
        word in title for fault in case.faults for word in NAMES[fault].split() if len(word) > 8
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_draws_go_on_until_all_faults_are_found(name):
    for seed in range(5):
        found: list[str] = []
        for _ in range(3):
            case = all_cases(name)[draw_case(name, seed, found) - 1]
            assert case.number == draw_case(name, seed, found) and not set(case.faults) & set(found)
            found += case.faults
            if len(found) >= faults_to_find(name):
                break
        assert len(found) == faults_to_find(name)
    assert len({draw_case(name, seed, []) for seed in range(20)}) > 3, "the learner's seed decides"


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start"]) == 0
    return tmp_path / "my_foundations"


def mend(path, name):
    """Writes the solution below the heading, as a learner who has mended the file."""
    heading = path.read_text().partition("# %%\n")
    path.write_text(heading[0] + heading[1] + solution_path(name).read_text())


@pytest.mark.parametrize("name, rounds", [("unstable_loss", 3), ("two_faults", 1)])
def test_an_exercise_is_passed_when_all_its_faults_were_found(folder, capsys, monkeypatch, name, rounds):
    right = SandboxResult(Outcome(passed=["all"], link=load_exercise(name).link, why="because"), "", "")
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: right)
    path = folder / "debugging" / f"{name}.py"
    for number in range(1, rounds + 1):
        assert not load_progress(folder).has_passed(name)
        broken = path.read_text()
        mend(path, name)
        assert cli.main(["check", name]) == 0
        out = capsys.readouterr().out
        assert ("PASSED" in out) == (number == rounds) and ("MENDED" in out) == (number < rounds)
        if number < rounds:
            assert f"Found {number} of 3" in out and f"reset {name}" in out
            assert cli.main(["check", name]) == 0 and f"Found {number} of 3" in capsys.readouterr().out, "not counted twice"
            assert cli.main(["reset", name]) == 0
            assert find_case(name, path.read_text()).faults != find_case(name, broken).faults
    assert load_progress(folder).has_passed(name)


def test_a_mended_file_with_another_number_finds_nothing_more(folder, capsys, monkeypatch):
    name = "unstable_loss"
    right = SandboxResult(Outcome(passed=["all"], link=load_exercise(name).link, why="because"), "", "")
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: right)
    path = folder / "debugging" / f"{name}.py"
    mend(path, name)
    drawn = find_case(name, path.read_text())
    assert cli.main(["check", name]) == 0
    for case in all_cases(name):
        path.write_text(path.read_text().replace(f"# Case {number_in(path.read_text())}.", f"# Case {case.number}."))
        capsys.readouterr()
        assert cli.main(["check", name]) == 0
        assert ("it does not count" in capsys.readouterr().out) == (case != drawn)
    assert load_progress(folder).entry(name).found == list(drawn.faults) and not load_progress(folder).has_passed(name)


def test_questions_come_before_the_code_and_never_say_the_answer(folder, capsys, monkeypatch):
    monkeypatch.setattr("foundations.diagnosis.report_lines", lambda *args: ["the report"])
    name = "unstable_loss"
    path = folder / "debugging" / f"{name}.py"
    fault = find_case(name, path.read_text()).faults[0]
    wrong = str(1 + list(NAMES).index("leak"))
    right = str(1 + list(NAMES).index(fault))
    assert cli.main(["check", name, "--answers", wrong, "?"]) == 1
    out = capsys.readouterr().out
    assert f"Not that. {NAMES['leak']}: {CURVES['leak']}" in out and "Left open" in out and "Right" not in out
    assert (
        out.index("train/loss")
        < out.index("12 ")
        < out.index("the report")
        < out.index(f"Now open {path.relative_to(folder.parent)}")
    )
    assert cli.main(["check", name, "--answers", wrong, right]) == 1
    assert f"Right: {REPORTS[fault]}" in capsys.readouterr().out
    assert load_progress(folder).entry(name).found == [], "found is what was mended"


def test_the_report_is_what_debug_prints(tmp_path):
    case = next(case for case in all_cases("stuck_loss") if case.faults == ("frozen",))
    run, _ = run_case("stuck_loss", case)
    lines = report_lines("stuck_loss", case, run)
    assert any("2 of 12 parameters are trainable" in line for line in lines)
    assert any("weights never changed" in line for line in lines) and any(
        line.startswith("--debug shapes: 32x2") for line in lines
    )


def test_the_outputs_of_the_report_are_of_the_files_own_batch():
    for name, size in (("unstable_loss", 10), ("wont_generalize", 16)):
        case = all_cases(name)[0]
        lines = report_lines(name, case, run_case(name, case)[0])
        assert any(line.startswith(f"outputs of the first batch: ({size}, ") for line in lines)
        assert any(line.startswith(f"--debug shapes: {size}x") for line in lines)


@pytest.mark.parametrize("name, number", [item for item in EVERY if item[0] in ("wont_generalize", "two_faults")])
def test_the_report_tells_an_evaluation_in_training_mode(name, number):
    case = all_cases(name)[number - 1]
    run, _ = run_case(name, case)
    reported, again = list(run.history.values())[1][-1], validation_in_eval_mode(name, case, run)
    if "eval_mode" in case.faults:
        assert abs(reported - again) > (3 if name == "wont_generalize" else 0.05)
    else:
        assert again == pytest.approx(reported, rel=1e-4)


@pytest.mark.parametrize("case", [case for case in all_cases("wont_generalize") if case.faults == ("shift",)])
def test_shifted_labels_end_far_above_a_sound_network(case):
    run, _ = run_case("wont_generalize", case)
    data, seed = data_of("wont_generalize", data_seed("wont_generalize", case)), data_seed("wont_generalize", case)
    sound = observe(load_training("wont_generalize", case.changes[-1:]), *data, seed, rows_of=data[0])
    assert (
        run.last_losses(7) > 2.5 * sound.last_losses(7) and run.history["val/loss"][-1] > 5 * sound.history["val/loss"][-1]
    )
    assert "end far above what a sound network reaches" in CURVES["shift"]


def test_words_are_not_quoted_as_values():
    from foundations.comparing import Failure, check_that, describe

    shown = []
    for expected, got in (("over 0.55", Seen("0.48")), ("many", 0), ("abc", "abd"), ("abc", None)):
        with pytest.raises(Failure) as failure:
            check_that(False, "reason", expected, got)
        shown.append(describe(failure.value.expected))
    assert shown == ["over 0.55", "many", "'abc'", "'abc'"]


@pytest.mark.parametrize("name", sorted({*CASES, "competition"}))
def test_checks_show_what_they_got(name):
    """What is expected is never shown beside `got None`, for want of a value."""
    tree = ast.parse(next(ROOT.glob(f"exercises/*/{name}.py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("check_that", "Failure"):
            given = (
                dict(zip(("", "", "expected", "got"), node.args[:4], strict=False)) if node.func.id == "check_that" else {}
            )
            given |= {keyword.arg: keyword.value for keyword in node.keywords}
            assert "expected" not in given or "got" in given, ast.unparse(node)


def test_no_check_shows_words_in_quotes_that_it_made_itself():
    for path in [*ROOT.glob("exercises/*/*.py"), ROOT / "loop_checks.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("check_that", "Failure"):
                got = [*node.args[3:4], *[keyword.value for keyword in node.keywords if keyword.arg == "got"]]
                assert not any(isinstance(value, ast.JoinedStr) for value in got), (path, ast.unparse(node))


def test_curves_are_drawn_whatever_their_values():
    for curve in ([1.0, float("nan")], [1e9, 1e-9, float("inf")], [float("nan")], [2.0], [0.0, 0.0]):
        lines = cases.plot_lines({"train/loss": curve, "val/loss": [0.5]})
        assert len(lines) == cases.PLOT_ROWS + 2 and ("not finite" in lines[-1]) == any(
            v != v or v == float("inf") for v in curve
        )


def test_a_flat_loss_is_drawn_flat_above_zero():
    lines = cases.plot_lines({"train/loss": [1.60, 1.62, 1.61, 1.60], "val/loss": [1.61, 1.61]})
    assert lines[0].startswith("     1.62 |@@") and lines[10].startswith("        0 |")
    assert not any(line.split("|")[1].strip() for line in lines[1:11]) and "@ both" in lines[12]


def test_losses_and_accuracies_have_axes_of_their_own():
    lines = cases.plot_lines({"train/loss": [24.0, 12.0], "val/accuracy": [0.0, 1.0]})
    assert lines[0].startswith("       24 |·") and lines[0].endswith("o| 1") and lines[10].endswith("| 0")
    assert "train/loss (left axis)  o val/accuracy (right axis)" in lines[12]
    assert "axis" not in cases.plot_lines({"train/loss": [2.0], "val/loss": [1.0]})[-1]


@pytest.mark.parametrize("epochs", [1, 6, 15, 40, 200])
def test_the_epochs_stand_where_they_begin(epochs):
    curve = [float(i % 2) for i in range(epochs)]
    *_, ticks, _ = cases.plot_lines({"train/loss": curve + curve, "val/loss": curve})
    assert ticks.startswith("    epoch  1") and len(ticks) < 95
    numbers = [int(number) for number in ticks.split()[1:]]
    assert numbers[0] == 1 and len(numbers) >= min(epochs, 10)
    for number in numbers:
        column = ticks.index(f" {number} " if number < numbers[-1] else f" {number}", 9) + 1 - len("    epoch  ")
        assert 0 <= column / cases.PLOT_COLUMNS - (number - 1) / epochs < 1 / cases.PLOT_COLUMNS


@pytest.mark.parametrize("name", ["unstable_loss", "wont_generalize", "two_faults"])
def test_a_reset_after_all_faults_brings_another_variant_for_practice(folder, capsys, name):
    path, progress = folder / "debugging" / f"{name}.py", load_progress(folder)
    progress.entry(name).found += ["zero_grad", "softmax"] if name == "two_faults" else list(PLANTS[name])
    progress.entry(name).passed = "of a file"
    progress.save()
    seen = [find_case(name, path.read_text()).number]
    for _ in range(len(all_cases(name)) - 1):
        capsys.readouterr()
        assert cli.main(["reset", name]) == 0
        assert "this one is for practice" in capsys.readouterr().out
        seen.append(find_case(name, path.read_text()).number)
        assert load_progress(folder).has_passed(name), "the map does not fall"
    assert sorted(seen) == list(range(1, len(seen) + 1)), "each once before one comes again"
    path.unlink()
    assert not load_progress(folder).has_passed(name)


def test_two_faults_asks_nothing_and_counts_pairs(folder, capsys, monkeypatch):
    monkeypatch.setattr("foundations.diagnosis.report_lines", lambda *args: ["the report"])
    progress = load_progress(folder)
    for found, words in (([], "a pair of faults"), (["softmax", "eval_mode"], "for practice"), (["a"] * 4, "for practice")):
        progress.entry("two_faults").found = found
        progress.save()
        assert cli.main(["check", "two_faults", "--answers", "4", "10"]) == 1
        out = capsys.readouterr().out
        assert words in out.splitlines()[0] and " of 2" not in out
        assert "Nothing is asked" in out and "--answers is not used" in out
        assert cli.main(["check", "two_faults"]) == 1 and "--answers" not in capsys.readouterr().out


def test_answers_that_nobody_asks_for_are_not_passed_over_in_silence(folder, capsys, monkeypatch):
    failed = SandboxResult(Outcome(failed="it", reason="so"), "", "")
    monkeypatch.setattr("foundations.sandbox.run_sandboxed", lambda *args, **options: failed)
    for chapter, name in (("debugging", "unstable_loss"), ("tensors", "gather")):
        mend(folder / chapter / f"{name}.py", name)
        assert cli.main(["check", name, "--answers", "4"]) == 1
        assert f"{name} is checked, nothing is asked: --answers is not used" in capsys.readouterr().out


def test_a_progress_without_found_faults_is_read(tmp_path):
    progress = Progress(tmp_path, seed=3)
    progress.entry("stuck_loss").hints = 1
    progress.save()
    text = (tmp_path / ".progress.json").read_text()
    assert '"found"' in text
    (tmp_path / ".progress.json").write_text(text.replace(',\n   "found": []', ""))
    assert load_progress(tmp_path).entry("stuck_loss").found == []


@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases("too_good"), ids=lambda case: str(case.number))
def test_numbers_show_what_is_too_good(case):
    run, lines = run_case("too_good", case)
    reported, new = run.history["val/accuracy"][-1], float(lines[0].split()[-1])
    again = validation_again("too_good", case, run)
    assert reported - new > {"leak": 0.15, "axis": 0.12, "metric": 0.04}[case.faults[0]]
    if case.faults == ("leak",):
        assert abs(reported - again) < 1e-3, "only new patients tell"
    else:
        assert reported - again > {"axis": 0.12, "metric": 0.03}[case.faults[0]]


def check(tmp_path, name, text):
    """Outcome of the check of a file."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    result = run_sandboxed("foundations.worker:check_file", name, str(path), {}, seconds=120)
    assert result.value is not None, result
    return result.value


ONE_OF_EACH = {(name, case.faults): case.number for name in sorted(CASES) for case in all_cases(name)}


@pytest.mark.slow
@pytest.mark.parametrize("name, number", [(name, number) for (name, _), number in ONE_OF_EACH.items()])
def test_every_fault_is_caught_and_recognized(tmp_path, name, number):
    outcome = check(tmp_path, name, make_stub(name, number))
    assert outcome.failed and outcome.got, outcome
    assert name == "two_faults" or outcome.probably.startswith("As it was"), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [(name, size) for name in sorted(CASES) for size in SIZES[name][1:]])
def test_every_size_can_be_mended(tmp_path, name, size):
    outcome = check(tmp_path, name, plant(name, ((SIZES[name][0], size),)))
    assert not outcome.failed, outcome


@pytest.mark.slow
def test_what_learns_too_slowly_is_said_to_learn(tmp_path):
    outcome = check(tmp_path, "stuck_loss", plant("stuck_loss", (("EPOCHS = 15\n", "EPOCHS = 2\n"),)))
    assert outcome.reason == "the result; it learns, too slowly or too unsteadily" and not outcome.probably


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_gradients_that_are_cleared_too_early_are_named(tmp_path, name):
    right = "            optimizer.zero_grad()\n            loss.backward()\n"
    early = "            loss.backward()\n            optimizer.zero_grad()\n"
    assert check(tmp_path, name, plant(name, ((right, early),))).reason == (
        "the gradients are cleared between backward and step"
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases("two_faults"), ids=lambda case: str(case.number))
def test_the_faults_that_are_left_are_counted_in_every_pair(case):
    from foundations.comparing import Failure
    from foundations.exercises.debugging.two_faults import held_out

    for left in [case.faults, *[(fault,) for fault in case.faults]]:
        plants = [change for fault in left for plants in PLANTS["two_faults"][fault] for change in plants]
        changes = [change for change in case.changes[:-1] if change in plants]
        with pytest.raises(Failure) as failure:
            held_out(load_training("two_faults", (*changes, case.changes[-1])), random.Random(0))
        assert failure.value.reason == f"the result; faults that are left: {len(left)}"


def test_messages_of_two_faults_hold_for_every_pair():
    """They are recognized by how many faults are left, not by which: none may say where to look, or how the loss moved."""
    messages = [variant.message for variant in load_exercise("two_faults").wrong_answers]
    assert len(messages) == 4
    for message in messages:
        assert not any(word in message for word in ("gradient", "step is made", "is better", "outside of it"))
