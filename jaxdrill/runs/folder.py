"""The run folder: its files, their columns, and the one writer of each. `reader` reads a whole run. Neither needs JAX.

`config.json` is the resolved recipe, `run.json` what made the run, `metrics.jsonl` a line for each epoch and seed,
`predictions/` each seed's answers after the last epoch, `images.npz` the images that a report shows.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import softmax

from jaxdrill.array_files import read_npz, write_npz
from jaxdrill.config.config import Config
from jaxdrill.errors import RunError
from jaxdrill.files import parse_json, read_bytes, read_json, write_text

FORMAT = 3  # it grows when a reader of the older one would go wrong
LARGEST_NUMBER = 1e30  # in metrics.jsonl: what is read can be squared and added, as statistics do
FOLDERS = ("predictions", "weights", "checkpoints", "tensorboard")
NAMES = (
    "config.json",
    "run.json",
    "metrics.jsonl",
    "images.npz",
    *FOLDERS,
)  # of what training writes
# What to do if a run cannot be continued.
START_OVER = "Pass --restart to archive that run and start over, or pass another --workdir."
TRAINED = ("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "seconds")
EVALUATED = (
    "loss",
    "accuracy",
    "examples",
)  # in the file `test_loss` or `validation_loss` and so on


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Session(_Read):
    """What `run.json` says of a session of a run."""

    versions: dict[str, str]
    devices: list[str] = Field(min_length=1)
    processor: str
    git_commit: str | None
    command: list[str] = []  # older files do not say that of earlier sessions
    seeds: list[int] = []  # that the command requested; older files do not say


class Seconds(_Read):
    """The seconds of each phase, of all sessions."""

    data: float = Field(ge=0)
    compile: float = Field(ge=0)
    train: float = Field(ge=0)
    evaluation: float = Field(ge=0)


class Metadata(Session):
    """What every reader may count on in `run.json`, which says more."""

    command: list[str]  # pyright: ignore[reportGeneralTypeIssues]
    parameters: int = Field(ge=0, lt=2**63)
    dataset: str
    dataset_sha256: str
    evaluated_sha256: str | None = None  # not in runs of earlier versions
    split: Literal["test", "validation"]
    earlier_sessions: list[Session]
    seconds: Seconds


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the `run.json` of a run folder. Whoever resumes the run and whoever reads it get the same checks.

    Raises:
        OSError: the file is missing or cannot be read.
        RunError: the file is damaged, or another version of jaxdrill wrote it.
    """
    try:
        metadata = read_json(folder / "run.json")
        if not isinstance(metadata, dict):
            raise ValueError("run.json is not a JSON object")
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"{folder} was written by another version of jaxdrill (its format is {metadata.get('format', 1)}, this "
                f"one reads {FORMAT}). Use that version to read or continue it. {START_OVER}"
            )
        Metadata.model_validate(metadata)
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = (
            f"{'.'.join(map(str, first['loc']))} in run.json: {first['msg']}"
            if first
            else f"run.json: {error}"
        )
        raise RunError(
            f"{folder} is damaged ({what}). Delete its run.json and repeat the command that trained it, which writes "
            "the file again."
        ) from error
    return metadata


Rows = list[dict[str, Any]]


def predictions_file(folder: Path, seed: int) -> Path:
    """Return the path of a seed's predictions after its last epoch.

    The file holds epoch int; of the evaluated images labels uint8[N], predicted uint8[N] and probabilities
    float16[N, 10], rounded to four decimals; and of a subset of the training images, in evaluation mode, train_correct
    and train_examples, int (runs of earlier versions lack these two).
    """
    return folder / "predictions" / f"seed_{seed}.npz"


def write_config(folder: Path, config: Config, seeds: list[int]) -> None:
    """Write `config.json`: the resolved recipe with every seed in the folder.

    `seed` is the smallest seed. `seeds` is the number of seeds if they are consecutive, otherwise their list.

    Args:
        folder: the run folder.
        config: the recipe.
        seeds: in order, at least one.
    """
    consecutive = seeds[-1] - seeds[0] == len(seeds) - 1
    table = config.model_dump(mode="json") | {
        "seed": seeds[0],
        "seeds": len(seeds) if consecutive else seeds,
    }
    write_text(folder / "config.json", json.dumps(table, indent=1))


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write `run.json`."""
    write_text(folder / "run.json", json.dumps(metadata, indent=1))


def write_rows(folder: Path, rows: Rows) -> None:
    """Replaces `metrics.jsonl`; rows have `seed`, the columns of TRAINED, and those of EVALUATED after their split."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(folder: Path) -> tuple[Rows, int | None]:
    """The whole lines of `metrics.jsonl`, and the number of the first that is damaged, counted from 1."""
    file = folder / "metrics.jsonl"
    rows, damaged = [], None
    for number, line in enumerate(read_bytes(file).splitlines() if file.exists() else [], start=1):
        try:
            rows.append(as_row(parse_json(line)))
        except ValueError:
            damaged = damaged or number
    return rows, damaged


def as_row(value: Any) -> dict[str, Any]:
    """Check a row of `metrics.jsonl`: numbers by name, its seed and epoch whole and from 0 to 2**32 - 1.

    Raises:
        ValueError: it is not such a row.
    """
    whole = isinstance(value, dict) and all(
        type(value.get(key)) is int for key in ("seed", "epoch")
    )
    if not whole or not 0 <= value["seed"] < 2**32 or not 0 <= value["epoch"] < 2**32:
        raise ValueError("a row of metrics.jsonl has no seed or epoch")
    if not all(
        type(number) in (int, float) and abs(number) <= LARGEST_NUMBER for number in value.values()
    ):
        raise ValueError("a row of metrics.jsonl holds something else than numbers")
    return {"seed": value["seed"], "epoch": value["epoch"]} | value


def write_predictions(
    folder: Path,
    seed: int,
    epoch: int,
    labels: np.ndarray,
    logits: np.ndarray,
    train: tuple[int, int],
) -> None:
    """Write the predictions of a seed after an epoch.

    Args:
        folder: run folder.
        seed: the seed.
        epoch: number of the epoch, from 0.
        labels: uint8[N] of the evaluated images.
        logits: float32[N, 10] of the evaluated images.
        train: the number of training images classified correctly in evaluation mode, and the number of them evaluated.
    """
    arrays = {
        "epoch": np.int64(epoch),
        "labels": labels,
        "predicted": logits.argmax(axis=-1).astype(np.uint8),
        "probabilities": np.round(softmax(logits, axis=-1), 4).astype(
            np.float16
        ),  # rounded they pack to a third
        "train_correct": np.int64(train[0]),
        "train_examples": np.int64(train[1]),
    }
    write_npz(predictions_file(folder, seed), arrays)


def read_predictions(file: Path) -> dict[str, np.ndarray]:
    """Read the predictions of a seed, see `predictions_file`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, or holds something else.
    """
    kept = read_npz(file)
    if missing := [
        name for name in ("epoch", "labels", "predicted", "probabilities") if name not in kept
    ]:
        raise ValueError(f"{file.name} holds no {missing[0]}")
    epoch, labels, predicted = kept["epoch"], kept["labels"], kept["predicted"]
    count = labels.size
    if epoch.shape or epoch.dtype.kind not in "iu":
        raise ValueError(f"{file.name} holds no number of an epoch")
    if not (
        labels.dtype == predicted.dtype == np.uint8 and labels.shape == predicted.shape == (count,)
    ):
        raise ValueError(f"{file.name} holds no labels and predictions")
    if (kept["probabilities"].dtype, kept["probabilities"].shape) != (
        np.float16,
        (count, 10),
    ) or not count:
        raise ValueError(f"{file.name} holds no probabilities of ten classes")
    probabilities = kept["probabilities"]
    if (
        max(labels.max(), predicted.max()) > 9
        or not ((probabilities >= 0) & (probabilities <= 1)).all()
    ):
        raise ValueError(f"{file.name} holds something else than digits and their probabilities")
    if "train_correct" in kept:
        correct, examples = kept["train_correct"], kept.get("train_examples", np.float64(0))
        whole = all(each.shape == () and each.dtype.kind in "iu" for each in (correct, examples))
        if not whole or not 0 <= correct <= examples or not examples:
            raise ValueError(f"{file.name} holds no count of training images")
    return kept


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write `images.npz`, the evaluated images that a report shows: the first of each class, and those that a seed got
    wrong. index int64[K], images uint8[K, 28, 28]. A seed's predictions that are damaged or of other images are left
    out."""
    shown = {int(np.argmax(labels == label)) for label in np.unique(labels)}
    for file in folder.glob("predictions/seed_*.npz"):
        with suppress(OSError, ValueError):
            kept = read_predictions(file)
            if np.array_equal(kept["labels"], labels):
                shown |= set(np.flatnonzero(kept["predicted"] != labels).tolist())
    index = np.array(sorted(shown))
    write_npz(folder / "images.npz", {"index": index, "images": images[index, :, :, 0]})
