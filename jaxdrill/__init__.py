"""The MNIST drill in JAX: five small networks, each one change away from the last.

The functions here are what the commands use. Each imports what it needs when it is called.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def train(
    step: str,
    workdir: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    offline: bool = False,
    **fields: Any,
) -> Path:
    """Trains a step of the drill (`5` or `step_5`), or a recipe file, as `python -m jaxdrill.main` does.

    Args:
        step: as `--step`, but for `all`.
        workdir: the run folder; `runs/step_5` and the like if None. A run that it holds in part is continued.
        data_dir: a folder with the four official idx files, or with one's own.
        offline: make no network call.
        fields: fields of the recipe with `__` for the dot: `epochs=3, optimizer__learning_rate=0.02`.

    Returns:
        The run folder.

    Raises:
        errors.UsageError, errors.RunError, errors.Stopped: as the command, in one line.
    """
    from jaxdrill import config
    from jaxdrill.runs import session, stopping

    flags = {name.replace("__", "."): f"{value}" for name, value in fields.items()}
    command = ["python", "-m", "jaxdrill.main", "--step", step]
    for name, value in (flags | {"workdir": workdir, "data-dir": data_dir}).items():
        command += [f"--{name.replace('_', '-')}", f"{value}"] if value is not None else []
    command += ["--offline"] if offline else []
    with stopping.stop_on_signal() as stop:
        return session.train(config.load(step, flags), Path(workdir) if workdir else None, stop,
                             Path(data_dir) if data_dir else None, offline, command)  # fmt: skip


def load(run: str | Path, seed: int | None = None) -> Callable[[Any], Any]:
    """Return a trained network as a function from images uint8[N, 28, 28], 0..255, to probabilities float32[N, 10].

    The images must look as the training images did (MNIST's: light on dark, scaled and centred). Pictures of other
    kinds are prepared by `jaxdrill.predict`. See `runs.weights.load`.
    """
    from jaxdrill.runs import weights

    return weights.load(Path(run), seed)


def write_report(runs: Sequence[str | Path] = ("runs",), out: str | Path | None = None) -> Path:
    """Writes report.html and report.md of runs, as `python -m jaxdrill.report` does, and returns the former's path."""
    from jaxdrill import report

    return report.write_report([Path(run) for run in runs], Path(out) if out else None)
