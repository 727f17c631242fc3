"""What made a run: versions, devices, processor, commit; and what decides its bits."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxdrill import __version__
from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError
from jaxdrill.recipe import Config
from jaxdrill.runs.folder import FORMAT, START_OVER
from jaxdrill.training import backend
from jaxdrill.training.random import GENERATOR

# Fields with which a run may be continued; what `init_from` names is compared by its sum.
FREE = {"epochs", "seed", "seeds", "goal", "extends", "init_from"}


def describe_run(
    config: Config,
    dataset: Dataset,
    identity: dict[str, Any],
    parameters: int,
    command: list[str],
    previous: dict[str, Any],
) -> dict[str, Any]:
    """What `run.json` says of a run; `identity` is that of the run, `previous` what the file said before, or empty."""
    session = {
        "command": command,
        "versions": {"python": platform.python_version(), "jaxdrill": __version__}
        | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "processor": _processor(),
        "git_commit": git_commit(Path(__file__).parents[1]),
    }
    # What earlier sessions of the run were made by, where that was something else than now.
    keys = ("versions", "devices", "processor", "git_commit")
    earlier = [*previous.get("earlier_sessions", []), {key: previous[key] for key in keys}] if previous else []
    return {
        "format": FORMAT,
        "step": config.name,
        "parameters": parameters,
        "dataset": dataset.name,
        "dataset_sha256": identity["dataset_sha256"],
        "dataset_files": dataset.files,
        "init_sha256": identity.get("init_sha256", ""),
        "split": dataset.split,
        "matmul_precision": config.execution.matmul_precision,
        **session,
        "earlier_sessions": [each for each in earlier if any(each[key] != session[key] for key in keys)],
        "seconds": previous.get("seconds", dict.fromkeys(("data", "compile", "train", "evaluation"), 0.0)),
    }


def identity(config: Config, dataset_sha256: str, init_sha256: str = "") -> dict[str, Any]:
    """What decides the bits of a run on given devices, by dotted name: the recipe's fields, data, generator, and the
    weights that it starts from, if it does."""
    table = config.model_dump(mode="json")
    table = {key: value for key, value in table.items() if key not in FREE and key != "execution"}
    if config.schedule.has_horizon:
        table["epochs"] = config.epochs
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    inner = {f"{key}.{name}": value for key, values in tables.items() for name, value in values.items()}
    flat = {key: value for key, value in table.items() if key not in tables}
    precision = {"execution.matmul_precision": config.execution.matmul_precision}
    sums = {"dataset_sha256": dataset_sha256} | ({"init_sha256": init_sha256} if init_sha256 else {})
    return flat | inner | precision | sums | {"generator": GENERATOR}


def assert_same_identity(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Compare the identity of the run in a folder with that of the run to train; both are results of `identity`.

    Raises:
        UsageError: they differ.
    """
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        what = "another network" if key == "network" else f"{key} = {old.get(key)}; now it is {new.get(key)}"
        reason = " (its schedule ends with the last epoch)" if key == "epochs" else ""
        raise UsageError(f"{workdir} holds a run with {what}{reason}. {START_OVER}")


def git_commit(package: Path) -> str | None:
    """The commit of this code, `-dirty` if it was changed since, if the package stands in a repository of its own."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != package.resolve().parent:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _processor() -> str:
    """The processor's model and how many of its cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {backend.cores()} cores"
