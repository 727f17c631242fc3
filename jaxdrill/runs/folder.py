"""The layout of a run folder: the names of its files, and the functions to write and read them.

`config.json` is the resolved recipe, `run.json` describes how the run was made, `metrics.jsonl` has
one row per epoch and seed, `predictions/` and `weights/` belong to the last epoch of each seed, and
`images.npz` has the images that a report shows. See also `checkpoints` and `progress`.

`reader` reads the folder of a finished run as a whole. Neither module imports JAX.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import softmax

from jaxdrill.array_files import Arrays, read_npz, write_npz
from jaxdrill.config import from_file
from jaxdrill.config.config import Config
from jaxdrill.errors import RunError, UsageError
from jaxdrill.files import parse_json, read_bytes, read_json, write_text

FORMAT = 3  # Increased when a reader of the older format would misread the files.
CONFIG, METADATA, METRICS, IMAGES = "config.json", "run.json", "metrics.jsonl", "images.npz"
NAMES = (CONFIG, METADATA, METRICS, IMAGES, "predictions", "weights", "checkpoints", "tensorboard")
CHECKPOINTS = "checkpoints/seed*"  # pattern: one folder per group of seeds
START_OVER = "Pass --restart to archive that run and start over, or pass another --workdir."
RERUN = "Rerun the command that trained the run, which writes the file again."
TRAINED = ("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "seconds")
EVALUATED = ("loss", "accuracy", "examples")
PREDICTIONS = {  # in predictions/seed_S.npz, of N evaluated images
    "epoch": "int[]",
    "labels": "uint8[N]",
    "predicted": "uint8[N]",
    "probabilities": "float16[N, 10]",
}

Rows = list[dict[str, Any]]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Number = Annotated[int | float, Field(ge=-1e30, le=1e30)]  # Statistics can square and add these.


class Strict(BaseModel):
    """A JSON object whose values are not converted. Numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Row(Strict):
    """One row of `metrics.jsonl`: a seed, an epoch from 0, and other numbers by name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]  # pyright: ignore[reportIncompatibleVariableOverride]
    seed: Seed
    epoch: Seed


class Session(Strict):
    """A session of a run."""

    versions: dict[str, str]
    devices: list[str] = Field(min_length=1)
    processor: str
    git_commit: str | None
    command: list[str] = []  # Older versions did not record the commands of earlier sessions.
    seeds: list[int] = []  # requested by the command; older versions did not record them


class Seconds(Strict):
    """The duration of each phase, summed over all sessions."""

    data: float = Field(ge=0)
    compile: float = Field(ge=0)
    train: float = Field(ge=0)
    evaluation: float = Field(ge=0)


class RunMetadata(Session):
    """The fields of `run.json` that readers rely on. The file contains more."""

    command: list[str]  # pyright: ignore[reportGeneralTypeIssues]
    parameters: int = Field(ge=0, lt=2**63)
    dataset: str
    dataset_sha256: str
    evaluated_sha256: str | None = None  # Older versions did not record it.
    split: Literal["test", "validation"]
    earlier_sessions: list[Session]
    seconds: Seconds


@contextmanager
def explain_damage(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an error of reading or validating a file into a RunError of one line.

    Args:
        path: the file or folder that the message names.
        advice: complete sentences that tell the user what to do.
    """
    try:
        yield
    except (OSError, ValueError, UsageError) as error:
        reason = f"{error}"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise RunError(f"{path} is damaged ({reason}). {advice}".rstrip()) from error


def predictions_file(folder: Path, seed: int) -> Path:
    """Return the path of a seed's predictions after its last epoch; see `write_predictions`."""
    return folder / "predictions" / f"seed_{seed}.npz"


def write_config(folder: Path, config: Config, seeds: list[int]) -> None:
    """Write `config.json`: the resolved recipe with every seed in the folder.

    `seed` is the smallest seed. `seeds` is the number of seeds if they are consecutive, otherwise
    the list of all seeds. The argument `seeds` is in ascending order, and not empty.
    """
    consecutive = seeds[-1] - seeds[0] == len(seeds) - 1
    table = config.model_dump(mode="json")
    table |= {"seed": seeds[0], "seeds": len(seeds) if consecutive else seeds}
    write_text(folder / CONFIG, json.dumps(table, indent=1))


def read_config(folder: Path) -> Config:
    """Read the recipe of a run folder.

    Raises:
        RunError: `config.json` is missing or damaged.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise RunError(
            f"{folder} is not a run folder: {CONFIG} is missing. "
            "Pass a folder written by jaxdrill train."
        )
    with explain_damage(file, "Train the recipe again into another folder."):
        return from_file(file)


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Replace `run.json`; `provenance.describe_run` returns its content."""
    write_text(folder / METADATA, json.dumps(metadata, indent=1))


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read and check `run.json`.

    Returns:
        The whole content of the file. The fields of `RunMetadata` are valid.

    Raises:
        RunError: the file is missing or damaged, or another version of jaxdrill wrote it.
    """
    file = folder / METADATA
    with explain_damage(file, f"Delete it. {RERUN}"):
        metadata = read_json(file)
        if not isinstance(metadata, dict):
            raise ValueError("it is not a JSON object")
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"{folder} was written by another version of jaxdrill (its format is "
                f"{metadata.get('format', 1)}, this one reads {FORMAT}). "
                f"Use that version to read or resume it. {START_OVER}"
            )
        RunMetadata.model_validate(metadata)
    return metadata


def write_rows(folder: Path, rows: Rows) -> None:
    """Replace `metrics.jsonl`."""
    write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(folder: Path) -> tuple[Rows, int | None]:
    """Read `metrics.jsonl`, which may be missing.

    Returns:
        The valid rows, and the number of the first damaged line, counted from 1, or None.

    Raises:
        OSError: the file cannot be read.
    """
    file = folder / METRICS
    rows, damaged = [], None
    for number, line in enumerate(read_bytes(file).splitlines() if file.exists() else [], start=1):
        try:
            rows.append(Row.model_validate(parse_json(line)).model_dump())
        except ValueError:
            damaged = damaged or number
    return rows, damaged


def write_predictions(
    folder: Path,
    seed: int,
    epoch: int,
    labels: np.ndarray,
    logits: np.ndarray,
    train: tuple[int, int],
) -> None:
    """Write the predictions of a seed after an epoch.

    The file contains PREDICTIONS, and the integers train_correct and train_examples, which older
    versions did not write.

    Args:
        folder: the run folder.
        seed: the seed.
        epoch: from 0.
        labels: uint8[N] of the evaluated images.
        logits: float32[N, 10] of the evaluated images.
        train: the number of correctly classified training images, and of all that were evaluated.
    """
    probabilities = np.round(
        softmax(logits, axis=-1), 4
    )  # Rounding makes the file 3 times smaller.
    arrays = {
        "epoch": np.int64(epoch),
        "labels": labels,
        "predicted": logits.argmax(axis=-1).astype(np.uint8),
        "probabilities": probabilities.astype(np.float16),
        "train_correct": np.int64(train[0]),
        "train_examples": np.int64(train[1]),
    }
    write_npz(predictions_file(folder, seed), arrays)


def read_predictions(file: Path) -> Arrays:
    """Read the predictions of a seed; see `write_predictions`.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is damaged.
    """
    arrays = read_npz(file)
    check_arrays(arrays, PREDICTIONS)
    probabilities = arrays["probabilities"]
    if not probabilities.size or max(arrays["labels"].max(), arrays["predicted"].max()) > 9:
        raise ValueError("labels and predicted are not classes from 0 to 9")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities are not between 0 and 1")
    if "train_correct" in arrays:
        check_arrays(arrays, {"train_correct": "int[]", "train_examples": "int[]"})
        correct, examples = arrays["train_correct"], arrays["train_examples"]
        if not 0 <= correct <= examples or not examples:
            raise ValueError(f"train_correct is {correct} of {examples} images")
    return arrays


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write `images.npz`: the first evaluated image of each class, and the misclassified images.

    The file contains index int64[K] and images uint8[K, 28, 28]. Predictions that are damaged or
    belong to other images are skipped. `images` is uint8[N, 28, 28, 1], `labels` uint8[N].
    """
    shown = {int(np.argmax(labels == label)) for label in np.unique(labels)}
    for file in folder.glob("predictions/seed_*.npz"):
        with suppress(OSError, ValueError):
            arrays = read_predictions(file)
            if np.array_equal(arrays["labels"], labels):
                shown |= set(np.flatnonzero(arrays["predicted"] != labels).tolist())
    index = np.array(sorted(shown))
    write_npz(folder / IMAGES, {"index": index, "images": images[index, :, :, 0]})


def check_arrays(arrays: Arrays, expected: dict[str, str]) -> None:
    """Check the dtype and shape of arrays.

    Args:
        arrays: by name; others are ignored.
        expected: by name, such as `uint8[N]`. `int` is any integer dtype, and `N` the size of the
            first array with an N.

    Raises:
        ValueError: an array is missing, or has another dtype or shape.
    """
    sizes = [arrays[name].size for name, kind in expected.items() if "N" in kind and name in arrays]
    for name, kind in expected.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        array = arrays[name]
        dtype = "int" if kind.startswith("int[") and array.dtype.kind in "iu" else array.dtype
        kind = kind.replace("N", f"{sizes[0]}") if sizes else kind
        if (found := f"{dtype}{[*array.shape]}") != kind:
            raise ValueError(f"{name} is {found}; expected {kind}")
