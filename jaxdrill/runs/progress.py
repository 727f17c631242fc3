"""Communicate during training: stop requests by signal, elapsed seconds, TensorBoard events."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxdrill.errors import LOGGER, Stopped, print_error, shows_progress, write
from jaxdrill.runs.folder import Rows
from jaxdrill.training import processes

_crc32c = os.environ.get("CRC32C_SW_MODE")
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined] # noqa: E402
from tensorboardX.summary import scalar  # noqa: E402

if _crc32c is None:  # tensorboardX sets the variable for a package that is now imported.
    os.environ.pop("CRC32C_SW_MODE", None)

WriteEpoch = Callable[[Rows, float], None]


class StopRequest:
    """A request to stop, made by SIGINT or SIGTERM."""

    signal_number: int | None = None

    def requested(self) -> bool:
        """Return True if any process received a signal. Collective: every process must call it."""
        received = processes.all_reduce_max(self.signal_number or 0)
        if received:  # Otherwise a signal may have arrived in the meantime.
            self.signal_number = received
        return received > 0

    def check(self, message: str) -> None:
        """End the command if any process received a signal. Collective, as `requested`.

        Raises:
            Stopped: with the message.
        """
        if self.requested() and self.signal_number:
            raise Stopped(message, self.signal_number)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop; a second signal ends the process at once.

    The previous handlers are restored at the end. A signal keeps its handler if Python cannot
    restore it, because the handler was not installed from Python. Outside the main thread Python
    allows no handlers, and no signal is noticed.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(each)) is not None:
                previous[each] = handler

    def note(number: int, _: Any) -> None:
        request.signal_number = number
        if LOGGER.isEnabledFor(logging.WARNING):
            write(sys.stderr, "\n")  # The cursor may be behind a terminal's ^C or the progress bar.
        print_error("Stopping soon. Press Ctrl-C or send the signal again to stop at once.")
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


@contextmanager
def show_elapsed(text: str) -> Iterator[None]:
    """Show a line with the elapsed seconds on stderr while the body runs; then remove the line.

    The line is shown where the progress bar is (`errors.shows_progress`), by process 0.

    Args:
        text: what is being done, such as `compiling for 2 seed(s)`.
    """
    stream = sys.stderr
    if not processes.is_first() or not shows_progress():
        yield
        return
    done, began = threading.Event(), time.perf_counter()

    def show() -> None:
        with suppress(OSError, ValueError):  # The terminal may be closed.
            line = ""
            while not done.is_set():
                line = f"{text}: {time.perf_counter() - began:.0f} s"
                print(f"\r{line}", end="", file=stream, flush=True)
                done.wait(1)
            print(f"\r{' ' * len(line)}\r", end="", file=stream, flush=True)

    # A daemon thread does not delay a second signal, which ends the process at once.
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def open_events(folder: Path, seeds: Sequence[int], step: int) -> Iterator[WriteEpoch]:
    """Open TensorBoard event files in `folder/seed_1` and so on, one sub-run per seed.

    `SummaryWriter` is not used: a full disk ends its thread, and training would wait forever.

    Args:
        folder: of all sub-runs.
        seeds: that are trained together.
        step: completed optimizer steps. TensorBoard hides later points of earlier sessions.

    Yields:
        A function that writes one epoch: its rows of `metrics.jsonl`, and the training images per
        second of all seeds together. It raises OSError if a file cannot be written.
    """
    with ExitStack() as stack:
        writers: dict[int, EventsWriter] = {}
        for seed in seeds:
            (own := folder / f"seed_{seed}").mkdir(parents=True, exist_ok=True)
            # Without the suffix, sessions that begin in the same second share a file.
            writers[seed] = writer = EventsWriter(f"{own / 'events'}", f".{step}")
            stack.enter_context(closing(writer))
            started = SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=started))

        def write_epoch(rows: Rows, images_per_second: float) -> None:
            for row in rows:
                shown = [key for key in row if key.endswith(("_loss", "_accuracy"))]
                values = {key.replace("_", "/"): row[key] for key in shown}  # such as train/loss
                values["learning_rate"] = row["learning_rate"]
                values["time/images_per_second"] = images_per_second
                writer = writers[row["seed"]]
                for tag, value in values.items():
                    event = Event(
                        wall_time=time.time(), step=row["step"], summary=scalar(tag, value)
                    )
                    writer.write_event(event)
                writer.flush()

        yield write_epoch
