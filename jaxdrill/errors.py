"""The errors that a person is shown as one line, and the exit code of each."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NoReturn, TextIO

LONGEST = 2000  # characters of an error's line
LOGGER = logging.getLogger(
    "jaxdrill"
)  # Every message goes through it, so a library user can silence or redirect them.


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
    """argparse with `--version`, errors of one line that name the closest valid word, and help without colors."""

    words: Mapping[str, str] = MappingProxyType(
        {}
    )  # what to type instead of a word that is not a flag

    def __init__(self, *arguments: Any, **named: Any) -> None:
        from jaxdrill import __version__

        super().__init__(*arguments, **named)
        self.color = False  # Python 3.14 would add escape codes, which `printable` shows as text
        about = "print the version and exit"
        self.add_argument(
            "--version", action="version", version=f"jaxdrill {__version__}", help=about
        )

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the options, as argparse does.

        Raises:
            UsageError: the arguments are wrong, or one of them is unknown.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            options, unknown = self.parse_known_args(arguments, namespace)
        except (
            UsageError
        ):  # A required flag is missing, too, if it was misspelt: name the word that was typed.
            flags = [word for word in arguments if word.startswith("--") and word != "--"]
            options, unknown = (
                None,
                [word for word in flags if word.split("=")[0] not in self._option_string_actions],
            )
            if not unknown:
                raise
        if unknown:
            self.refuse(unknown[0])
        return options

    def refuse(self, argument: str) -> NoReturn:
        """Refuse an argument that is neither a flag of the command nor its value.

        Raises:
            UsageError: always; the message names the closest flag or command.
        """
        word = argument.split("=")[0] if argument.startswith("-") else argument
        known = dict.fromkeys(self._option_string_actions) if word.startswith("-") else self.words
        close = closest(word, known)
        meant = f"; did you mean {known[close] or close}?" if close else ""
        raise UsageError(f"{word} is unknown{meant} (--help shows every flag)")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        write(file or sys.stderr, "\n".join(map(printable, message.split("\n"))))


def exit_code(command: Callable[[], None]) -> int:
    """Run a command, print its error as one line, and return the exit code.

    Returns:
        0 success, also if the reader of stdout has left (`| head`); 1 failure; 2 wrong usage; 3 a check failed;
        130 or 143 stopped by a signal.
    """
    _open_missing_streams()
    try:
        command()
        return 0
    except (UsageError, RunError, CheckFailed, Stopped) as error:
        return print_error(f"{error}", error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            return 0
        return print_error(
            f"{error.filename}: {error.strerror}" if error.filename else f"{error}", 1
        )
    except MemoryError:
        return print_error("the memory is too small", 1)
    except KeyboardInterrupt:
        return print_error("stopped", 130)
    finally:
        flush()


def _open_missing_streams() -> None:
    """Open /dev/null in place of standard streams that are closed (`2>&-`).

    The next files that a process opens would get their numbers, and XLA writes its log to number 2.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - Python has None for a closed stream
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def flush() -> None:
    """Flush stdout and stderr. Discard what cannot be written: Python would try again and exit with code 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if a stream is a terminal. It may be closed, or None if it was closed before Python started."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def shows_progress() -> bool:
    """Return True if moving lines are shown: on a terminal or in a notebook, unless the user silenced the logger."""
    return LOGGER.isEnabledFor(logging.INFO) and (
        is_terminal(sys.stderr) or "ipykernel" in sys.modules
    )


class _Terminal(logging.Handler):
    """Print progress to stdout, and warnings and errors to stderr as one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            write(sys.stdout, f"{text}\n")
        else:
            write(sys.stderr, f"jaxdrill: {text}\n")


if not LOGGER.handlers:  # Otherwise the user has already chosen where messages go.
    LOGGER.addHandler(_Terminal())
    LOGGER.propagate = False
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def print_error(message: str, code: int = 0) -> int:
    """Log a warning, or an error if `code` is not 0, and return the code. By default it is one line on stderr.

    The message is made printable before it is logged, so that no handler meets what it cannot encode.
    """
    line = " ".join(message.split())
    line = printable(line if len(line) <= LONGEST else line[:LONGEST] + "...")
    LOGGER.log(logging.ERROR if code else logging.WARNING, "%s", line)
    return code


def say(*lines: str) -> None:
    """Log lines of progress. By default they are printed to stdout at once.

    Names and texts from files may be in the lines, and cannot control the terminal. Lines that cannot be written are
    lost: they never end a training.
    """
    for line in lines:
        LOGGER.info("%s", printable(line))


def show(*lines: str) -> None:
    """Print results to stdout at once. Names and texts from files may be in them, and cannot control the terminal.

    Raises:
        BrokenPipeError: the reader of stdout has left. `exit_code` then ends the command quietly.
        RunError: stdout cannot be written.
    """
    if error := write(sys.stdout, "\n".join(map(printable, lines)) + "\n"):
        if isinstance(error, BrokenPipeError):
            raise error
        raise RunError(
            f"The output cannot be written: {getattr(error, 'strerror', None) or error}."
        ) from error


def write(stream: TextIO | None, text: str) -> Exception | None:
    """Write text to a stream at once, with characters outside the stream's encoding escaped.

    Args:
        stream: stdout or stderr; None if it was closed before Python started.
        text: whole lines.

    Returns:
        The error if the text cannot be written, else None.
    """
    if stream is None:
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # closed; or a signal handler interrupts another write
        return error


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would not just show: control characters, and those that turn the
    direction of writing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean X?` for the closest of `words`, or an empty string if none is close; see `closest`."""
    close = closest(word, words)
    return f"; did you mean {close}?" if close else ""


def closest(word: str, words: Iterable[str]) -> str | None:
    """Return the element of `words` that `word` most likely means, or None.

    Dashes, underscores and case do not matter. The rules, in this order: almost the same spelling; behind the last dot,
    the same parts (`--rotation` for `--augmentation.rotation-degrees`) or initials (`--optimizer.lr` for
    `--optimizer.learning-rate`); the most similar spelling, with or without the part before the last dot.
    """
    import difflib

    def close(text: str, names: Iterable[str], cutoff: float) -> str | None:
        return next(iter(difflib.get_close_matches(text, names, 1, cutoff)), None)

    full = {name.strip("-").replace("_", "-").lower(): name for name in words}
    typed = word.strip("-").replace("_", "-").lower()
    if name := close(typed, full, 0.8):
        return full[name]
    table, _, end = typed.rpartition(".")
    meant = close(table, {name.rpartition(".")[0] for name in full}, 0.5)
    last: dict[str, str] = {}
    for name, original in full.items():
        outer, _, inner = name.rpartition(".")
        if not table or outer == meant:
            last.setdefault(inner, original)
    for name, original in last.items():
        parts = name.split("-")
        if set(end.split("-")) <= set(parts) or (
            len(parts) > 1 and end == "".join(part[:1] for part in parts)
        ):
            return original
    name = close(typed, names := last | full, 0.5)
    return names[name] if name else None
