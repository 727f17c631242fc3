"""The run folder as files: what is in it, how it is written so that no reader sees half a file, and how it is read.

It needs no JAX.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import config as recipe
from jaxdrill.errors import RunError, UsageError

FORMAT = 2  # it grows when a reader of the older one would go wrong
METRICS = {
    "seed", "epoch", "step", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "test_examples", "seconds",
}  # fmt: skip
ABOUT = {
    "command", "parameters", "dataset", "dataset_sha256", "versions", "devices", "processor", "git_commit",
    "earlier_sessions", "seconds",
}  # fmt: skip


def predictions_file(folder: Path, seed: int) -> Path:
    """Of one seed, after its last epoch: epoch int, labels uint8[N], predicted uint8[N] and probabilities
    float16[N, 10], rounded to four decimals, of the test images."""
    return folder / "predictions" / f"seed_{seed}.npz"


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one go: a reader sees the old text or the new, never half."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """As `write_text`, for a compressed npz file."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} cannot be read") from error


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The config with dotted names in place of tables."""
    tables = {key for key, value in config.items() if isinstance(value, dict)}
    inner = {f"{key}.{name}": value for key in tables for name, value in config[key].items()}
    return {key: value for key, value in config.items() if key not in tables} | inner


@dataclass(frozen=True)
class Run:
    """What the folder of a finished run holds. Arrays have the seeds as their first axis, in the order of `seeds`."""

    folder: Path
    config: recipe.Config
    about: dict[str, Any]  # `run.json`
    seeds: list[int]
    metrics: dict[str, np.ndarray]  # each column of `metrics.jsonl`, float64[S, E]
    labels: np.ndarray  # of the test images, uint8[N]
    predicted: np.ndarray  # after the last epoch, uint8[S, N]
    probabilities: np.ndarray  # float16[S, N, 10]
    images: dict[int, np.ndarray]  # some test images, uint8[28, 28]; none if `images.npz` is not there

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.config.name

    @property
    def epochs(self) -> int:
        """How many epochs each seed was trained."""
        return self.metrics["epoch"].shape[1]


def read(folder: Path) -> Run:
    """Reads a finished run.

    Raises:
        RunError: the folder is missing, half written, damaged, or of another version; the line names it and the reason.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}; train into it first, or name another")
    missing = [name for name in ("config.json", "run.json", "metrics.jsonl") if not (folder / name).is_file()]
    if "config.json" in missing:
        raise RunError(f"{folder} is no run folder: it holds no config.json; name one that training wrote")
    if missing:
        raise RunError(f"{folder} is half written: it holds no {missing[0]}; repeat the command that trained it")
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if about.get("format") != FORMAT:
            raise RunError(
                f"{folder} was written by another version of jaxdrill (its format is {about.get('format', 1)}, this "
                f"one reads {FORMAT}); train it again into another folder, or read it with that version"
            )
        table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = recipe.from_table(table.pop("name"), table, f"{folder / 'config.json'}")
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        for keys, found in ((ABOUT, about), *((METRICS, row) for row in rows)):
            if lacking := sorted(keys - found.keys()):
                raise ValueError(f"{lacking[0]} is missing in {'run.json' if keys is ABOUT else 'metrics.jsonl'}")
        images = read_arrays(folder / "images.npz") if (folder / "images.npz").exists() else {"index": [], "images": []}
        shown = dict(zip(np.asarray(images["index"]).tolist(), images["images"], strict=True))
    except (ValueError, KeyError, AttributeError, TypeError, OSError, UsageError) as error:
        raise RunError(f"{folder} is damaged ({error}); train it again into another folder") from error
    if config.data != about["dataset"]:
        raise RunError(f"{folder} mixes datasets: config.json says {config.data}, run.json {about['dataset']}")
    again = f"finish it with: {' '.join(about['command'])}"
    curves: dict[int, list[dict[str, Any]]] = {seed: [] for seed in range(config.seed, config.seed + config.seeds)}
    for row in rows:
        curves.setdefault(row["seed"], []).append(row)
    for seed, curve in curves.items():
        if [row["epoch"] for row in curve] != list(range(config.epochs)):
            raise RunError(f"{folder} is half written: seed {seed} has {len(curve)} of {config.epochs} epochs; {again}")
    if len({row["test_examples"] for row in rows}) > 1:
        raise RunError(f"{folder} mixes datasets: its epochs were tested on different numbers of images")
    seeds = sorted(curves)
    predictions = [_read_predictions(folder, seed, curves[seed][-1], again) for seed in seeds]
    metrics = {key: np.array([[row[key] for row in curves[seed]] for seed in seeds], np.float64) for key in METRICS}
    stacked = {key: np.stack([each[key] for each in predictions]) for key in ("predicted", "probabilities")}
    return Run(folder, config, about, seeds, metrics, predictions[0]["labels"], **stacked, images=shown)


def _read_predictions(folder: Path, seed: int, last: dict[str, Any], again: str) -> dict[str, np.ndarray]:
    """The predictions of a seed, checked against its last row; `again` says how to finish the run."""
    file = predictions_file(folder, seed)
    if not file.exists():
        raise RunError(f"{folder} is half written: predictions/{file.name} is missing; {again}")
    try:
        kept = read_arrays(file)
        same = int(kept["epoch"]) == last["epoch"]
        same &= abs(np.mean(kept["predicted"] == kept["labels"]) - last["test_accuracy"]) < 1e-9
    except (ValueError, KeyError) as error:
        raise RunError(f"{folder} is damaged ({error}); delete predictions/{file.name} and {again}") from error
    if not same:
        what = f"predictions/{file.name} is not of the last epoch in metrics.jsonl"
        raise RunError(f"{folder} is half written: {what}; delete it and {again}")
    return kept


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Reads runs that can be compared. A folder of run folders stands for those in it, by name.

    Raises:
        RunError: as `read`; or the runs have different data or numbers of epochs, or two have the same name.
    """
    folders: list[Path] = []
    for path in paths:
        inside = sorted(file.parent for file in path.glob("*/config.json"))
        folders += inside if inside and not (path / "config.json").exists() else [path]
    runs = [read(folder) for folder in folders]
    for n, run in enumerate(runs):
        first = runs[0]
        if run.about["dataset_sha256"] != first.about["dataset_sha256"]:
            raise RunError(
                f"{run.folder} was trained on {run.config.data}, {first.folder} on {first.config.data}: "
                "they cannot be compared; report them apart"
            )
        if run.epochs != first.epochs:
            raise RunError(
                f"{run.folder} has {run.epochs} epochs, {first.folder} {first.epochs}: they cannot be compared; "
                "train the shorter one on, or report them apart"
            )
        if same := [other for other in runs[:n] if other.name == run.name]:
            raise RunError(f"{run.folder} is another run of {run.name}, beside {same[0].folder}; report them apart")
    return runs
