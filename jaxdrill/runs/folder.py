"""The run folder: its files, their columns, and the one writer of each. `reader` reads a whole run. Neither needs JAX.

`config.json` is the resolved recipe, `run.json` what made the run, `metrics.jsonl` a line for each epoch and seed,
`predictions/` each seed's answers after the last epoch, `images.npz` the images that a report shows.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import softmax

from jaxdrill.files import parse_json, read_bytes, write_text
from jaxdrill.tensors import read_npz, write_npz

FORMAT = 3  # it grows when a reader of the older one would go wrong
# What to do if a run cannot be continued.
START_OVER = "Pass --restart to archive that run and start over, or pass another --workdir."
TRAINED = ("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "seconds")
EVALUATED = ("loss", "accuracy", "examples")  # in the file `test_loss` or `validation_loss` and so on


class Metadata(BaseModel):
    """What every reader may count on in `run.json`, which says more."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    command: list[str]
    parameters: int
    dataset: str
    dataset_sha256: str
    split: Literal["test", "validation"]
    versions: dict[str, str]
    devices: list[str]
    processor: str
    git_commit: str | None
    earlier_sessions: list[dict[str, Any]]
    seconds: dict[str, float]


Rows = list[dict[str, Any]]


def predictions_file(folder: Path, seed: int) -> Path:
    """Of one seed, after its last epoch: epoch int, labels uint8[N], predicted uint8[N] and probabilities
    float16[N, 10], rounded to four decimals, of the evaluated images."""
    return folder / "predictions" / f"seed_{seed}.npz"


def weights_file(folder: Path, seed: int) -> Path:
    """Of one seed, after its last epoch: see `weights`."""
    return folder / "weights" / f"seed_{seed}.safetensors"


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
    """A row of `metrics.jsonl`, if a value is one: finite numbers by name, those of its seed and epoch whole.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict) or not all(isinstance(value.get(key), int) for key in ("seed", "epoch")):
        raise ValueError("a row of metrics.jsonl has no seed or epoch")
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in value.values()):
        raise ValueError("a row of metrics.jsonl holds something else than numbers")
    return {"seed": value["seed"], "epoch": value["epoch"]} | value


def write_predictions(folder: Path, seed: int, epoch: int, labels: np.ndarray, logits: np.ndarray) -> None:
    """Writes the predictions' file of a seed, from its logits float32[N, 10] after an epoch."""
    arrays = {
        "epoch": np.int64(epoch),
        "labels": labels,
        "predicted": logits.argmax(axis=-1).astype(np.uint8),
        "probabilities": np.round(softmax(logits, axis=-1), 4).astype(np.float16),  # rounded they pack to a third
    }
    write_npz(predictions_file(folder, seed), arrays)


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes `images.npz`, the evaluated images that a report shows: the first of each class, and those that a seed got
    wrong. index int64[K], images uint8[K, 28, 28]."""
    shown = {int(np.argmax(labels == label)) for label in np.unique(labels)}
    for file in folder.glob("predictions/seed_*.npz"):
        shown |= set(np.flatnonzero(read_npz(file)["predicted"] != labels).tolist())
    index = np.array(sorted(shown))
    write_npz(folder / "images.npz", {"index": index, "images": images[index, :, :, 0]})
