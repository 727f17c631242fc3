"""Train, load and compare the small MNIST networks of the drill.

The commands use the same functions. Each function imports its dependencies when it is called.

Messages go through the Python logger `jaxdrill`. By default it prints progress (level INFO) to
stdout and warnings to stderr. `logging.getLogger("jaxdrill").setLevel("WARNING")` disables progress
and progress bars, `"ERROR"` also disables warnings.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdrill import errors

__version__ = "0.1.0"


def tune_memory() -> bool:
    """Keep freed memory in the process with glibc. Training steps on CPU reuse it and are faster.

    The setting applies until the process ends, and the process then holds its maximum memory.
    `jaxdrill train` does the same. To get the same effect, set the environment variables
    `MALLOC_MMAP_THRESHOLD_=1073741824` and `MALLOC_TRIM_THRESHOLD_=2147483647` before Python
    starts.

    Returns:
        False if the process does not use glibc. Nothing changes in this case.
    """
    from jaxdrill.training import devices

    return devices.tune_memory(0)


def train(
    step: str | int | Path,
    workdir: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    offline: bool = False,
    restart: bool = False,
    **fields: Any,
) -> Path:
    """Train a step of the drill or a recipe file, like `jaxdrill train`.

    The settings of the process do not change: devices, compilation cache and memory settings are
    yours. The command sets them to be faster on CPU. For the same speed, call `tune_memory` and set
    these environment variables before Python starts: `JAX_NUM_CPU_DEVICES` to the number of cores,
    `JAX_COMPILATION_CACHE_DIR` to a folder, and `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1`.
    SIGINT and SIGTERM request a graceful stop during the call.

    Args:
        step: a step (`5`, `"5"` or `"step_5"`) or the path of a recipe (`"mine.toml"`).
        workdir: run folder; `runs/step_5` and so on if None. An unfinished run in it is resumed.
        data_dir: folder with four idx files: the official files or your own.
        offline: make no network call.
        restart: start over; the existing run folder is renamed.
        fields: recipe fields, with `__` instead of the dot: `epochs=3, seeds=[1, 2, 7],
            optimizer__learning_rate=0.02`. A str is parsed as on the command line.

    Returns:
        The run folder.

    Raises:
        errors.UsageError, errors.RunError, errors.Stopped: with the message of the command.
    """
    from jaxdrill import config
    from jaxdrill.config.schema import as_text
    from jaxdrill.runs import progress, session

    if f"{step}" == "all":
        what = "train() trains one step, and step is all"
        raise errors.UsageError(f"{what}. Call it for each name of config.steps().")
    flags = {name.replace("__", "."): _plain(value) for name, value in fields.items()}
    config.check_names(flags, _as_argument, ("workdir", "data_dir", "offline", "restart"))
    recipe = config.load(f"{step}", flags, _as_argument)
    command = ["jaxdrill", "train", "--step", f"{step}"]
    for name, value in (flags | {"workdir": workdir or None, "data_dir": data_dir or None}).items():
        command += [config.as_flag(name), as_text(value)] if value is not None else []
    command += ["--offline"] if offline else []
    run, data = (Path(path) if path else None for path in (workdir, data_dir))
    with progress.stop_on_signal() as stop:
        return session.train(recipe, run, stop, data, offline, command, restart=restart)


def load(run: str | Path, seed: int | None = None) -> Callable[[Any], Any]:
    """Load a trained network as a function of images that returns probabilities.

    The images are uint8[N, 28, 28], 0..255, and the probabilities float32[N, 10]. The images must
    look like the training images. MNIST digits are light on dark, scaled and centered. `jaxdrill
    predict` prepares other pictures. See `weights.load` for the arguments.
    """
    from jaxdrill import weights

    return weights.load(Path(run), seed)


def write_report(
    runs: str | Path | Sequence[str | Path] = "runs",
    out: str | Path | None = None,
    detect: float | None = None,
) -> Path:
    """Write report.html and report.md of runs, like `jaxdrill report`.

    Args:
        runs: a run folder, a folder that contains run folders, or several of them.
        out: folder of the report. If None, it is the only folder of `runs`, or the folder that
            contains all of them.
        detect: a difference in percentage points. The report adds the number of seeds that detects
            it.

    Returns:
        The path of report.html.

    Raises:
        errors.UsageError: `runs` is empty, or the folders have different parents and `out` is None.
        errors.RunError: a run cannot be read.
    """
    from jaxdrill import report

    paths = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not paths:
        what = "Pass a run folder, or a folder that contains run folders."
        raise errors.UsageError(f"runs is empty. {what}")
    return report.write_report(paths, Path(out) if out else None, detect)


def _as_argument(name: str) -> str:
    """Return the keyword argument of a dotted field name."""
    return name.replace(".", "__")


def _plain(value: Any) -> Any:
    """Convert paths to str, and NumPy and JAX values to Python's. Return other values unchanged."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple | range):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value
