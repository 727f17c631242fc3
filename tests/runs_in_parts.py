"""Fixtures and helpers for tests that train: a finished run, copies of it, and stopped runs."""

import copy as copying
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from jaxdrill import data
from jaxdrill.data import digits as digits_module
from jaxdrill.main import main
from jaxdrill.runs import group, session
from jaxdrill.training.trainer import Trainer

OTHER_RATE = "--optimizer.learning-rate", "1e-30"  # one value, so that it is compiled once


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_seconds(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def both(folder, *flags):
    """Return the arguments of a command for both seeds."""
    return folder, "--seed", 3, "--seeds", 2, *flags


def stop_in(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send a signal to the process after a training step."""
    fit = group.fit.fit

    def watched(*arguments, watch, **options):
        def then(state, done, losses, seconds):
            if done == step:
                os.kill(os.getpid(), number)
            watch(state, done, losses, seconds)

        return fit(*arguments, watch=then, **options)

    monkeypatch.setattr(group.fit, "fit", watched)


TRAINERS: dict[tuple, Trainer] = {}


def make_once(config, dataset, num_seeds) -> Trainer:
    """Return a trainer whose compiled functions are shared by runs with other seeds and epochs."""
    free = {"seed": 1, "seeds": 1} | ({} if config.schedule.has_horizon else {"epochs": 1})
    recipe = config.model_copy(update=free).model_dump_json()
    key = recipe, num_seeds, dataset.train_images.shape, dataset.test_images.shape
    trainer = copying.copy(TRAINERS.setdefault(key, Trainer(config, dataset, num_seeds)))
    trainer.config = config
    return trainer


@pytest.fixture
def compiled_once(monkeypatch) -> None:
    """Compile each recipe once per process. Otherwise every command compiles."""
    monkeypatch.setattr(session, "Trainer", make_once)


@pytest.fixture(scope="session")
def finished(tiny_recipe, tmp_path_factory, digits) -> Path:
    """Train two seeds for two epochs without interruption."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            digits_module,
            "load_arrays",
            lambda: tuple(getattr(digits, name) for name in data.FILES),
        )
        patch.setattr(session, "Trainer", make_once)
        assert (
            main(
                [
                    "--step",
                    str(tiny_recipe),
                    "--workdir",
                    str(folder),
                    "--seed",
                    "3",
                    "--seeds",
                    "2",
                ]
            )
            == 0
        )
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def command(tiny_recipe):
    """Return a function that trains the tiny recipe into a folder, with more flags."""
    return lambda folder, *flags: main(
        ["--step", str(tiny_recipe), "--workdir", str(folder), *map(str, flags)]
    )
