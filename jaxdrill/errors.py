"""The errors that a person is shown as one line, and what both commands do with them."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class UsageError(Exception):
    """The command, a flag or a recipe is wrong."""


class RunError(Exception):
    """The command is right, but it could not be done."""


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Failed(Exception):
    """A check was made, and the run does not pass it."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def exit_code(command: Callable[[], None]) -> int:
    """Runs the command, tells its error in one line, and returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 a
    check not passed, 130 or 143 stopped by a signal."""
    try:
        command()
        return 0
    except UsageError as error:
        return complain(f"{error}", 2)
    except RunError as error:
        return complain(f"{error}", 1)
    except Failed as error:
        return complain(f"{error}", 3)
    except OSError as error:
        return complain(f"{error.filename or ''}: {error.strerror}", 1)
    except Stopped as error:
        return complain(f"{error}", error.exit_code)
    except KeyboardInterrupt:
        return complain("stopped", 130)


def complain(message: str, code: int = 0) -> int:
    """One line to stderr, and the code."""
    print("jaxdrill: " + " ".join(message.split()), file=sys.stderr)
    return code


def nearest(word: str, words: list[str]) -> str:
    """`; did you mean X?` for the word most like it, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
