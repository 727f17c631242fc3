"""The line that shows the elapsed seconds, on a terminal as `pty` makes one."""

import os
import pty
import re
import sys
import termios
import threading

import pytest

from jaxdrill.runs.elapsed import show_elapsed


@pytest.fixture
def terminal():
    """A terminal, 100 columns wide: the end that a person sees, and the other one as a stream."""
    controller, device = pty.openpty()
    termios.tcsetwinsize(device, (40, 100))
    with os.fdopen(device, "w") as stream:
        yield controller, stream
    os.close(controller)


def read_until(controller: int, pattern: bytes) -> bytes:
    """What the terminal shows, up to a match of a pattern."""
    shown = b""
    while not re.search(pattern, shown):
        shown += os.read(controller, 4096)
    return shown


def test_the_seconds_are_counted_and_the_line_is_removed(terminal, monkeypatch):
    controller, stream = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with show_elapsed("compiling for 1 seed(s)"):
        shown = read_until(controller, rb": [1-9] s")
    assert re.fullmatch(
        rb"\rcompiling for 1 seed\(s\): 0 s\rcompiling for 1 seed\(s\): [1-9] s", shown
    )
    print("next", end="", file=stream, flush=True)
    assert (
        read_until(controller, b"next")
        == b"\r" + b" " * len("compiling for 1 seed(s): 1 s") + b"\rnext"
    )


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_thread_ends_with_the_body(terminal, monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", terminal[1])
    before = threading.active_count()
    with pytest.raises(error), show_elapsed("compiling"):
        assert threading.active_count() == before + 1
        raise error
    assert threading.active_count() == before


@pytest.mark.parametrize("stderr", ["pipe", "closed"])
def test_nothing_is_shown_without_a_terminal(monkeypatch, capsys, stderr):
    if stderr == "closed":
        monkeypatch.setattr(sys, "stderr", None)
    before = threading.active_count()
    with show_elapsed("compiling"):
        assert threading.active_count() == before
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_the_line(monkeypatch, capsys):
    """Its stderr is not a terminal."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with show_elapsed("compiling"):
        while "0 s" not in (shown := capsys.readouterr().err):
            pass
    assert shown == "\rcompiling: 0 s"
