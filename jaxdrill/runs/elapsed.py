"""The seconds that a long step has taken, on a terminal or in a notebook."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jaxdrill.errors import shows_progress
from jaxdrill.training import processes


@contextmanager
def show_elapsed(text: str) -> Iterator[None]:
    """Show a line with the elapsed seconds on stderr while the body runs, and remove the line at the end.

    The line is shown where the training's progress bar is (`errors.shows_progress`). Only process 0 shows it.

    Args:
        text: what is done, such as `compiling for 2 seed(s)`.
    """
    stream = sys.stderr
    if not processes.is_first() or not shows_progress():
        yield
        return
    done, began = threading.Event(), time.perf_counter()

    def show() -> None:
        with suppress(OSError, ValueError):  # The terminal may be gone.
            line = ""
            while not done.is_set():
                line = f"{text}: {time.perf_counter() - began:.0f} s"
                print(f"\r{line}", end="", file=stream, flush=True)
                done.wait(1)
            print(f"\r{' ' * len(line)}\r", end="", file=stream, flush=True)

    # A daemon thread, so that a second signal, which ends the process at once, does not wait for it.
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
