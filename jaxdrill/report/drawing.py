"""Matplotlib with its own default settings, whatever the environment and a user's matplotlibrc say."""

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any


def _import_matplotlib() -> None:
    """Import Matplotlib, even with a wrong MPLBACKEND, with an unreadable matplotlibrc or without a home folder."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(
        logging.CRITICAL
    )  # warnings of a matplotlibrc or of a missing cache do not concern the report
    try:
        try:
            importlib.import_module("matplotlib.figure")
        except (ValueError, OSError, RuntimeError):
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                del sys.modules[name]  # imported for the package that failed
            (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations  # type: ignore
            rc = Path(package).absolute() / "mpl-data" / "matplotlibrc"
            with (
                tempfile.TemporaryDirectory() as folder,
                chdir(folder),  # Matplotlib looks for a matplotlibrc in the current folder first
                _environment(MPLBACKEND="svg", MATPLOTLIBRC=f"{rc}", MPLCONFIGDIR=folder),
            ):
                importlib.import_module("matplotlib.figure")
    finally:
        logger.setLevel(level)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables, and restore them at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


_import_matplotlib()

import matplotlib  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

__all__ = ["Axes", "Figure", "MaxNLocator", "default_settings"]


@contextmanager
def default_settings(changes: Mapping[str, Any]) -> Iterator[None]:
    """Use Matplotlib's default settings with changes. The caller's settings and backend are unchanged afterwards."""
    defaults: dict[Any, Any] = dict(matplotlib.rcParamsDefault.copy())
    del defaults["backend"]  # `rc_context` does not restore it, and a Figure of its own needs none
    defaults.update(changes)
    with matplotlib.rc_context(defaults):
        yield
