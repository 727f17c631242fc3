"""Reading run folders: a finished run as arrays, and what is said of a folder that holds none."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill.array_files import read_npz
from jaxdrill.config import drill_order, from_file
from jaxdrill.config.config import Config
from jaxdrill.errors import RunError, UsageError, print_error
from jaxdrill.runs.folder import (
    EVALUATED,
    TRAINED,
    predictions_file,
    read_metadata,
    read_predictions,
    read_rows,
)

ASIDE = re.compile(r"\.old_\d+$")  # ends the name of a run folder that `--restart` has set aside
REMADE = (
    "Delete its images.npz and repeat the command that trained it, which writes the file again."
)


@dataclass(frozen=True)
class Run:
    """What the folder of a finished run holds. Arrays have the seeds as their first axis, in the order of `seeds`."""

    folder: Path
    config: Config
    metadata: dict[str, Any]  # `run.json`
    seeds: list[int]
    metrics: dict[str, np.ndarray]  # the columns of TRAINED and EVALUATED, float64[S, E]
    labels: np.ndarray  # of the evaluated images, uint8[N]
    predicted: np.ndarray  # after the last epoch, uint8[S, N]
    probabilities: np.ndarray  # float16[S, N, 10]
    train_evaluation: (
        np.ndarray | None
    )  # accuracy in evaluation mode on a subset of the training images, float64[S]
    images: dict[
        int, np.ndarray
    ]  # some evaluated images, uint8[28, 28]; none if `images.npz` is not there
    left_out: list[int]  # seeds that the folder holds with another number of epochs

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.config.name

    @property
    def split(self) -> str:
        """Which images were evaluated: test or validation."""
        return self.metadata["split"]

    @property
    def dataset(self) -> str:
        """Return the dataset's name, and which images are held out if those are evaluated."""
        if self.split == "test":
            return self.config.data
        fold = f", fold {self.config.fold}" if self.config.fold else ""
        return f"{self.config.data} ({self.split}, {len(self.labels):,} images{fold})"

    def same_images(self, other: "Run") -> bool:
        """Return True if both runs were evaluated on the same images, in the same order.

        Compares the checksums of the evaluated images and labels. Runs of earlier versions have none; they are compared
        by the checksum of the whole dataset, the images held out, and the labels.
        """
        mine, theirs = (run.metadata.get("evaluated_sha256") for run in (self, other))
        if mine and theirs:
            return mine == theirs
        return self._evaluated() == other._evaluated() and np.array_equal(self.labels, other.labels)

    def _evaluated(self) -> tuple[Any, ...]:
        held_out = (self.config.hold_out, self.config.fold) if self.split != "test" else ()
        return self.metadata["dataset_sha256"], self.split, *held_out

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
    missing = [
        name
        for name in ("config.json", "run.json", "metrics.jsonl")
        if not (folder / name).is_file()
    ]
    if "config.json" in missing:
        raise RunError(
            f"{folder} is no run folder: it holds no config.json; name one that training wrote"
        )
    if missing:
        raise RunError(
            f"{folder} is half written: it holds no {missing[0]}; repeat the command that trained it"
        )
    try:
        metadata = read_metadata(folder)
        config = from_file(folder / "config.json")
        shown = _read_images(folder)
        again = f"finish it with: {shlex.join(metadata['command'])}"
        requested = metadata.get("seeds") or config.seed_list
        curves, left_out = _curves(folder, config, requested, f"{metadata['split']}_", again)
    except (ValueError, KeyError, AttributeError, TypeError, OSError, UsageError) as error:
        raise RunError(
            f"{folder} is damaged ({error}); train it again into another folder"
        ) from error
    if config.data != metadata["dataset"]:
        raise RunError(
            f"{folder} mixes datasets: config.json says {config.data}, run.json {metadata['dataset']}"
        )
    predictions = [_read_predictions(folder, seed, curve, again) for seed, curve in curves.items()]
    if shown and max(shown) >= len(predictions[0]["labels"]):
        raise RunError(
            f"{folder} mixes datasets: images.npz holds images beyond those evaluated. {REMADE}"
        )
    if any(not np.array_equal(each["labels"], predictions[0]["labels"]) for each in predictions):
        raise RunError(
            f"{folder} mixes datasets: the labels of its predictions differ from seed to seed"
        )
    metrics = {
        key: np.array([c[key] for c in curves.values()], np.float64)
        for key in (*TRAINED, *EVALUATED)
    }
    stacked = {
        key: np.stack([each[key] for each in predictions]) for key in ("predicted", "probabilities")
    }
    evaluated = [
        each["train_correct"] / each["train_examples"]
        for each in predictions
        if "train_correct" in each
    ]
    train_evaluation = (
        np.array(evaluated, np.float64) if len(evaluated) == len(predictions) else None
    )
    return Run(
        folder,
        config,
        metadata,
        list(curves),
        metrics,
        predictions[0]["labels"],
        **stacked,
        images=shown,
        train_evaluation=train_evaluation,
        left_out=left_out,
    )


Curve = dict[str, list[float]]


def _curves(
    folder: Path, config: Config, requested: Sequence[int], prefix: str, again: str
) -> tuple[dict[int, Curve], list[int]]:
    """Return the columns of each seed, and the seeds left out: unfinished, and not requested by the last command."""
    rows, damaged = read_rows(folder)
    if damaged:
        raise RunError(
            f"{folder} is damaged: line {damaged} of metrics.jsonl is cut short or wrong; {again}"
        )
    names = {key: key for key in TRAINED} | {key: prefix + key for key in EVALUATED}
    if lacking := [name for name in names.values() if any(name not in row for row in rows)]:
        raise ValueError(f"{lacking[0]} is missing in metrics.jsonl")
    curves, left_out = {}, []
    if len(rows) < len(requested):
        raise RunError(
            f"{folder} is half written: it has {len(rows)} epochs of {len(requested)} seeds; {again}"
        )
    for seed in sorted({row["seed"] for row in rows} | set(requested)):
        own = [row for row in rows if row["seed"] == seed]
        if len(own) == config.epochs and all(
            row["epoch"] == epoch for epoch, row in enumerate(own)
        ):
            curves[seed] = {key: [row[name] for row in own] for key, name in names.items()}
        elif seed in requested:
            raise RunError(
                f"{folder} is half written: seed {seed} has {len(own)} of {config.epochs} epochs; {again}"
            )
        else:
            left_out.append(seed)
    if len({count for curve in curves.values() for count in curve["examples"]}) > 1:
        raise RunError(
            f"{folder} mixes datasets: its epochs were evaluated on different numbers of images"
        )
    return curves, left_out


def _read_predictions(folder: Path, seed: int, curve: Curve, again: str) -> dict[str, np.ndarray]:
    """The predictions of a seed, checked against its last epoch; `again` says how to finish the run."""
    file = predictions_file(folder, seed)
    if not file.exists():
        raise RunError(f"{folder} is half written: predictions/{file.name} is missing; {again}")
    try:
        kept = read_predictions(file)
        same = int(kept["epoch"]) == curve["epoch"][-1]
        same &= bool(
            abs(np.mean(kept["predicted"] == kept["labels"]) - curve["accuracy"][-1]) < 1e-9
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(
            f"{folder} is damaged ({error}); delete predictions/{file.name} and {again}"
        ) from error
    if not same:
        what = f"predictions/{file.name} is not of the last epoch in metrics.jsonl"
        raise RunError(f"{folder} is half written: {what}; delete it and {again}")
    return kept


def _read_images(folder: Path) -> dict[int, np.ndarray]:
    """Return the images of `images.npz` by their index, none if the file is missing."""
    file = folder / "images.npz"
    if not file.exists():
        return {}
    try:
        kept = read_npz(file)
        index, images = kept["index"], kept["images"]
        if index.ndim != 1 or index.dtype.kind not in "iu" or (index < 0).any():
            raise ValueError(f"{file.name} holds no numbers of images")
        if (images.dtype, images.shape) != (np.uint8, (len(index), 28, 28)):
            raise ValueError(f"{file.name} holds no images")
    except (ValueError, KeyError, OSError) as error:
        raise RunError(f"{folder} is damaged ({error}). {REMADE}") from error
    return dict(zip(index.tolist(), images, strict=True))


def find(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Find run folders: a folder of run folders stands for those in it, by name, without archived ones.

    Returns:
        Each run folder, and whether it was found in a folder of run folders.
    """
    folders: list[tuple[Path, bool]] = []
    for path in paths:
        inside = sorted(
            file.parent for file in path.glob("*/config.json") if not ASIDE.search(file.parent.name)
        )
        several = bool(inside) and not (path / "config.json").exists()
        folders += [(folder, True) for folder in inside] if several else [(path, False)]
    return folders


def read_each(paths: Sequence[Path]) -> list[Run]:
    """Read runs, or all runs in folders of runs, in the order given.

    A run in a folder of runs that is unfinished or damaged is named on stderr and skipped.

    Raises:
        RunError: as `read`, for a run folder that was passed itself; or every run was skipped.
    """
    runs: list[Run] = []
    skipped: list[str] = []
    seen: set[Path] = set()
    for folder, in_folder in find(paths):
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            runs.append(read(folder))
        except RunError as error:
            if not in_folder:
                raise
            skipped.append(f"{error}")
    if not runs:
        raise RunError(
            f"no finished run was found: {skipped[0]}" if skipped else "no run folder was given"
        )
    for error in skipped:
        print_error(f"warning: a run is skipped: {error}")
    return runs


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read runs for a report: dataset by dataset, MNIST's test first, each in the order of the drill.

    Runs of the same recipe come in the order of their epochs, then of their folders.

    Raises:
        RunError: as `read_each`.
    """
    runs = read_each(paths)
    order = drill_order({run.name: run.config.extends for run in runs})
    return sorted(
        runs,
        key=lambda run: (
            run.dataset != "mnist",
            run.dataset,
            order.index(run.name),
            run.epochs,
            run.folder,
        ),
    )
