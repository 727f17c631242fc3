"""What made a run: versions, devices, processor, commit; and what decides its bits."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import jax

from jaxdrill import __version__
from jaxdrill.config.config import Config
from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError
from jaxdrill.runs.folder import FORMAT, START_OVER
from jaxdrill.training import devices
from jaxdrill.training.random import GENERATOR

# Packages that determine results; those of accelerators are recorded where one is used.
LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "scikit-learn",
    "tensorflow-datasets",
)
ACCELERATORS = re.compile(
    r"libtpu|jax[-_](cuda|rocm)\d*[-_](plugin|pjrt)|nvidia[-_](cudnn|cublas)([-_]cu\d+)?"
)
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
    """Return the content of `run.json`.

    Args:
        config: the recipe, with the requested seeds.
        dataset: that is trained on.
        identity: of the run, see `identity`.
        parameters: how many the network has.
        command: of this session.
        previous: the file's content after the last session, or empty.
    """
    session = {
        "command": command,
        "seeds": config.seed_list,
        "versions": {"python": platform.python_version(), "jaxdrill": __version__}
        | _library_versions(),
        "devices": [
            f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()
        ],
        "processor": _processor(),
        "git_commit": git_commit(Path(__file__).parents[1]),
    }
    # A session that only repeats this one, after a stop, adds nothing. Older files lack the seeds and some commands.
    last = {key: previous[key] for key in session if key in previous}
    earlier = [*previous.get("earlier_sessions", []), last] if last else []
    return {
        "format": FORMAT,
        "step": config.name,
        "parameters": parameters,
        "dataset": dataset.name,
        "dataset_sha256": identity["dataset_sha256"],
        "evaluated_sha256": dataset.evaluated_sha256,
        "dataset_files": dataset.files,
        "init_sha256": identity.get("init_sha256", ""),
        "split": dataset.split,
        "matmul_precision": config.execution.matmul_precision,
        **session,
        "earlier_sessions": [each for each in earlier if each != session],
        "seconds": previous.get(
            "seconds", dict.fromkeys(("data", "compile", "train", "evaluation"), 0.0)
        ),
    }


def identity(config: Config, dataset_sha256: str, init_sha256: str = "") -> dict[str, Any]:
    """What decides the bits of a run on given devices, by dotted name: the recipe's fields, data, generator, and the
    weights that it starts from, if it does."""
    table = config.model_dump(mode="json")
    table = {key: value for key, value in table.items() if key not in FREE and key != "execution"}
    if config.schedule.has_horizon:
        table["epochs"] = config.epochs
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    inner = {
        f"{key}.{name}": value for key, values in tables.items() for name, value in values.items()
    }
    flat = {key: value for key, value in table.items() if key not in tables}
    precision = {"execution.matmul_precision": config.execution.matmul_precision}
    sums = {"dataset_sha256": dataset_sha256} | (
        {"init_sha256": init_sha256} if init_sha256 else {}
    )
    # Older versions held out drawings of digits whose other drawings they trained on: a run is not continued so.
    by_source = (
        {"hold_out_by": "source image"} if config.hold_out and config.data == "digits" else {}
    )
    return flat | inner | precision | sums | by_source | {"generator": GENERATOR}


def assert_same_identity(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Compare the identity of the run in a folder with that of the run to train; both are results of `identity`.

    Raises:
        UsageError: they differ.
    """
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        what = (
            "another network"
            if key == "network"
            else f"{key} = {old.get(key)}; now it is {new.get(key)}"
        )
        reason = " (its schedule ends with the last epoch)" if key == "epochs" else ""
        raise UsageError(f"{workdir} holds a run with {what}{reason}. {START_OVER}")


def git_commit(package: Path) -> str | None:
    """The commit of this code, `-dirty` if it was changed since, if the package stands in a repository of its own."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, timeout=10)
        return os.fsdecode(done.stdout).strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != package.resolve().parent:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that determine results, by the name of their package."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # A nightly build has another package name.
            found[name] = version(name)
    if jax.default_backend() != "cpu":
        names = {each.name: each.version for each in distributions()}
        found |= {name: names[name] for name in sorted(names) if ACCELERATORS.fullmatch(name)}
    return found


def _processor() -> str:
    """The processor's model and how many of its cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, ValueError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {devices.cores()} cores"
