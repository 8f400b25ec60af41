"""Sandbox: nothing that a check has started is left, however it ends, and printing costs nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundations.sandbox import run_sandboxed

STARTS_ANOTHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({path!r} + ".part", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({path!r} + ".part", {path!r})
"""
SANDBOXED = """
import sys
from foundations import sandbox
sandbox.PRELOADED.clear()
sandbox.run_sandboxed("builtins:exec", sys.argv[1], seconds=60)
"""


def is_running(pid):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("then, ended", [("while True: pass", "time"), ("", ""), ("os._exit(3)", "exit code 3")])
def test_what_the_code_has_started_is_ended_with_it(tmp_path, then, ended):
    path = tmp_path / "pids"
    result = run_sandboxed("builtins:exec", STARTS_ANOTHER.format(path=str(path)) + then, {}, seconds=2 if then else 20)
    assert ended in result.ended and bool(ended) == bool(result.ended)
    assert wait_for(lambda: not any(map(is_running, path.read_text().split())), 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_check_ends_with_the_command_line(tmp_path, number):
    path = tmp_path / "pids"
    code = STARTS_ANOTHER.format(path=str(path)) + "while True: pass"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SANDBOXED, code], cwd=root) as command:
        assert wait_for(path.exists)
        checked, started = path.read_text().split()
        command.send_signal(number)
        code = command.wait(10)
    assert code == (-number if number is signal.SIGKILL else 128 + number)
    assert wait_for(lambda: not is_running(checked) and not is_running(started), 5)


def test_output_beyond_all_measure_is_discarded():
    code = "for i in range(40): print('x' * 10**6)\nprint('the end')"
    result = run_sandboxed("builtins:exec", code, {}, seconds=20)
    assert result.ended == "" and result.printed.endswith("x\nthe end\n") and len(result.printed) == 2000
