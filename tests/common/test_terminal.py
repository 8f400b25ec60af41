"""Standard streams: closed ones, closed pipes and other encodings end no command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.main import main
from toy.train import PROJECT

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
from pathlib import Path
from common.cli.command import report_errors
from common.io.text import read_lines

def command():
    for number in range(3000):
        print("café", number, flush=True)
    Path("lines").write_text(str(len(read_lines(None))))
    sys.stdout.isatty(), sys.stderr.fileno()
    Path("done").touch()

sys.exit(report_errors(command))
"""


@pytest.mark.parametrize(
    "redirection, lines",
    [("< in | head -n 1", 2), ("< in >&-", 2), ("<&- > out", 0), ("< in 2>&- > out", 2), ("<&- >&- 2>&-", 0)],
)
def test_command_ends_well_whatever_its_streams_are(tmp_path, redirection, lines):
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "in").write_text("a\nb\n")
    shell = f"set -o pipefail; {sys.executable} command.py {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").exists() and (tmp_path / "lines").read_text() == str(lines)


@pytest.mark.parametrize(
    "encoding, text", [("ascii", rb"caf\xe9 0"), ("latin1", b"caf\xe9 0"), ("utf-8", "café 0".encode())]
)
def test_characters_that_the_encoding_lacks_are_escaped(tmp_path, encoding, text):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", COMMAND]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[0]) == (0, b"", text)


def test_argument_that_is_not_utf8_is_one_line(capsys):
    assert main(PROJECT, ["--data.source", "a\udcff"]) == 2
    assert capsys.readouterr().err.startswith(r"error: argument 'a\udcff': not UTF-8, so no file of the run could name it")
