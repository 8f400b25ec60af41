"""What is said on the terminal."""

import os


def say(text: str) -> None:
    """Prints a line, in the first process only."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(text, flush=True)
