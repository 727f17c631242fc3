"""Whether this machine continues a run to the same bits, and repeats its numbers: tried aside, from its recipe."""

import logging
import signal
import tempfile
from pathlib import Path
from typing import Any

from jaxdrill.array_files import digest
from jaxdrill.config import from_file
from jaxdrill.config.config import Config
from jaxdrill.errors import LOGGER, CheckFailed, RunError, Stopped, UsageError, say
from jaxdrill.files import read_json
from jaxdrill.runs import session
from jaxdrill.runs.checkpoints import latest
from jaxdrill.runs.folder import Rows, read_rows
from jaxdrill.runs.resume import CannotWrite
from jaxdrill.runs.stopping import StopRequest
from jaxdrill.training.fit import NonFiniteLossError

PARTS = 4  # that a training is cut into
KEPT_NOTHING = "Nothing was kept; run it again from the start."


class StopAfter(StopRequest):
    """A request to stop after some epochs, or as often as it is asked, or when a person asks."""

    def __init__(
        self, person: StopRequest, folder: Path, epochs: int, most: float = float("inf")
    ) -> None:
        self.person, self.folder, self.epochs, self.most, self.asked = (
            person,
            folder,
            epochs,
            most,
            0,
        )

    def requested(self) -> bool:
        self.asked += 1
        done = any(row["epoch"] + 1 == self.epochs for row in read_rows(self.folder)[0])
        if self.person.requested() or done or self.asked >= self.most:
            self.signal_number = self.person.signal_number or signal.SIGTERM
        return self.signal_number is not None


def verify(
    run: Path, epochs: int, stop: StopRequest, data_dir: Path | None = None, offline: bool = False
) -> str:
    """Train the first epochs of a run again, and compare every bit of a training that is stopped and resumed.

    The first seeds are trained, as many as this machine trains together: once in one go, and once stopped and resumed
    several times. The trainings are in a temporary folder, which is deleted.

    Args:
        run: the run folder.
        epochs: at most this number is trained.
        stop: is asked between all parts of the work.
        data_dir: as `data.load`.
        offline: make no network call.

    Returns:
        What was found equal, in one line.

    Raises:
        CheckFailed: the two trainings differ.
        UsageError, RunError: as `session.train`.
        Stopped: a signal came. Nothing is kept.
    """
    config = recipe_of(run)
    seeds, epochs = session.first_group(config), min(epochs, config.epochs)
    config = config.model_copy(update={"seed": seeds[0], "seeds": tuple(seeds)})
    told = f"{epochs} epoch(s) of seed(s) {', '.join(map(str, seeds))}"
    with tempfile.TemporaryDirectory(prefix="jaxdrill_verify_") as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        say(f"{run}: checking {told}", f"{run}: training them in one go")
        in_one_go = StopAfter(stop, whole, epochs)
        _train(config, whole, in_one_go, data_dir, offline)
        sessions = 0
        while not any(row["epoch"] + 1 == epochs for row in read_rows(cut)[0]):
            sessions += 1
            say(f"{run}: the same, stopped and continued ({sessions})")
            most = (
                in_one_go.asked / PARTS + sessions
            )  # more each time, so that it ends even if a launch is an epoch
            _train(config, cut, StopAfter(stop, cut, epochs, most), data_dir, offline)
        different = [
            name
            for name, a, b in zip(("rows", "state"), _left(whole), _left(cut), strict=True)
            if a != b
        ]
        if different:
            what = " and ".join(different)
            raise CheckFailed(
                f"{told}, stopped and continued {sessions - 1} times, differ in {what}"
            )
        own = [row for row in read_rows(run)[0] if row["seed"] in seeds and row["epoch"] < epochs]
        same = _without_seconds(own) == _without_seconds(read_rows(whole)[0])
        repeated = (
            "they are the run's own numbers"
            if same
            else "the run's own numbers are others: " + _made_by(run)
        )
        return f"{told}: the same bits, stopped and continued {sessions - 1} times; {repeated}"


def recipe_of(run: Path) -> Config:
    """Read the recipe of a run folder.

    Raises:
        RunError: the folder is not a run folder, or its recipe is damaged.
    """
    file = run / "config.json"
    try:
        return from_file(file)
    except FileNotFoundError as error:
        raise RunError(
            f"{run} is no run folder: it holds no config.json; name one that training wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise RunError(f"{file} is damaged ({error})") from error


def _train(
    config: Config, folder: Path, stop: StopAfter, data_dir: Path | None, offline: bool
) -> None:
    """Train until the end or a stop, without the usual lines. Errors do not promise what only a kept folder allows."""
    LOGGER.addFilter(_is_warning)
    try:
        session.train(config, folder, stop, data_dir, offline)
    except Stopped as error:
        if stop.person.requested():
            number = stop.person.signal_number or signal.SIGTERM
            raise Stopped(f"verify was interrupted. {KEPT_NOTHING}", number) from error
    except RunError as error:
        if isinstance(error, CannotWrite) or isinstance(error.__cause__, NonFiniteLossError):
            raise RunError(f"verify could not train: {error.__cause__}. {KEPT_NOTHING}") from error
        raise
    finally:
        LOGGER.removeFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _left(folder: Path) -> tuple[Rows, list[Any]]:
    """What a training has left: its rows without their times, and of each checkpoint the step and the sum of arrays."""
    found = [latest(group) for group in sorted((folder / "checkpoints").iterdir())]
    return _without_seconds(read_rows(folder)[0]), [
        (each.step, digest(each.arrays, {})) for each in found if each
    ]


def _without_seconds(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _made_by(run: Path) -> str:
    """What made a run."""
    try:
        about = read_json(run / "run.json")
        return f"it was made by {about['processor']}, jax {about['versions']['jax']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say what it was made by"
