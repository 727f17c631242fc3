"""Checkpoints of the training state of a group of seeds, as safetensors files with a checksum.

Orbax is not used: the state of a network of this size is one small file. One process writes it and
verifies every bit, and several hosts need no shared folder.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pydantic import Field

from jaxdrill import array_files
from jaxdrill.array_files import Arrays
from jaxdrill.errors import RunError, print_error
from jaxdrill.files import parse_json
from jaxdrill.runs.folder import START_OVER, Row, Seed, Strict, explain_damage

KEPT = 2  # checkpoints per group: the older one is used if the latest is damaged


class CheckpointMetadata(Strict):
    """The metadata of a checkpoint."""

    seeds: list[Seed] = Field(min_length=1)
    rows: list[Row]
    identity: dict[str, Any]
    epoch_seconds: float = Field(ge=0, le=1e12)
    layout: str = ""  # of the devices; older versions did not record it


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a group of seeds."""

    file: Path
    step: int  # completed optimizer steps
    metadata: dict[str, Any]  # see `CheckpointMetadata`
    arrays: Arrays  # of the training state, by tree path; the first axis is the group's seeds

    @property
    def seeds(self) -> list[int]:
        """The seeds of the group, in the order of the first axis of the arrays."""
        return self.metadata["seeds"]


class Checkpoints:
    """Write the checkpoints of one group of seeds into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved_at, self._save_seconds = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Return True if saving now takes less than a tenth of the time since the last save."""
        return time.perf_counter() - self._saved_at > 10 * self._save_seconds

    def save(self, step: int, arrays: Arrays, metadata: dict[str, Any]) -> None:
        """Write a checkpoint and delete old ones. A process killed before the end loses none.

        Args:
            step: completed optimizer steps.
            arrays: the training state; see `named`.
            metadata: JSON values; see `CheckpointMetadata`.

        Raises:
            OSError: the checkpoint cannot be written.
        """
        began = time.perf_counter()
        texts = {"step": f"{step}", "metadata": json.dumps(metadata)}
        array_files.write(self.folder / f"step_{step}.safetensors", arrays, texts)
        for file in _files(self.folder)[KEPT:]:
            file.unlink(missing_ok=True)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began


def named(tree: Any) -> Arrays:
    """Return the leaves of a pytree as NumPy arrays by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(array) for path, array in leaves}


def latest(folder: Path) -> Checkpoint | None:
    """Read the latest undamaged checkpoint of a group, and warn of each damaged one.

    Returns:
        The checkpoint, or None if the folder contains none.

    Raises:
        RunError: all checkpoints are damaged.
    """
    damaged: list[str] = []
    for file in _files(folder):
        try:
            checkpoint = _read(file)
        except (FileNotFoundError, RunError) as error:
            damaged.append(f"{error}".rstrip("."))
            continue
        for problem in damaged:
            used = f"The checkpoint of step {checkpoint.step} is used instead."
            print_error(f"warning: {problem}. {used}")
        return checkpoint
    if damaged:
        raise RunError(
            f"{damaged[0]}. {folder} contains no undamaged checkpoint. "
            "Delete this folder to train its seeds again from the start."
        )
    return None


def select(checkpoint: Checkpoint, template: Any, seeds: list[int]) -> Any:
    """Restore the training state of some seeds of a checkpoint.

    Args:
        checkpoint: of a group that contains the seeds.
        template: a pytree of arrays or shapes with the seeds as first axis.
        seeds: to restore, in this order.

    Returns:
        A pytree like `template` of NumPy arrays.

    Raises:
        RunError: the checkpoint belongs to another network.
    """
    rows = np.array([checkpoint.seeds.index(seed) for seed in seeds])

    def restored(path: Any, like: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        older = f".state{name}".replace(".state.metrics", ".totals")  # before TrainState.metrics
        array = checkpoint.arrays.get(name, checkpoint.arrays.get(older))
        found = "missing" if array is None else f"{array.dtype}{[*array.shape]}"
        if array is None or found != f"{like.dtype}{[len(checkpoint.seeds), *like.shape[1:]]}":
            raise RunError(
                f"{checkpoint.file} belongs to another network: {name} is {found}. {START_OVER}"
            )
        return array[rows]

    return jax.tree_util.tree_map_with_path(restored, template)


def _files(folder: Path) -> list[Path]:
    """List the checkpoints of a group, the latest first."""
    steps = {file: file.stem.removeprefix("step_") for file in folder.glob("step_*.safetensors")}
    files = [file for file, step in steps.items() if step.isdecimal()]
    return sorted(files, key=lambda file: -int(steps[file]))


def _read(file: Path) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        FileNotFoundError: another process deleted the file.
        RunError: the file is damaged.
    """
    arrays, texts = array_files.read(file)
    step = texts.get("step", "")
    with explain_damage(file):
        metadata = CheckpointMetadata.model_validate(parse_json(texts.get("metadata", "")))
        if not step.isdecimal() or file.stem != f"step_{int(step)}":
            raise ValueError("its step is not the one in its name")
        if any(array.shape[:1] != (len(metadata.seeds),) for array in arrays.values()):
            raise ValueError("the first axis of an array is not its seeds")
        return Checkpoint(file, int(step), metadata.model_dump(exclude_unset=True), arrays)
