"""User errors, preemption, and the exit codes of every command."""

EXIT_BAD_INPUT = 2  # the line on stderr says what to change
EXIT_PREEMPTED = 75  # stopped by SIGTERM after saving; BSD's EX_TEMPFAIL: "try again later", with `--resume auto`


class UserError(Exception):
    """Error that the user can put right. Its text is one line that says what to do; commands print it and exit with 2."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Message of an exception without line breaks, at most `limit` characters long; without a message its type."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class Preempted(Exception):
    """Training stopped at a batch's end because the process received SIGTERM; the state is saved.

    Args:
        checkpoint: Path of the checkpoint that continues exactly here.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__(f"stopped by SIGTERM; state saved in {checkpoint}")
        self.checkpoint = checkpoint
