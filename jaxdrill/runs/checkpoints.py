"""Checkpoints of the progress of seeds trained together, through Orbax: atomic, and only the latest is kept."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdrill.errors import RunError
from jaxdrill.training.program import Program
from jaxdrill.training.step import Progress

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax 0.11 warns of its own threads at each save
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # where Orbax's tasks leave what one error says already

LEFTOVERS = ("Event loop is closed", "See full TensorStore details")


@dataclass(frozen=True)
class Checkpoint:
    """The latest checkpoint of a group of seeds."""

    folder: Path  # of the group
    step: int  # optimiser steps done
    metadata: dict[str, Any]  # `seeds`, and whatever else was saved with it

    @property
    def seeds(self) -> list[int]:
        """The seeds of the group, in the order of the arrays' first axis."""
        return self.metadata["seeds"]


class Checkpoints:
    """The checkpoints of one group of seeds, in a folder, named by optimiser step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._saved_at, self._save_seconds = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Whether a save now would take less than a tenth of the time since the last one."""
        return time.perf_counter() - self._saved_at > 10 * self._save_seconds

    def save(self, step: int, progress: Progress, metadata: dict[str, Any]) -> None:
        """Returns when the checkpoint is complete; a kill before that leaves the previous one."""
        began = time.perf_counter()
        items = ocp.args.Composite(progress=ocp.args.StandardSave(progress), metadata=ocp.args.JsonSave(metadata))
        self._manager.save(step, args=items)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began


def latest(folder: Path) -> Checkpoint | None:
    """The latest whole checkpoint of a group; None if there is none.

    Raises:
        RunError: its metadata cannot be read.
    """
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    if not steps:
        return None
    path = folder / f"{max(steps)}"
    try:
        metadata = json.loads((path / "metadata" / "metadata").read_text(encoding="utf-8"))
        return Checkpoint(folder, max(steps), {"seeds": metadata["seeds"]} | metadata)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def restore(checkpoint: Checkpoint, program: Program, seeds: Sequence[int]) -> Progress:
    """The progress of these seeds, of those in the checkpoint, on the program's devices.

    Raises:
        RunError: the checkpoint is damaged.
    """
    path, count = checkpoint.folder / f"{checkpoint.step}", len(checkpoint.seeds)
    place = jax.sharding.SingleDeviceSharding(program.mesh.devices.flat[0])
    template = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype, sharding=place), program.template
    )
    _hide_leftovers()
    try:
        restored = ocp.StandardCheckpointer().restore((path / "progress").absolute(), template)
        rows = np.array([checkpoint.seeds.index(seed) for seed in seeds])
        return jax.device_put(jax.tree.map(lambda a: np.asarray(a)[rows], restored), program.sharding)
    except Exception as error:  # Orbax names no common type for damage
        raise _damaged(path, error) from error


@cache
def _hide_leftovers() -> None:
    """Keeps the errors of Orbax's other readers from being printed when one has failed; that one is told anyway."""

    def filtered(hook: Callable[..., None], error_of: Callable[..., Any]) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            if not any(text in f"{error_of(*arguments)}" for text in LEFTOVERS):
                hook(*arguments)

        return called

    sys.excepthook = filtered(sys.excepthook, lambda kind, error, trace: error)
    sys.unraisablehook = filtered(sys.unraisablehook, lambda unraisable: unraisable.exc_value)


def _damaged(path: Path, error: Exception) -> RunError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return RunError(f"{path} cannot be read ({why:.200}); delete it to start these seeds afresh")
