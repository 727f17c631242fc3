"""Provide a finished run, copies of it, and runs that are stopped."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from jaxdrill import data
from jaxdrill.main import main
from jaxdrill.runs import group


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
    """Return the arguments for both seeds."""
    return folder, "--seed", 3, "--seeds", 2, *flags


def stop_in(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send a signal after the given step."""
    fit = group.fit.fit

    def watched(*arguments, watch, **options):
        def then(state, done, losses, seconds):
            if done == step:
                os.kill(os.getpid(), number)
            watch(state, done, losses, seconds)

        return fit(*arguments, watch=then, **options)

    monkeypatch.setattr(group.fit, "fit", watched)


@pytest.fixture(scope="session")
def finished(tiny_recipe, tmp_path_factory, digits) -> Path:
    """Train two seeds for two epochs without a stop. Return the run folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            data.digits, "load_arrays", lambda: tuple(getattr(digits, name) for name in data.FILES)
        )
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
    """Return a function that trains the tiny recipe into a folder with further flags."""
    return lambda folder, *flags: main(
        ["--step", str(tiny_recipe), "--workdir", str(folder), *map(str, flags)]
    )
