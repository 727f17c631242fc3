"""Whether this machine continues a run to the same bits, and repeats its numbers: tried aside, from its recipe."""

import contextlib
import io
import signal
import tempfile
from pathlib import Path
from typing import Any

from jaxdrill.config import from_file
from jaxdrill.errors import CheckFailed, RunError, Stopped, UsageError, say
from jaxdrill.files import read_json
from jaxdrill.recipe import Config
from jaxdrill.runs import session
from jaxdrill.runs.checkpoints import latest
from jaxdrill.runs.folder import Rows, read_rows
from jaxdrill.runs.stopping import StopRequest
from jaxdrill.tensors import digest

PARTS = 4  # that a training is cut into


class Until(StopRequest):
    """A request to stop after some epochs, or as often as it is asked, or when a person asks."""

    def __init__(self, person: StopRequest, folder: Path, epochs: int, most: float = float("inf")) -> None:
        self.person, self.folder, self.epochs, self.most, self.asked = person, folder, epochs, most, 0

    def __bool__(self) -> bool:
        self.asked += 1
        done = any(row["epoch"] + 1 == self.epochs for row in read_rows(self.folder)[0])
        if self.person or done or self.asked >= self.most:
            self.signal_number = self.person.signal_number or signal.SIGTERM
        return self.signal_number is not None


def verify(run: Path, epochs: int, stop: StopRequest, data_dir: Path | None = None, offline: bool = False) -> str:
    """Trains the first epochs of the first seeds of a run, as many as this machine trains together: once in one go, and
    once stopped and continued; into a folder that is removed. Returns what was found equal, in a line.

    Raises:
        CheckFailed: the two differ.
        UsageError, RunError, Stopped: as `session.train`.
    """
    config = _recipe(run)
    epochs = min(epochs, config.epochs)
    with tempfile.TemporaryDirectory(prefix="jaxdrill_verify_") as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        say(f"{run}: training {epochs} epoch(s) in one go")
        in_one_go = Until(stop, whole, epochs)
        _train(config, whole, in_one_go, data_dir, offline)
        seeds = sorted({row["seed"] for row in read_rows(whole)[0]})
        sessions = 0
        while not any(row["epoch"] + 1 == epochs for row in read_rows(cut)[0]):
            sessions += 1
            say(f"{run}: the same, stopped and continued ({sessions})")
            most = in_one_go.asked / PARTS + sessions  # more each time, so that it ends even if a launch is an epoch
            _train(config, cut, Until(stop, cut, epochs, most), data_dir, offline)
        different = [name for name, a, b in zip(("rows", "state"), _left(whole), _left(cut), strict=True) if a != b]
        told = f"{epochs} epoch(s) of seed(s) {', '.join(map(str, seeds))}"
        if different:
            what = " and ".join(different)
            raise CheckFailed(f"{told}, stopped and continued {sessions - 1} times, differ in {what}")
        own = [row for row in read_rows(run)[0] if row["seed"] in seeds and row["epoch"] < epochs]
        same = _without_seconds(own) == _without_seconds(read_rows(whole)[0])
        repeated = "they are the run's own numbers" if same else "the run's own numbers are others: " + _made_by(run)
        return f"{told}: the same bits, stopped and continued {sessions - 1} times; {repeated}"


def _recipe(run: Path) -> Config:
    """The recipe of a run folder."""
    file = run / "config.json"
    try:
        return from_file(file)
    except FileNotFoundError as error:
        raise RunError(f"{run} is no run folder: it holds no config.json; name one that training wrote") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise RunError(f"{file} is damaged ({error})") from error


def _train(config: Config, folder: Path, stop: Until, data_dir: Path | None, offline: bool) -> None:
    """Trains until the end or a stop, without the usual lines."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            session.train(config, folder, stop, data_dir, offline)
    except Stopped:
        if stop.person:
            raise


def _left(folder: Path) -> tuple[Rows, list[Any]]:
    """What a training has left: its rows without their times, and of each checkpoint the step and the sum of arrays."""
    found = [latest(group) for group in sorted((folder / "checkpoints").iterdir())]
    return _without_seconds(read_rows(folder)[0]), [(each.step, digest(each.arrays, {})) for each in found if each]


def _without_seconds(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _made_by(run: Path) -> str:
    """What made a run."""
    try:
        about = read_json(run / "run.json")
        return f"it was made by {about['processor']}, jax {about['versions']['jax']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say what it was made by"
