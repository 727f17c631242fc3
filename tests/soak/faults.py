"""Inject faults into a run, before each file that it opens, renames or removes in its folder.

Python's audit events give the moments, so the program needs no hooks. A trial is a fork of a
process that has imported JAX but not used it. It ends as a command does and starts at once.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

# What is about to happen (open, rename or remove), and the file's path without its digits.
Moment = tuple[str, str]


def _touched(event: str, arguments: tuple, folder: str) -> Moment | None:
    """Return the moment of an audit event, None if the event changes nothing in the folder."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, str | os.PathLike) or not (flags or 0) & WRITING:
            return None
    elif event in ("os.rename", "os.remove"):
        path = arguments[0]
    else:
        return None
    path = str(os.fspath(path))
    # Neither the lock nor the unnamed file with which filelock tests the folder is part of the run.
    if not path.startswith(f"{folder}{os.sep}") or path.endswith(".lock"):
        return None
    kind = "".join(c for c in os.path.relpath(path, folder) if not c.isdigit())
    return event.removeprefix("os."), kind


def at_moments(folder: Path, then: Callable[[int, Moment], None]) -> None:
    """Call `then` before each change of a file, with its number from 0. It cannot be undone."""
    count, inside = 0, False

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count, inside
        if inside or not (moment := _touched(event, arguments, str(folder))):
            return
        inside = True
        then(count, moment)
        count, inside = count + 1, False

    sys.addaudithook(hook)


def kill(_: Moment) -> None:
    """Kill the process before the change, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_inside(_: Moment) -> None:
    """Make the system kill the process within the next write, after 64 bytes of the file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


def forked(work: Callable[[], int], out: Path) -> int:
    """Run work in a fork with its output in a file. Return the exit code, or minus the signal."""
    if not (child := os.fork()):
        code = 1
        with contextlib.suppress(BaseException):
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (
                os.fdopen(1, "w", closefd=False),
                os.fdopen(2, "w", closefd=False),
            )
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def moments(folder: Path, run: Callable[[], int], out: Path) -> list[Moment]:
    """Return all moments of an undisturbed run."""
    names = out.with_suffix(".moments")

    def listed() -> int:
        found: list[Moment] = []
        at_moments(folder, lambda _, moment: found.append(moment))
        code = run()
        names.write_text("\n".join(" ".join(moment) for moment in found))
        return code

    assert forked(listed, out) == 0, out.read_text()
    return [tuple(line.split(" ", 1)) for line in names.read_text().splitlines()]  # type: ignore[misc]


def at(
    number: int, fault: Callable[[Moment], None], folder: Path, run: Callable[[], int], out: Path
) -> int:
    """Run with a fault at a moment. Return the exit code, or minus the signal."""

    def disturbed() -> int:
        at_moments(folder, lambda count, moment: fault(moment) if count == number else None)
        return run()

    return forked(disturbed, out)
