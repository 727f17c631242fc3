"""Checkpoints of the progress of seeds trained together: safetensors files that are replaced whole, with a sum.

Not Orbax: the state of a network of this size is one small file, which one process writes and can check to the last
bit, and for which several hosts need no shared folder.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxdrill import array_files
from jaxdrill.array_files import Arrays
from jaxdrill.errors import RunError, print_error
from jaxdrill.files import parse_json
from jaxdrill.runs.folder import START_OVER, as_row

KEPT = 2  # checkpoints of a group: if the latest is damaged, the one before it is used


class Metadata(BaseModel):
    """What is saved with the arrays, for one."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1)
    rows: list[dict[str, Any]]
    identity: dict[str, Any]
    epoch_seconds: float = Field(ge=0, le=1e12)
    layout: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a group of seeds."""

    file: Path
    step: int  # optimiser steps done
    metadata: dict[str, Any]  # `seeds`, and whatever else was saved with it
    arrays: Arrays  # of the progress, by path in its tree, each with the group's seeds as its first axis

    @property
    def seeds(self) -> list[int]:
        """The seeds of the group, in the order of the arrays' first axis."""
        return self.metadata["seeds"]


class Checkpoints:
    """The writer of one group's checkpoints, into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved_at, self._save_seconds = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Whether a save now would take less than a tenth of the time since the last one."""
        return time.perf_counter() - self._saved_at > 10 * self._save_seconds

    def save(self, step: int, arrays: Arrays, metadata: dict[str, Any]) -> None:
        """Returns when the checkpoint is complete; a kill before that leaves those that were there.

        Args:
            step: optimiser steps done.
            arrays: of the progress (`named`).
            metadata: what is kept with it, as JSON.

        Raises:
            OSError: it cannot be written.
        """
        began = time.perf_counter()
        about = {"step": f"{step}", "metadata": json.dumps(metadata)}
        array_files.write(self.folder / f"step_{step}.safetensors", arrays, about)
        for file in _files(self.folder)[KEPT:]:
            file.unlink(missing_ok=True)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began


def named(progress: Any) -> Arrays:
    """The arrays of a tree in memory, by their paths."""
    return {
        jax.tree_util.keystr(path): np.asarray(a)
        for path, a in jax.tree_util.tree_leaves_with_path(progress)
    }


def latest(folder: Path) -> Checkpoint | None:
    """The latest whole checkpoint of a group; None if there is none. Damaged ones are named.

    Raises:
        RunError: all are damaged.
    """
    damaged = []
    for file in _files(folder):
        try:
            checkpoint = _read(file)
        except (FileNotFoundError, RunError) as error:
            damaged.append(f"{error}")
            continue
        for what in damaged:
            print_error(
                f"warning: {what}; the checkpoint before it, of step {checkpoint.step}, is used"
            )
        return checkpoint
    if damaged:
        raise RunError(
            f"{damaged[0]}; there is no whole one in {folder}: delete it to start these seeds afresh"
        )
    return None


def select(checkpoint: Checkpoint, template: Any, seeds: list[int]) -> Any:
    """The progress of these seeds, of those in the checkpoint, as a tree like `template` of arrays in memory.

    Raises:
        RunError: it is not one of such a tree.
    """
    rows = np.array([checkpoint.seeds.index(seed) for seed in seeds])

    def restored(path: Any, like: Any) -> np.ndarray:
        name, shape = jax.tree_util.keystr(path), (len(checkpoint.seeds), *like.shape[1:])
        array = checkpoint.arrays.get(name)
        if array is None or (array.shape, array.dtype) != (shape, like.dtype):
            found = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
            raise RunError(f"{checkpoint.file} is of another network: {name} {found}. {START_OVER}")
        return array[rows]

    return jax.tree_util.tree_map_with_path(restored, template)


def _files(folder: Path) -> list[Path]:
    """A group's checkpoints, the latest first."""
    steps = {file: file.stem.removeprefix("step_") for file in folder.glob("step_*.safetensors")}
    return sorted(
        (file for file, step in steps.items() if step.isdecimal()),
        key=lambda file: -int(steps[file]),
    )


def _read(file: Path) -> Checkpoint:
    arrays, about = array_files.read(file)
    try:
        metadata = parse_json(about["metadata"])
        Metadata.model_validate(metadata)
        metadata["rows"] = [as_row(row) for row in metadata["rows"]]
        if not (about["step"].isdecimal() and file.stem == f"step_{int(about['step'])}"):
            raise ValueError("its step is not that of its name")
        if any(array.shape[:1] != (len(metadata["seeds"]),) for array in arrays.values()):
            raise ValueError("its arrays are not of its seeds")
        return Checkpoint(file, int(about["step"]), metadata, arrays)
    except (ValueError, KeyError) as error:
        what = f"{error}"
        if isinstance(error, ValidationError):
            what = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
        raise RunError(f"{file} is damaged ({what})") from error
