"""Reading run folders: a finished run as arrays, and what is said of a folder that holds none."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from jaxdrill.config import drill_order, from_file
from jaxdrill.errors import RunError, UsageError
from jaxdrill.files import read_json
from jaxdrill.recipe import Config
from jaxdrill.runs.folder import EVALUATED, FORMAT, TRAINED, Metadata, predictions_file, read_rows
from jaxdrill.tensors import read_npz

ASIDE = re.compile(r"\.old_\d+$")  # ends the name of a run folder that `--restart` has set aside


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
    images: dict[int, np.ndarray]  # some evaluated images, uint8[28, 28]; none if `images.npz` is not there
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
        """The dataset's name, and the split where it is not the test."""
        return self.config.data + (f" ({self.split})" if self.split != "test" else "")

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
        metadata = read_json(folder / "run.json")
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"{folder} was written by another version of jaxdrill (its format is {metadata.get('format', 1)}, this "
                f"one reads {FORMAT}); train it again into another folder, or read it with that version"
            )
        Metadata.model_validate(metadata)
        config = from_file(folder / "config.json")
        shown = _read_images(folder / "images.npz")
        again = f"finish it with: {shlex.join(metadata['command'])}"
        requested = metadata.get("seeds") or range(config.seed, config.seed + config.seeds)
        curves, left_out = _curves(folder, config, requested, f"{metadata['split']}_", again)
    except ValidationError as error:
        what = f"{'.'.join(map(str, error.errors()[0]['loc']))} in run.json: {error.errors()[0]['msg']}"
        raise RunError(f"{folder} is damaged ({what}); train it again into another folder") from error
    except (ValueError, KeyError, AttributeError, TypeError, OSError, UsageError) as error:
        raise RunError(f"{folder} is damaged ({error}); train it again into another folder") from error
    if config.data != metadata["dataset"]:
        raise RunError(f"{folder} mixes datasets: config.json says {config.data}, run.json {metadata['dataset']}")
    predictions = [_read_predictions(folder, seed, curve, again) for seed, curve in curves.items()]
    if any(not np.array_equal(each["labels"], predictions[0]["labels"]) for each in predictions):
        raise RunError(f"{folder} mixes datasets: the labels of its predictions differ from seed to seed")
    metrics = {key: np.array([c[key] for c in curves.values()], np.float64) for key in (*TRAINED, *EVALUATED)}
    stacked = {key: np.stack([each[key] for each in predictions]) for key in ("predicted", "probabilities")}
    return Run(folder, config, metadata, list(curves), metrics, predictions[0]["labels"], **stacked, images=shown,
               left_out=left_out)  # fmt: skip


Curve = dict[str, list[float]]


def _curves(
    folder: Path, config: Config, requested: Sequence[int], prefix: str, again: str
) -> tuple[dict[int, Curve], list[int]]:
    """Return the columns of each seed, and the seeds left out: unfinished, and not requested by the last command."""
    rows, damaged = read_rows(folder)
    if damaged:
        raise RunError(f"{folder} is damaged: line {damaged} of metrics.jsonl is cut short; {again}")
    names = {key: key for key in TRAINED} | {key: prefix + key for key in EVALUATED}
    if lacking := [name for name in names.values() if any(name not in row for row in rows)]:
        raise ValueError(f"{lacking[0]} is missing in metrics.jsonl")
    curves, left_out = {}, []
    if len(rows) < len(requested):
        raise RunError(f"{folder} is half written: it has {len(rows)} epochs of {len(requested)} seeds; {again}")
    for seed in sorted({row["seed"] for row in rows} | set(requested)):
        own = [row for row in rows if row["seed"] == seed]
        if len(own) == config.epochs and all(row["epoch"] == epoch for epoch, row in enumerate(own)):
            curves[seed] = {key: [row[name] for row in own] for key, name in names.items()}
        elif seed in requested:
            raise RunError(f"{folder} is half written: seed {seed} has {len(own)} of {config.epochs} epochs; {again}")
        else:
            left_out.append(seed)
    if len({count for curve in curves.values() for count in curve["examples"]}) > 1:
        raise RunError(f"{folder} mixes datasets: its epochs were evaluated on different numbers of images")
    return curves, left_out


def _read_predictions(folder: Path, seed: int, curve: Curve, again: str) -> dict[str, np.ndarray]:
    """The predictions of a seed, checked against its last epoch; `again` says how to finish the run."""
    file = predictions_file(folder, seed)
    if not file.exists():
        raise RunError(f"{folder} is half written: predictions/{file.name} is missing; {again}")
    try:
        kept = read_npz(file)
        same = int(kept["epoch"]) == curve["epoch"][-1]
        labels, predicted, probabilities = (kept[key] for key in ("labels", "predicted", "probabilities"))
        count = len(labels)
        if not (labels.dtype == predicted.dtype == np.uint8 and labels.shape == predicted.shape == (count,)):
            raise ValueError(f"{file.name} holds no labels and predictions")
        if probabilities.dtype != np.float16 or probabilities.shape != (count, 10) or not count:
            raise ValueError(f"{file.name} holds no probabilities of ten classes")
        if max(labels.max(), predicted.max()) > 9 or not np.isfinite(probabilities).all():
            raise ValueError(f"{file.name} holds something else than digits and their probabilities")
        same &= bool(abs(np.mean(predicted == labels) - curve["accuracy"][-1]) < 1e-9)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{folder} is damaged ({error}); delete predictions/{file.name} and {again}") from error
    if not same:
        what = f"predictions/{file.name} is not of the last epoch in metrics.jsonl"
        raise RunError(f"{folder} is half written: {what}; delete it and {again}")
    return kept


def _read_images(file: Path) -> dict[int, np.ndarray]:
    """The images of `images.npz` by their index, if it is there."""
    if not file.exists():
        return {}
    kept = read_npz(file)
    index, images = kept["index"], kept["images"]
    if index.ndim != 1 or index.dtype.kind not in "iu" or (images.dtype, images.shape[1:]) != (np.uint8, (28, 28)):
        raise ValueError(f"{file.name} holds no images")
    return dict(zip(index.tolist(), images, strict=True))


def find(paths: Sequence[Path]) -> list[Path]:
    """Run folders: a folder of run folders stands for those in it, by name, without what `--restart` set aside."""
    folders: list[Path] = []
    for path in paths:
        inside = sorted(file.parent for file in path.glob("*/config.json") if not ASIDE.search(file.parent.name))
        folders += inside if inside and not (path / "config.json").exists() else [path]
    return folders


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Reads runs, or all runs in folders of runs: dataset by dataset, MNIST's test first, each in the drill's order.

    Raises:
        RunError: as `read`; or two runs are of the same recipe, data and epochs.
    """
    runs: list[Run] = []
    for folder in find(paths):
        run = read(folder)
        for other in runs:
            if (other.name, other.dataset, other.epochs) == (run.name, run.dataset, run.epochs):
                raise RunError(f"{folder} is another run of {run.name}, beside {other.folder}; report them apart")
        runs.append(run)
    order = drill_order({run.name: run.config.extends for run in runs})
    return sorted(runs, key=lambda run: (run.dataset != "mnist", run.dataset, order.index(run.name), run.epochs))
