"""Provenance of a run: versions, devices, processor and commit; and what determines its results."""

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
from jaxdrill.runs.folder import FORMAT, START_OVER, Seconds
from jaxdrill.training import devices
from jaxdrill.training.random import GENERATOR

LIBRARIES = ["jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn"]
LIBRARIES += ["tensorflow-datasets"]
# Packages of accelerators determine results too, and are recorded only where one is used.
ACCELERATORS = re.compile(
    r"libtpu|jax[-_](cuda|rocm)\d*[-_](plugin|pjrt)|nvidia[-_](cudnn|cublas)([-_]cu\d+)?"
)
# Fields that may change when a run is resumed. `init_from` is compared by its checksum.
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
        dataset: the training and evaluated images.
        identity: of the run; see `identity`.
        parameters: the network's number of parameters.
        command: of this session.
        previous: the content of `run.json` after the last session, or empty.
    """
    python = {"python": platform.python_version(), "jaxdrill": __version__}
    session = {
        "command": command,
        "seeds": config.seed_list,
        "versions": python | _library_versions(),
        "devices": [f"{each.platform}:{each.id} {each.device_kind}" for each in jax.devices()],
        "processor": _processor(),
        "git_commit": git_commit(Path(__file__).parents[1]),
    }
    # Rerunning a stopped command adds no session. Older versions recorded fewer fields.
    last = {key: previous[key] for key in session if key in previous}
    earlier = [*previous.get("earlier_sessions", []), *([last] if last else [])]
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
        "seconds": previous.get("seconds", dict.fromkeys(Seconds.model_fields, 0.0)),
    }


def identity(config: Config, dataset_sha256: str, init_sha256: str = "") -> dict[str, Any]:
    """Return what determines the results of a run on given devices, by dotted name.

    This is the recipe's fields except FREE, the checksums of the data and of the initial weights,
    and the random number generator.
    """
    table = config.model_dump(mode="json", exclude={*FREE, "execution"})
    if config.schedule.has_horizon:
        table["epochs"] = config.epochs
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    found = {key: value for key, value in table.items() if key not in tables}
    found |= {f"{key}.{name}": tables[key][name] for key in tables for name in tables[key]}
    found["execution.matmul_precision"] = config.execution.matmul_precision
    found["dataset_sha256"] = dataset_sha256
    if init_sha256:
        found["init_sha256"] = init_sha256
    if config.hold_out and config.data == "digits":
        # Older versions trained on other drawings of held-out digits; such runs are not resumed.
        found["hold_out_by"] = "source image"
    return found | {"generator": GENERATOR}


def check_same_identity(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Check that the run in a folder may be resumed. `old` and `new` are results of `identity`.

    Raises:
        UsageError: the identities differ. The message names a field with both values.
    """
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            values = f"{key} = {old.get(key)}; now it is {new.get(key)}"
            values += " (its schedule ends with the last epoch)" if key == "epochs" else ""
            other = "another network" if key == "network" else values
            raise UsageError(f"{workdir} holds a run with {other}. {START_OVER}")


def git_commit(package: Path) -> str | None:
    """Return the commit of the code, with `-dirty` if files have changed.

    Returns None unless the package is in a Git repository of its own.
    """

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
    """Return the versions of the installed libraries that determine results."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # A nightly build has another package name.
            found[name] = version(name)
    if jax.default_backend() != "cpu":
        names = {each.name: each.version for each in distributions()}
        found |= {name: names[name] for name in sorted(names) if ACCELERATORS.fullmatch(name)}
    return found


def _processor() -> str:
    """Return the processor's model and the number of cores available to this process."""
    found = None
    with suppress(OSError, ValueError):
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^model name[^:]*:(.*)$", text, re.MULTILINE)
    # platform.processor() starts a process, so it is only the fallback.
    model = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{model}, {devices.cores()} cores"
