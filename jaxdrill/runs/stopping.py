"""SIGINT and SIGTERM as a request to stop, asked between all parts of a command, by all its processes."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxdrill.errors import Stopped, write
from jaxdrill.training import processes


class StopRequest:
    """Whether a signal has asked the command to stop."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        """Whether one came to any process; all must ask."""
        agreed = processes.agree(self.signal_number or 0)
        if agreed:  # else one may have come meanwhile
            self.signal_number = agreed
        return agreed > 0

    def check(self, message: str) -> None:
        """Ends the command if a signal came to any process; all must ask.

        Raises:
            Stopped: with the message.
        """
        if self and self.signal_number:
            raise Stopped(message, self.signal_number)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Notes SIGINT and SIGTERM instead of dying of them; a second one ends the process at once. Outside the main
    thread, where Python allows no handlers, it notes nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: Any) -> None:
        request.signal_number = number
        write(sys.stderr, "\njaxdrill: stopping soon; once more to stop at once\n")
        restore()

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    previous = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        restore()
