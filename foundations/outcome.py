"""Outcome of a check."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Outcome of a check, as plain builtins and strings: it travels between processes.

    Args:
        passed: Titles of the properties that hold, in order.
        failed: Title of the first that does not, "import" if the file cannot be imported; empty if all hold.
        not_reached: Titles of the properties after it.
        reason: What differs, in a few words.
        inputs: Arguments of the call that failed, in words.
        expected: What was expected, in words.
        got: What was given, in words.
        got_digest: Digest of what was given: two answers that make the same mistake have the same.
        probably: What went wrong, where the failure is that of a known wrong answer.
        line: Line of the learner's file in which an exception was raised.
        unwritten: Whether the stub still raises NotImplementedError.
        link: Object of a capstone that does the same.
        why: What that needs it for.
        notes: Lines about what was measured, of the properties that hold.
    """

    passed: list[str] = field(default_factory=list)
    failed: str = ""
    not_reached: list[str] = field(default_factory=list)
    reason: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    expected: str = ""
    got: str = ""
    got_digest: str = ""
    probably: str = ""
    line: str = ""
    unwritten: bool = False
    link: str = ""
    why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> tuple[str, str, str, str]:
        """What two answers that make the same mistake have in common."""
        return self.failed, self.reason, self.got_digest, repr(self.inputs)
