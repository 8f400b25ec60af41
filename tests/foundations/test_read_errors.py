"""Messages of read_errors are those of the installed torch, not text."""

import random

import pytest
import torch

from foundations.catalog import load_exercise
from foundations.comparing import Failure
from foundations.exercises.debugging import read_errors


class Recorder:
    """Answer that records the first call of each function."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, name):
        def record(*args):
            self.calls.setdefault(name, args)
            raise Failure("recorded")

        return record


def test_every_broken_line_raises_on_the_first_input():
    recorder = Recorder()
    for item in load_exercise("read_errors").properties:
        torch.manual_seed(0)
        with pytest.raises(Failure):
            item.check(recorder, random.Random(0))
    assert set(recorder.calls) == {*read_errors.BROKEN, "shifted_exp"}
    messages = {name: read_errors.message_of(name, *recorder.calls[name]) for name in read_errors.BROKEN}
    assert all("Error: " in message for message in messages.values()) and len(set(messages.values())) == len(messages)
