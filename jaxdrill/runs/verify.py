"""The command `verify`: check that this machine resumes a run with identical results."""

import logging
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdrill.array_files import digest
from jaxdrill.config.config import Config
from jaxdrill.errors import LOGGER, CheckFailed, RunError, Stopped, say
from jaxdrill.runs import checkpoints, session
from jaxdrill.runs.folder import Rows, read_config, read_metadata, read_rows
from jaxdrill.runs.progress import StopRequest
from jaxdrill.runs.resume import CannotWrite
from jaxdrill.training.fit import NonFiniteLossError

PARTS = 4  # The number of sessions that a training is divided into.
KEPT_NOTHING = "Nothing was kept. Run it again from the start."


@dataclass
class StopAfter(StopRequest):
    """Request a stop after some epochs, after some calls of `requested`, or when the user does."""

    user: StopRequest
    folder: Path
    epochs: int
    max_calls: float = float("inf")
    calls: int = 0

    def requested(self) -> bool:
        """Return True if training must stop. Collective: every process must call it."""
        self.calls += 1
        if self.user.requested() or self.done() or self.calls >= self.max_calls:
            self.signal_number = self.user.signal_number or signal.SIGTERM
        return self.signal_number is not None

    def done(self) -> bool:
        """Return True if the last epoch is in `metrics.jsonl`."""
        return any(row["epoch"] + 1 == self.epochs for row in read_rows(self.folder)[0])


def verify(
    run: Path, epochs: int, stop: StopRequest, data_dir: Path | None = None, offline: bool = False
) -> str:
    """Train the first epochs of a run again, with and without interruptions, and compare every bit.

    As many of the first seeds are trained as this machine trains together: once without
    interruption, and once stopped and resumed several times. The trainings are in a temporary
    folder, which is deleted.

    Args:
        run: the run folder.
        epochs: the maximum number of epochs to train.
        stop: the user's request to stop.
        data_dir: as in `data.load`.
        offline: make no network call.

    Returns:
        What was found equal, in one line.

    Raises:
        CheckFailed: the two trainings differ.
        UsageError, RunError: as in `session.train`.
        Stopped: a signal came. Nothing is kept.
    """
    config = read_config(run)
    seeds, epochs = session.first_group(config), min(epochs, config.epochs)
    config = config.model_copy(update={"seed": seeds[0], "seeds": tuple(seeds)})
    trained = f"{epochs} epoch(s) of seed(s) {', '.join(map(str, seeds))}"
    with tempfile.TemporaryDirectory(prefix="jaxdrill_verify_") as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        say(f"{run}: checking {trained}", f"{run}: training without interruption")
        uninterrupted = StopAfter(stop, whole, epochs)
        _train(config, whole, uninterrupted, data_dir, offline)
        sessions, part = 0, StopAfter(stop, parts, epochs)
        while not part.done():
            sessions += 1
            say(f"{run}: training again, stopped and resumed ({sessions})")
            # The limit grows, so that training ends even if it can only stop after an epoch.
            part.max_calls = uninterrupted.calls / PARTS + sessions
            part.calls, part.signal_number = 0, None
            _train(config, parts, part, data_dir, offline)
        resumed = f"stopped and resumed {sessions - 1} times"
        pairs = zip(("rows", "state"), _results(whole), _results(parts), strict=True)
        if different := [name for name, one, other in pairs if one != other]:
            raise CheckFailed(f"{trained}, {resumed}, differ in {' and '.join(different)}")
        own = [row for row in read_rows(run)[0] if row["seed"] in seeds and row["epoch"] < epochs]
        repeated = "they are the run's own numbers"
        if _without_seconds(own) != _results(whole)[0]:
            repeated = f"the run's own numbers differ: {_made_by(run)}"
        return f"{trained}: the same bits, {resumed}; {repeated}"


def _train(
    config: Config, folder: Path, stop: StopAfter, data_dir: Path | None, offline: bool
) -> None:
    """Train until the end or a stop, printing warnings only.

    Error messages do not suggest to resume, because the folder is deleted.
    """
    LOGGER.addFilter(_is_warning)
    try:
        session.train(config, folder, stop, data_dir, offline)
    except Stopped as error:
        if stop.user.requested():
            number = stop.user.signal_number or signal.SIGTERM
            raise Stopped(f"verify was interrupted. {KEPT_NOTHING}", number) from error
    except RunError as error:
        if isinstance(error, CannotWrite) or isinstance(error.__cause__, NonFiniteLossError):
            raise RunError(f"verify could not train: {error.__cause__}. {KEPT_NOTHING}") from error
        raise
    finally:
        LOGGER.removeFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _results(folder: Path) -> tuple[Rows, list[Any]]:
    """Return the rows without seconds, and the step and the arrays' checksum of each checkpoint."""
    found = [checkpoints.latest(group) for group in sorted((folder / "checkpoints").iterdir())]
    state = [(each.step, digest(each.arrays, {})) for each in found if each]
    return _without_seconds(read_rows(folder)[0]), state


def _without_seconds(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _made_by(run: Path) -> str:
    """Describe the machine and the version that made a run."""
    try:
        metadata = read_metadata(run)
        return f"it was made by {metadata['processor']}, jax {metadata['versions']['jax']}"
    except (RunError, KeyError):
        return "its run.json does not say how it was made"
