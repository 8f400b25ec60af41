"""User errors, preemption, and the exit codes of every command."""

EXIT_BAD_INPUT = 2  # the line on stderr says what to change
EXIT_PREEMPTED = 75  # stopped by SIGTERM after saving; BSD's EX_TEMPFAIL: "try again later", with `--resume auto`


class UserError(Exception):
    """Error that the user can put right. Its text is one line that says what to do; commands print it and exit with 2."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Message of an exception without line breaks, at most `limit` characters long; without a message its type."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class Preempted(Exception):
    """Training stopped at a batch's end, or within a long evaluation, because the process received SIGTERM.

    Args:
        checkpoint: Path of the checkpoint that continues: exactly here, or before the evaluation; None if there is none yet.
    """

    def __init__(self, checkpoint: str | None) -> None:
        super().__init__(
            f"stopped by SIGTERM; {f'state saved in {checkpoint}' if checkpoint else 'no checkpoint was due yet'}"
        )
        self.checkpoint = checkpoint
