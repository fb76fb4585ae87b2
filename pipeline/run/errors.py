"""The error that is the user's to mend: one message, no traceback, exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was given, what was expected, the nearest choice and the way out, in at most five lines."""


def nearest(given: str, choices: Iterable[str]) -> str:
    """`did you mean X?` for the choice closest to `given`, or the list of choices where none is close."""
    choices = sorted(choices)
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"choices: {', '.join(choices)}"


class Interrupted(Exception):
    """Training stopped because it was asked to, after saving; exit code 3, and the same command resumes."""
