"""Define errors with their exit codes, the parser of the commands, and how messages are printed."""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TextIO

MAX_LINE = 2000  # characters of an error message
# Every message goes through this logger, so a library user can silence or redirect messages.
LOGGER = logging.getLogger("jaxdrill")


class UsageError(Exception):
    """Raised when the command, a flag or a recipe is invalid."""

    exit_code = 2


class RunError(Exception):
    """Raised when a valid command fails."""

    exit_code = 1


class CheckFailed(Exception):
    """Raised when a run does not pass a check."""

    exit_code = 3


class Stopped(Exception):
    """Raised when a signal stopped a command. The state of a training is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and name the closest valid word.

    Args:
        prog: the command, such as `jaxdrill report`.
        description: beginning of `--help`: two lines that describe the command, and examples.
        words: replacements of words that are not flags, for messages.
        named: further arguments of `ArgumentParser`.
    """

    def __init__(
        self,
        prog: str = "jaxdrill",
        description: str | None = None,
        words: Mapping[str, str] | None = None,
        **named: Any,
    ) -> None:
        from jaxdrill import __version__

        super().__init__(prog, allow_abbrev=named.pop("allow_abbrev", False), **named)
        self.about, self.words = description, words or {}
        self.color = False  # Python 3.14 would add escape codes, which `printable` shows as text
        version = f"jaxdrill {__version__}"
        self.add_argument(
            "--version", action="version", version=version, help="print the version and exit"
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the options like argparse.

        Raises:
            UsageError: an argument is invalid or unknown.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            options, unknown = self.parse_known_args(arguments, namespace)
        except UsageError:
            # A required flag is also missing if it is misspelled. The misspelled word is then the
            # better message.
            flags = [word for word in arguments if word.startswith("--") and word != "--"]
            known = self._option_string_actions
            options, unknown = None, [word for word in flags if word.split("=")[0] not in known]
            if not unknown:
                raise
        if unknown:
            self.refuse(unknown[0])
        return options

    def refuse(self, argument: str) -> NoReturn:
        """Raise a UsageError that names the closest flag or command.

        Args:
            argument: a word that is neither a flag nor a value.
        """
        is_flag = argument.startswith("-")
        word = argument.split("=")[0] if is_flag else argument
        known = {flag: flag for flag in self._option_string_actions} if is_flag else self.words
        close = closest(word, known)
        meant = f"; did you mean {known[close]}?" if close else ""
        raise UsageError(f"{word} is unknown{meant} (see {self.prog} --help)")

    def format_help(self) -> str:
        """Return the description, then the usage and all arguments."""
        return "\n\n".join(filter(None, (self.about and self.about.strip(), super().format_help())))

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError instead of printing the usage and exiting."""
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        write(file or sys.stderr, "\n".join(map(printable, message.split("\n"))))


def exit_code(command: Callable[..., None], *arguments: Any) -> int:
    """Run a command with its arguments, print its error as one line, and return the exit code.

    Returns:
        0 success, also if the reader of stdout exited (`| head`); 1 failure; 2 wrong usage;
        3 failed check; 130 or 143 stopped by a signal.
    """
    _open_missing_streams()
    try:
        command(*arguments)
        return 0
    except (UsageError, RunError, CheckFailed, Stopped) as error:
        return print_error(f"{error}", error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            return 0
        named = f"{error.filename}: {error.strerror}" if error.filename else f"{error}"
        return print_error(named, 1)
    except MemoryError:
        return print_error("out of memory", 1)
    except KeyboardInterrupt:
        return print_error("stopped", 130)
    finally:
        flush()


def _open_missing_streams() -> None:
    """Open /dev/null in place of closed standard streams (`2>&-`).

    Otherwise the next files that the process opens get the numbers of the streams, and XLA writes
    its log to number 2.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    # Python sets closed streams to None.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def flush() -> None:
    """Flush stdout and stderr. Discard text that cannot be written: Python would exit with 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if a stream is a terminal. The stream may be closed, or None."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def shows_progress() -> bool:
    """Return True on a terminal or in a notebook, unless the logger disables progress."""
    interactive = is_terminal(sys.stderr) or "ipykernel" in sys.modules
    return LOGGER.isEnabledFor(logging.INFO) and interactive


class _Terminal(logging.Handler):
    """Print progress to stdout, and each warning or error as one line to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to its stream."""
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            write(sys.stdout, f"{text}\n")
        else:
            write(sys.stderr, f"jaxdrill: {text}\n")


if not LOGGER.handlers:  # Otherwise the user has already configured the logger.
    LOGGER.addHandler(_Terminal())
    LOGGER.propagate = False
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def print_error(message: str, code: int = 0) -> int:
    """Log a warning, or an error if `code` is not 0, and return the code.

    By default the message is printed as one line to stderr. The message is made printable first, so
    every handler can encode it.
    """
    line = " ".join(message.split())
    line = printable(line if len(line) <= MAX_LINE else line[:MAX_LINE] + "...")
    LOGGER.log(logging.ERROR if code else logging.WARNING, "%s", line)
    return code


def say(*lines: str) -> None:
    """Log progress. By default the lines are printed to stdout immediately.

    Control characters in names and texts are escaped. Lines that cannot be written are lost and do
    not stop a training.
    """
    for line in lines:
        LOGGER.info("%s", printable(line))


def show(*lines: str) -> None:
    """Print results to stdout immediately. Control characters in names and texts are escaped.

    Raises:
        BrokenPipeError: the reader of stdout exited. `exit_code` then ends the command without a
            message.
        RunError: stdout cannot be written.
    """
    if error := write(sys.stdout, "\n".join(map(printable, lines)) + "\n"):
        if isinstance(error, BrokenPipeError):
            raise error
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"The output cannot be written: {reason}.") from error


def write(stream: TextIO | None, text: str) -> Exception | None:
    """Write text to a stream immediately. Escape characters that are not in the stream's encoding.

    Args:
        stream: stdout or stderr; None if the stream was closed before Python started.
        text: complete lines.

    Returns:
        The error if the text cannot be written, else None.
    """
    if stream is None:
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError, RuntimeError) as error:
        return error  # The stream is closed, or a signal handler interrupted another write.


def printable(text: str) -> str:
    """Escape control characters, including those that change the writing direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean X?` for the closest of `words`, or an empty string; see `closest`."""
    close = closest(word, words)
    return f"; did you mean {close}?" if close else ""


def closest(word: str, words: Iterable[str]) -> str | None:
    """Return the element of `words` that `word` most likely means, or None.

    Dashes, underscores and case are ignored. If no element is similar as a whole, `word` is
    compared with the last part of each element, its words and its initials, with or without the
    table: `lr`, `optimizer.lr` and `rate` mean `optimizer.learning_rate`.
    """

    def normal(text: str) -> str:
        return text.strip("-").replace("__", ".").replace("_", "-").lower()

    full = {normal(name): name for name in words}
    last: dict[str, str] = {}
    parts: dict[str, str] = {}
    for name, original in full.items():
        table, _, end = name.rpartition(".")
        inside = end.split("-")
        initials = ["".join(part[:1] for part in inside)] if len(inside) > 1 else []
        for known, aliases in ((last, [end, *initials]), (parts, inside)):
            for alias in aliases:
                known.setdefault(alias, original)
                known.setdefault(f"{table}.{alias}", original)
    for known, cutoff in ((full, 0.8), (parts, 1.0), (last | full, 0.65)):
        if found := difflib.get_close_matches(normal(word), known, 1, cutoff):
            return known[found[0]]
    return None
