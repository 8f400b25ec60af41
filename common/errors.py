"""User errors, preemption, and the exit codes of every command."""

EXIT_BAD_INPUT = 2  # the line on stderr says what to change
EXIT_LOST = 1  # a process of the run has died
EXIT_INTERRUPTED = 130  # stopped by SIGINT (Ctrl-C), as a shell has it
EXIT_PREEMPTED = 75  # stopped by SIGTERM after saving; BSD's EX_TEMPFAIL: "try again later", with `--resume auto`


class UserError(Exception):
    """Error that the user can put right. Its text is one line that says what to do; commands print it and exit with 2."""


class ProcessLost(Exception):
    """Another process of the run has died; commands print the line and exit with 1."""


class OtherProcessFailed(UserError):
    """User error of another process of the run, which prints the line itself."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Message of an exception without line breaks, at most `limit` characters long; without a message its type."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class Preempted(BaseException):
    """Command stopped by a signal: training at a batch's end, everything else at once. Like KeyboardInterrupt no Exception.

    Args:
        checkpoint: Path of the checkpoint that continues: exactly here, or before the evaluation; None if there is none yet.
        by: Name of the signal.
        in_run: Whether there is a run to continue.
    """

    def __init__(self, checkpoint: str | None, by: str = "SIGTERM", in_run: bool = True) -> None:
        text = "interrupted" if by == "SIGINT" else f"stopped by {by}"
        if checkpoint:
            text += f"; state saved in {checkpoint}; continue with --resume auto"
        elif in_run:
            text += "; no checkpoint was due yet; start it again with --resume allow"
        super().__init__(text)
        self.checkpoint = checkpoint
        self.exit_code = EXIT_INTERRUPTED if by == "SIGINT" else EXIT_PREEMPTED
