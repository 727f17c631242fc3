"""Read the folders of finished runs as arrays, and say why a folder cannot be read."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill.array_files import Arrays, read_npz
from jaxdrill.config import drill_order
from jaxdrill.config.config import Config
from jaxdrill.errors import RunError, print_error
from jaxdrill.runs.folder import (
    CONFIG,
    EVALUATED,
    IMAGES,
    METADATA,
    METRICS,
    RERUN,
    TRAINED,
    check_arrays,
    explain_damage,
    predictions_file,
    read_config,
    read_metadata,
    read_predictions,
    read_rows,
)

ARCHIVED = re.compile(r"\.old_\d+$")  # the end of the name of a run folder that --restart renamed


@dataclass(frozen=True)
class FinishedRun:
    """The content of a finished run's folder. The first axis of arrays is `seeds`."""

    folder: Path
    config: Config
    metadata: dict[str, Any]  # run.json
    seeds: list[int]
    metrics: dict[str, np.ndarray]  # float64[S, E] for each name in TRAINED and EVALUATED
    labels: np.ndarray  # uint8[N] of the evaluated images
    predicted: np.ndarray  # uint8[S, N] after the last epoch
    probabilities: np.ndarray  # float16[S, N, 10]
    train_evaluation: np.ndarray | None  # float64[S], training accuracy in evaluation mode
    images: dict[int, np.ndarray]  # some evaluated images, uint8[28, 28]; empty without images.npz
    left_out: list[int]  # seeds of the folder with another number of epochs

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.config.name

    @property
    def split(self) -> str:
        """The evaluated images: `test` or `validation`."""
        return self.metadata["split"]

    @property
    def epochs(self) -> int:
        """The number of epochs of each seed."""
        return self.metrics["epoch"].shape[1]

    @property
    def dataset(self) -> str:
        """The name of the dataset, followed by the held-out images if they are evaluated."""
        if self.split == "test":
            return self.config.data
        fold = f", fold {self.config.fold}" if self.config.fold else ""
        return f"{self.config.data} ({self.split}, {len(self.labels):,} images{fold})"

    def same_images(self, other: "FinishedRun") -> bool:
        """Return True if both runs were evaluated on the same images in the same order.

        Compares the checksums of the evaluated images and labels. Older versions did not record
        them; then the checksum of the whole dataset, the held-out images and the labels decide.
        """
        mine, theirs = (run.metadata.get("evaluated_sha256") for run in (self, other))
        if mine and theirs:
            return mine == theirs
        return self._evaluated() == other._evaluated() and np.array_equal(self.labels, other.labels)

    def _evaluated(self) -> tuple[Any, ...]:
        held_out = (self.config.hold_out, self.config.fold) if self.split != "test" else ()
        return self.metadata["dataset_sha256"], self.split, *held_out


def read(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: the folder is missing, incomplete, damaged, or of another version. The message
            names the file and the reason.
    """
    if not folder.is_dir():
        raise RunError(
            f"The run folder {folder} does not exist. Train into it first, or pass another folder."
        )
    config = read_config(folder)
    for name in (METADATA, METRICS):
        if not (folder / name).is_file():
            raise RunError(
                f"{folder} is incomplete: {name} is missing. Rerun the command that trained it."
            )
    metadata = read_metadata(folder)
    command = metadata["command"]
    if command[:3] == ["python", "-m", "jaxdrill.main"]:
        command = ["jaxdrill", "train", *command[3:]]
    finish = f"Finish it with: {shlex.join(command)}"
    mixed = f"{folder} mixes datasets"
    if config.data != metadata["dataset"]:
        raise RunError(f"{mixed}: {CONFIG} says {config.data}, {METADATA} {metadata['dataset']}.")
    seeds, metrics, left_out = _read_metrics(folder, config, metadata, finish)
    if len(np.unique(metrics["examples"])) > 1:
        raise RunError(f"{mixed}: its epochs were evaluated on different numbers of images.")
    accuracies = dict(zip(seeds, metrics["accuracy"][:, -1], strict=True))
    predictions = _read_predictions(folder, config.epochs - 1, accuracies, finish)
    images = _read_images(folder)
    if max(images, default=-1) >= len(predictions["labels"]):
        beyond = f"{IMAGES} contains images beyond the evaluated ones. Delete it. {RERUN}"
        raise RunError(f"{mixed}: {beyond}")
    return FinishedRun(
        folder,
        config,
        metadata,
        seeds,
        metrics,
        images=images,
        left_out=left_out,
        **predictions,
    )


def _read_metrics(
    folder: Path, config: Config, metadata: dict[str, Any], finish: str
) -> tuple[list[int], dict[str, np.ndarray], list[int]]:
    """Read `metrics.jsonl`.

    Returns:
        The finished seeds; their columns, as in `FinishedRun.metrics`; and the seeds left out: they
        are unfinished, and the last command did not request them.
    """
    columns = {name: name for name in TRAINED}
    columns |= {name: f"{metadata['split']}_{name}" for name in EVALUATED}
    with explain_damage(folder / METRICS, finish):
        rows, damaged = read_rows(folder)
        if damaged:
            raise ValueError(f"line {damaged} is cut short or invalid")
        for key in columns.values():
            if any(key not in row for row in rows):
                raise ValueError(f"{key} is missing")
    incomplete = f"{folder} is incomplete: "
    numbers = config.seeds
    numbers = range(config.seed, config.seed + numbers) if isinstance(numbers, int) else numbers
    requested = metadata.get("seeds") or numbers
    if len(rows) < len(requested):  # A damaged number of seeds can be too large for a set.
        problem = f"it has {len(rows)} epochs of {len(requested)} seeds"
        raise RunError(f"{incomplete}{problem}. {finish}")
    seeds, left_out = [], []
    for seed in sorted({row["seed"] for row in rows} | set(requested)):
        epochs = [row["epoch"] for row in rows if row["seed"] == seed]
        if len(epochs) == config.epochs and epochs == list(range(config.epochs)):
            seeds.append(seed)
        elif seed in requested:
            problem = f"seed {seed} has {len(epochs)} of {config.epochs} epochs"
            raise RunError(f"{incomplete}{problem}. {finish}")
        else:
            left_out.append(seed)
    rows = sorted((row for row in rows if row["seed"] in seeds), key=lambda row: row["seed"])
    shape = len(seeds), config.epochs
    return (
        seeds,
        {
            name: np.array([row[key] for row in rows], np.float64).reshape(shape)
            for name, key in columns.items()
        },
        left_out,
    )


def _read_predictions(
    folder: Path, epoch: int, accuracies: dict[int, float], finish: str
) -> dict[str, Any]:
    """Read the predictions of seeds after the last epoch, whose accuracies must be the given ones.

    Returns:
        The fields labels, predicted, probabilities and train_evaluation of a `FinishedRun`.
    """
    seeds: list[Arrays] = []
    for seed, accuracy in accuracies.items():
        file = predictions_file(folder, seed)
        if not file.exists():
            raise RunError(f"{folder} is incomplete: predictions/{file.name} is missing. {finish}")
        with explain_damage(file, f"Delete it. {finish}"):
            arrays = read_predictions(file)
            found = np.mean(arrays["predicted"] == arrays["labels"])
            if arrays["epoch"] != epoch or abs(found - accuracy) >= 1e-9:
                raise ValueError(f"it is not of the last epoch in {METRICS}")
        if seeds and not np.array_equal(arrays["labels"], seeds[0]["labels"]):
            raise RunError(f"{folder} mixes datasets: the labels differ between its predictions.")
        seeds.append(arrays)
    train = [a["train_correct"] / a["train_examples"] for a in seeds if "train_correct" in a]
    return {
        "labels": seeds[0]["labels"],
        "predicted": np.stack([arrays["predicted"] for arrays in seeds]),
        "probabilities": np.stack([arrays["probabilities"] for arrays in seeds]),
        "train_evaluation": np.array(train) if len(train) == len(seeds) else None,
    }


def _read_images(folder: Path) -> dict[int, np.ndarray]:
    """Read `images.npz`, which may be missing."""
    file = folder / IMAGES
    if not file.exists():
        return {}
    with explain_damage(file, f"Delete it. {RERUN}"):
        arrays = read_npz(file)
        check_arrays(arrays, {"index": "int[N]", "images": "uint8[N, 28, 28]"})
        if (arrays["index"] < 0).any():
            raise ValueError("index is negative")
    return dict(zip(arrays["index"].tolist(), arrays["images"], strict=True))


def find(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Find run folders, each once. A folder of run folders stands for those in it, by name.

    Run folders that `--restart` archived are not found in a folder of run folders.

    Returns:
        Each run folder, and True if it was found in a folder of run folders.
    """
    found: dict[Path, tuple[Path, bool]] = {}
    for path in paths:
        inside = sorted(file.parent for file in path.glob(f"*/{CONFIG}"))
        inside = [folder for folder in inside if not ARCHIVED.search(folder.name)]
        several = bool(inside) and not (path / CONFIG).exists()
        for folder in inside if several else [path]:
            found.setdefault(folder.resolve(), (folder, several))
    return list(found.values())


def read_each(paths: Sequence[Path]) -> list[FinishedRun]:
    """Read runs, or all runs in folders of run folders, in the given order.

    A run in a folder of run folders that is incomplete or damaged is skipped with a warning.

    Raises:
        RunError: as `read`, for a run folder that was passed itself; or no run could be read.
    """
    runs: list[FinishedRun] = []
    skipped: list[str] = []
    for folder, in_folder in find(paths):
        try:
            runs.append(read(folder))
        except RunError as error:
            if not in_folder:
                raise
            skipped.append(f"{error}")
    if not runs:
        raise RunError(
            f"No finished run was found: {skipped[0]}" if skipped else "No run folder was passed."
        )
    for error in skipped:
        print_error(f"warning: a run is skipped: {error}")
    return runs


def read_all(paths: Sequence[Path]) -> list[FinishedRun]:
    """Read runs for a report, as `read_each` does, and sort them.

    Runs are sorted by dataset (MNIST's test set first), then in the order of the drill, then by the
    number of epochs and the folder.
    """
    runs = read_each(paths)
    order = drill_order({run.name: run.config.extends for run in runs})

    def position(run: FinishedRun) -> tuple[Any, ...]:
        return run.dataset != "mnist", run.dataset, order.index(run.name), run.epochs, run.folder

    return sorted(runs, key=position)
