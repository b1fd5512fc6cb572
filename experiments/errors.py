"""The one exception that a user is meant to read, and the search for what they may have meant."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in what was requested; the text says what was given, what is possible and what to do.

    The command line prints the message alone; a traceback appears only where one was requested.
    """


def report_errors(action: Callable[[], int | None]) -> int:
    """Run a command; its exit code: a UserError is printed in one line and is 2, None is 0.

    Ctrl-C is no error: 130, as shells have it.
    """
    try:
        return action() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, or None when nothing is close."""
    known = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A sentence for the end of an error, e.g. " Did you mean 'dora'?"; empty when nothing is close."""
    match = nearest(word, words)
    return f" Did you mean {match!r}?" if match else ""
