"""The MNIST drill in JAX: five small networks, each one change away from the last.

The functions here are what the commands use. Each imports what it needs when it is called.

Messages go through Python's logger `jaxdrill`. By default it prints progress (level INFO) to stdout, and warnings to
stderr. `logging.getLogger("jaxdrill").setLevel("WARNING")` silences the progress and the progress bar, `"ERROR"` the
warnings too.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdrill import errors

__version__ = "0.1.0"


def tune_memory() -> bool:
    """Tell glibc to keep the memory of freed arrays for the whole process, so that training steps on CPU can reuse it.

    Otherwise each step fetches its memory from the kernel again. The command `train` does the same. The process holds
    as much memory as it needed at most, until it ends. The environment variables `MALLOC_MMAP_THRESHOLD_=1073741824`
    and `MALLOC_TRIM_THRESHOLD_=2147483647` have the same effect if they are set before Python starts.

    Returns:
        False if the process does not use glibc; then nothing changes.
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
    """Train a step of the drill or a recipe file, as `python -m jaxdrill.main` does.

    The process stays as it was: JAX's devices, compilation cache and memory settings are the caller's. The command sets
    them to be faster on CPU. For the same speed set these environment variables before Python starts:
    `JAX_NUM_CPU_DEVICES` to the number of cores, `JAX_COMPILATION_CACHE_DIR` to a folder,
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1`; and call `tune_memory`. During the call SIGINT and SIGTERM request
    a graceful stop.

    Args:
        step: a step (`5`, `"5"` or `"step_5"`) or the path of a recipe (`"mine.toml"`).
        workdir: the run folder; `runs/step_5` and the like if None. An unfinished run in it is resumed.
        data_dir: a folder with the four official idx files, or with your own.
        offline: make no network call.
        restart: start over; an existing run folder is renamed.
        fields: recipe fields, with `__` for the dot: `epochs=3, optimizer__learning_rate=0.02`. A str is read as on the
            command line.

    Returns:
        The run folder.

    Raises:
        errors.UsageError, errors.RunError, errors.Stopped: with the command's message.
    """
    from jaxdrill import config
    from jaxdrill.runs import progress, session

    if f"{step}" == "all":
        raise errors.UsageError(
            "train() trains one step, and step is all. Call it for each name of config.steps()."
        )
    flags = {name.replace("__", "."): _plain(value) for name, value in fields.items()}
    config.check_names(flags, _as_argument, ("workdir", "data_dir", "offline", "restart"))
    recipe = config.load(f"{step}", flags, _as_argument)
    command = ["python", "-m", "jaxdrill.main", "--step", f"{step}"]
    for name, value in (flags | {"workdir": workdir or None, "data_dir": data_dir or None}).items():
        text = f"{value}".lower() if isinstance(value, bool) else f"{value}"
        command += [config.as_flag(name), text] if value is not None else []
    command += ["--offline"] if offline else []
    with progress.stop_on_signal() as stop:
        return session.train(
            recipe,
            Path(workdir) if workdir else None,
            stop,
            Path(data_dir) if data_dir else None,
            offline,
            command,
            restart=restart,
        )


def load(run: str | Path, seed: int | None = None) -> Callable[[Any], Any]:
    """Load a trained network as a function from images uint8[N, 28, 28], 0..255, to probabilities float32[N, 10].

    The images must look as the training images did (MNIST's: light on dark, scaled and centred). Pictures of other
    kinds are prepared by `jaxdrill.predict`. See `runs.weights.load`.
    """
    from jaxdrill import weights

    return weights.load(Path(run), seed)


def write_report(
    runs: str | Path | Sequence[str | Path] = "runs",
    out: str | Path | None = None,
    detect: float | None = None,
) -> Path:
    """Write report.html and report.md of runs, as `python -m jaxdrill.report` does.

    Args:
        runs: a run folder, a folder of run folders, or several of them.
        out: the folder of the report; if None, the only folder of `runs`, or the folder that contains all of them.
        detect: a difference in percentage points; the report says how many seeds detect it.

    Returns:
        The path of report.html.

    Raises:
        errors.UsageError: `runs` is empty, or the folders have different parents and `out` is None.
        errors.RunError: a run cannot be read.
    """
    from jaxdrill import report

    paths = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not paths:
        raise errors.UsageError(
            "runs is empty. Pass a run folder, or a folder that contains run folders."
        )
    return report.write_report(paths, Path(out) if out else None, detect)


def _as_argument(name: str) -> str:
    """Return the keyword argument of a dotted field name."""
    return name.replace(".", "__")


def _plain(value: Any) -> Any:
    """Return a path as str and a NumPy scalar as Python's number; anything else is returned as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "shape", None) == () else value
