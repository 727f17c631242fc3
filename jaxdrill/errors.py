"""The errors that a person is shown as one line, and the exit code of each."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

LONGEST = 2000  # characters of an error's line
LOGGER = logging.getLogger("jaxdrill")  # Every message goes through it, so a library user can silence or redirect them.


class UsageError(Exception):
    """The command, a flag or a recipe is wrong."""

    exit_code = 2


class RunError(Exception):
    """The command is right, but it could not be done."""

    exit_code = 1


class CheckFailed(Exception):
    """A check was made, and the run does not pass it."""

    exit_code = 3


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message("\n".join(map(printable, message.split("\n"))), file)


def exit_code(command: Callable[[], None]) -> int:
    """Runs the command, prints its error as one line, and returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 a
    check not passed, 130 or 143 stopped by a signal."""
    try:
        command()
        return 0
    except (UsageError, RunError, CheckFailed, Stopped) as error:
        return print_error(f"{error}", error.exit_code)
    except OSError as error:
        return print_error(f"{error.filename}: {error.strerror}" if error.filename else f"{error}", 1)
    except MemoryError:
        return print_error("the memory is too small", 1)
    except KeyboardInterrupt:
        return print_error("stopped", 130)


class _Terminal(logging.Handler):
    """Print progress to stdout, and warnings and errors to stderr as one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            print(printable(text), flush=True)
        else:
            line = " ".join(text.split())
            print("jaxdrill: " + printable(line if len(line) <= LONGEST else line[:LONGEST] + "..."), file=sys.stderr)


if not LOGGER.handlers:  # Otherwise the user has already chosen where messages go.
    LOGGER.addHandler(_Terminal())
    LOGGER.propagate = False
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def print_error(message: str, code: int = 0) -> int:
    """Log a warning, or an error if `code` is not 0, and return the code. By default it is one line on stderr."""
    LOGGER.log(logging.ERROR if code else logging.WARNING, "%s", message)
    return code


def say(*lines: str) -> None:
    """Log lines of progress. By default they are printed to stdout at once.

    Names and texts from files may be in the lines, and cannot control the terminal.
    """
    for line in lines:
        LOGGER.info("%s", line)


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would not just show: control characters, and those that turn the
    direction of writing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean X?` for the word most like it, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
