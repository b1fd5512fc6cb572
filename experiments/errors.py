"""The one exception that a user is meant to read, and the search for what they may have meant."""

import contextlib
import difflib
import errno
import os
import shlex
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in what was requested; the text says what was given, what is possible and what to do.

    The command line prints the message alone; a traceback appears only where one was requested.
    """

    code = 2  # the command's exit code


class RunError(UserError):
    """What kept runs from being done although the command is right: exit code 1."""

    code = 1


def report_errors(action: Callable[[], int | None]) -> int:
    """Run a command; its exit code: a UserError is printed in one line and gives its own, None is 0.

    Ctrl-C is no error: 130, as shells have it. Where nobody reads the output any more (a pipe to `head`) the
    command ends quietly with 141, as shells have that; where it cannot be written (a full disk), with 1. A
    file that the system refuses is told like a mistake of the command.
    """
    try:
        code = action() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        return _printed(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if not output_lost(error):
            return _printed(refusal(error))
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        with contextlib.suppress(OSError):
            print(f"error: the output cannot be written: {error.strerror}.", file=sys.stderr)
        return 1


def _printed(error: UserError) -> int:
    with contextlib.suppress(OSError):
        print(f"error: {printable(str(error))}", file=sys.stderr)
    return error.code


def refusal(error: OSError) -> UserError:
    """What the system said of a file, as a sentence; an error that is of no file is raised as it is."""
    if error.filename is None:
        raise error
    reason = (error.strerror or type(error).__name__).lower()
    return UserError(
        f"the system refuses {printable(str(error.filename))}: {reason}. See that it is there, of the right "
        "kind and yours to use, then give the same command again."
    )


def say(text: str, *, error: bool = False) -> None:
    """A line for a person; what is being done does not end because nobody reads it or the disk is full."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(printable(text), file=stream, flush=True)
    except OSError as lost:
        if not error and not output_lost(lost):
            raise


def output_lost(error: OSError) -> bool:
    """Whether an error says that standard output takes nothing any more.

    It is of no named file then; files are written under `files.explained`. Standard output leads nowhere
    from here on, so that nothing fails later.
    """
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return False
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def typed(path: object) -> str:
    """A path as a word of a printed command: quoted where a shell would take it apart."""
    return shlex.quote(str(path))


def plural(n: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{n} {noun}{'s' * (n != 1)}"


def printable(text: str) -> str:
    """Text from a file or a name, safe to show: control characters but newline and tab become U+FFFD."""
    if text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text
    )


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, or None when nothing is close."""
    known = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A sentence for the end of an error, e.g. " Did you mean 'dora'?"; empty when nothing is close."""
    match = nearest(word, words)
    return f" Did you mean {match!r}?" if match else ""


def death(code: int) -> str:
    """How a process died, by its exit code as `subprocess` gives it."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
