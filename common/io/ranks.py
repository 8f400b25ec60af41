"""What is said on the terminal."""

import os


def print_rank_zero(text: str) -> None:
    """Prints a line, in the first process only."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(text, flush=True)
