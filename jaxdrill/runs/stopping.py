"""SIGINT and SIGTERM as a request to stop, asked between all parts of a command, by all its processes."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxdrill.errors import LOGGER, Stopped, print_error, write
from jaxdrill.training import processes


class StopRequest:
    """Whether a signal has asked the command to stop."""

    signal_number: int | None = None

    def requested(self) -> bool:
        """Whether one came to any process; all must ask."""
        agreed = processes.all_reduce_max(self.signal_number or 0)
        if agreed:  # else one may have come meanwhile
            self.signal_number = agreed
        return agreed > 0

    def check(self, message: str) -> None:
        """Ends the command if a signal came to any process; all must ask.

        Raises:
            Stopped: with the message.
        """
        if self.requested() and self.signal_number:
            raise Stopped(message, self.signal_number)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop gracefully; a second signal ends the process at once.

    The previous handlers are restored at the end. A signal keeps its handler if Python cannot restore it, because it
    was not installed from Python. Outside the main thread Python allows no handlers, and no signal is noticed.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        previous = {each: handler for each, handler in handlers.items() if handler is not None}

    def note(number: int, _: Any) -> None:
        request.signal_number = number
        if LOGGER.isEnabledFor(logging.WARNING):
            write(sys.stderr, "\n")  # The cursor may be behind a terminal's ^C or the progress bar.
        print_error("stopping soon; once more to stop at once")
        restore()

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    for each in previous:
        signal.signal(each, note)
    try:
        yield request
    finally:
        restore()
